"""Attributes of pictures: named facts, gathered picture by picture and encoded as numbers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffeo.data.files import listing, suggestion

Value = float | str | None
Numbers = NDArray[np.float32]

MOST_TEXTS = 50  # a column of more is one of names or sentences, and says little by its values
MOST_CLASSES = 256  # of labels, each of which costs a column


class Collector:
    """Gathers the attributes of pictures as they come; memory holds a number for each."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._count = 0

    def append(self, attributes: Mapping[str, Value]) -> None:
        """Adds those of the next picture; what it lacks is missing there."""
        for name, value in attributes.items():
            self._columns.setdefault(name, _Column()).put(self._count, value)
        self._count += 1

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def encode(self) -> dict[str, Numbers]:
        """Columns `[pictures]` by name.

        A number is itself, and a text one column of 0 and 1 for each value, called NAME=VALUE. NaN
        stands for what is missing or infinite. A column of more than `MOST_TEXTS` texts is left
        out, and so is one that mixes texts and numbers, or that no picture has.
        """
        encoded: dict[str, Numbers] = {}
        for name, column in self._columns.items():
            if column.left_out or column.empty:
                continue
            values = column.values(self._count)
            if column.texts:
                # Dictionaries keep their order, so that the texts are those numbered 0, 1, ...
                columns = one_hot(name, values, list(column.texts))
                encoded |= {key: columns[key] for key in sorted(columns)}
            else:
                with np.errstate(over="ignore"):
                    number = values.astype(np.float32)
                number[~np.isfinite(number)] = np.nan
                encoded[name] = number
        return encoded


class _Column:
    """One attribute: its numbers, or for each text the number under which it was first seen."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.left_out = False
        self._numbers = array("d")

    def put(self, row: int, value: Value) -> None:
        if value is None or value != value or self.left_out:
            return
        if self._numbers and isinstance(value, str) != bool(self.texts):
            self._leave_out()
            return
        if isinstance(value, str):
            value = self.texts.setdefault(value, len(self.texts))
            if len(self.texts) > MOST_TEXTS:
                self._leave_out()
                return
        self._pad(row)
        self._numbers.append(value)

    @property
    def empty(self) -> bool:
        return not self._numbers

    def values(self, rows: int) -> NDArray[np.float64]:
        self._pad(rows)
        return np.array(self._numbers)

    def _pad(self, rows: int) -> None:
        if len(self._numbers) < rows:
            self._numbers.extend([math.nan] * (rows - len(self._numbers)))

    def _leave_out(self) -> None:
        self.left_out = True
        del self._numbers[:]


def one_hot(name: str, codes: NDArray[np.float64], values: list[str]) -> dict[str, Numbers]:
    """A column of 0 and 1 `[pictures]` for each value in their order, called NAME=VALUE.

    Args:
        name: of the attribute.
        codes: which of the values each picture has, NaN where that is missing `[pictures]`.
        values: the values 0, 1, ...; if there are more than `MOST_CLASSES`, there is no column.
    """
    if len(values) > MOST_CLASSES:
        return {}
    missing = np.isnan(codes)
    return {
        f"{name}={value}": np.where(missing, np.nan, codes == code).astype(np.float32)
        for code, value in enumerate(values)
    }


def encode_label(
    name: str, labels: Sequence[int | str | None], numbers: NDArray[np.int64], names: list[str]
) -> dict[str, Numbers]:
    """Labels as `one_hot` columns, or as one column of 0 and 1 if they are truth values.

    Args:
        name: of the column of labels.
        labels: as the source gives them.
        numbers: the same as numbers, -1 where there is none `[pictures]`.
        names: what the numbers 0, 1, ... are called.
    """
    codes = np.where(numbers < 0, np.nan, numbers)
    if names and all(isinstance(label, bool) for label in labels if label is not None):
        truth = [math.nan if label is None else float(label) for label in labels]
        return {name: np.array(truth, dtype=np.float32)}
    return one_hot(name, codes, names)


def as_matrix(columns: dict[str, Numbers], rows: int) -> Numbers:
    """Columns `[rows]` beside each other, `[rows, columns]`."""
    matrix = np.empty((rows, len(columns)), dtype=np.float32)
    for i, column in enumerate(columns.values()):
        matrix[:, i] = column
    return matrix


def choose(source: str, names: list[str], wanted: list[str]) -> list[str]:
    """The columns that a user means: by their names, or by that of a text for all its values.

    Args:
        source: named in messages.
        names: those there are.
        wanted: what the user wrote, such as `filled`, `shape` or `shape=circle`.

    Raises:
        ValueError: a name that is unknown or chosen twice.
    """
    chosen: list[str] = []
    for name in wanted:
        columns = [name] if name in names else [n for n in names if n.startswith(f"{name}=")]
        if not columns:
            if not names:
                raise ValueError(
                    f"{source}: its pictures have no attributes, and no '{name}': "
                    "leave out --data.context"
                )
            known = [*names, *dict.fromkeys(n.partition("=")[0] for n in names if "=" in n)]
            raise ValueError(
                f"{source} has no attribute '{name}'{suggestion(name, known)}: "
                f"it has {listing(names)}"
            )
        twice = [column for column in columns if column in chosen]
        if twice:
            raise ValueError(
                f"{source}: attribute '{twice[0]}' is chosen twice: name it once in --data.context"
            )
        chosen += columns
    return chosen


def check_present(source: str, columns: dict[str, Numbers]) -> None:
    """Refuses columns `[pictures]` by name of which some values are missing."""
    gaps = {name: int(np.isnan(column).sum()) for name, column in columns.items()}
    lacking = [f"{gap} of {len(columns[name])} lack '{name}'" for name, gap in gaps.items() if gap]
    if lacking:
        raise ValueError(
            f"{source}: not every picture has the context, {listing(lacking, 5)}: fill them in, or "
            "leave these out of --data.context"
        )

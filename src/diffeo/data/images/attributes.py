"""Attributes of images: gathered image by image, encoded as columns, and chosen as context."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.context import Category, ContextSpec, Number, Variable
from diffeo.data.files import listing, suggestion

Value = float | str | None
# For each attribute its columns `[images, 1]`, or `[images, values]` of a category.
Columns = dict[Variable, NDArray[np.float32]]

MOST_TEXTS = 50  # a column of more holds names or sentences, whose values are of little use
MOST_CLASSES = 256  # of labels, each of which costs a column


class Collector:
    """Gathers the attributes of images as they come; memory holds a number for each."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._count = 0

    def append(self, attributes: Mapping[str, Value]) -> None:
        """Adds those of the next image; what it lacks is missing there."""
        for name, value in attributes.items():
            self._columns.setdefault(name, _Column()).put(self._count, value)
        self._count += 1

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def encode(self) -> Columns:
        """The columns of each attribute; NaN stands for what is missing or infinite.

        A text is a category of its values in alphabetical order. An attribute of more than
        `MOST_TEXTS` texts is left out, as is one that mixes texts and numbers or that no image has.
        """
        encoded: Columns = {}
        for name, column in self._columns.items():
            if not column.numbers:
                continue
            column.pad(self._count)
            numbers = np.array(column.numbers)
            if column.texts:
                values = sorted(column.texts)
                ranks = np.argsort([column.texts[value] for value in values]).astype(float)
                known = ~np.isnan(numbers)
                numbers[known] = ranks[numbers[known].astype(int)]
                encoded[Category(name, tuple(values))] = one_hot(numbers, len(values))
            else:
                with np.errstate(over="ignore"):
                    number = numbers.astype(np.float32)
                number[~np.isfinite(number)] = np.nan
                encoded[Number(name)] = number[:, None]
        return encoded


class _Column:
    """One attribute: its numbers, or for each text the rank in which it was first seen."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.numbers = array("d")
        self._usable = True

    def put(self, row: int, value: Value) -> None:
        if value is None or value != value or not self._usable:
            return
        is_text = isinstance(value, str)
        self._usable = not self.numbers or is_text == bool(self.texts)
        if isinstance(value, str):
            value = self.texts.setdefault(value, len(self.texts))
        if self._usable and len(self.texts) <= MOST_TEXTS:
            self.pad(row)
            self.numbers.append(value)
        else:
            self._usable = False
            del self.numbers[:]

    def pad(self, rows: int) -> None:
        """Fill up to so many rows with missing values."""
        self.numbers.extend([math.nan] * (rows - len(self.numbers)))


def one_hot(numbers: NDArray[np.float64], values: int) -> NDArray[np.float32]:
    """Columns of 0 and 1 `[images, values]` of numbers `[images]`, NaN where these are."""
    columns = (numbers[:, None] == np.arange(values)).astype(np.float32)
    columns[np.isnan(numbers)] = np.nan
    return columns


def encode_label(
    name: str, labels: Sequence[int | str | None], numbers: NDArray[np.int64], names: list[str]
) -> Columns:
    """Labels as a category of at most `MOST_CLASSES` values, or truth values as a number.

    `numbers` are the same as numbers `[images]`, -1 where there is none, which `names` names.
    """
    if not 0 < len(names) <= MOST_CLASSES:
        return {}
    if all(isinstance(label, bool) for label in labels if label is not None):
        truth = [math.nan if label is None else float(label) for label in labels]
        return {Number(name): np.array(truth, dtype=np.float32)[:, None]}
    return {
        Category(name, tuple(names)): one_hot(np.where(numbers < 0, np.nan, numbers), len(names))
    }


def choose(source: str, attributes: ContextSpec, wanted: Sequence[str]) -> ContextSpec:
    """The context that a user means by names such as `filled`, `shape` or `shape=circle`.

    An attribute comes as it is; a single value of a category becomes a number, 0 or 1.

    Raises:
        ValueError: a name that is unknown or chosen twice.
    """
    known: dict[str, Variable] = {column: Number(column) for column in attributes.columns}
    known |= {variable.name: variable for variable in attributes.variables}
    chosen: list[Variable] = []
    for name in wanted:
        if not known:
            raise ValueError(
                f"{source}: its images have no attributes, no '{name}': leave out --data.context"
            )
        if name not in known:
            raise ValueError(
                f"{source} has no attribute '{name}'{suggestion(name, known)}: "
                f"it has {listing(attributes.columns)}"
            )
        before = {column for variable in chosen for column in variable.columns}
        twice = [column for column in known[name].columns if column in before]
        if twice:
            raise ValueError(
                f"{source}: attribute '{twice[0]}' is chosen twice: name it once in --data.context"
            )
        chosen.append(known[name])
    return ContextSpec(tuple(chosen))


def context_columns(
    source: str, attributes: ContextSpec, values: Tensor, context: ContextSpec
) -> Tensor:
    """The columns of a context `[images, width]` from those of all attributes `[images, columns]`.

    Categories of the context may have values that no image has.

    Raises:
        ValueError: an attribute that is unknown, or that an image lacks or has another value of.
    """
    columns = [
        torch.zeros(len(values)) if place is None else values[:, place]
        for variable in context.variables
        for place in _places(source, attributes, variable)
    ]
    found = torch.stack(columns, dim=1)
    gaps = zip(context.columns, found.isnan().sum(0).tolist(), strict=True)
    lacking = [f"{gap} of {len(values)} lack '{name}'" for name, gap in gaps if gap]
    if lacking:
        raise ValueError(
            f"{source}: not every image has the context, {listing(lacking, 5)}: fill them in, or "
            "leave these out of --data.context"
        )
    for variable, part in context.parts():
        if isinstance(variable, Number):
            continue
        if others := int((found[:, part] == 0).all(1).sum()):
            raise ValueError(
                f"{source}: {others} of {len(values)} have another '{variable.name}' than the "
                f"context, whose values are {listing(variable.values)}: leave these images out"
            )
    return found


def _places(source: str, attributes: ContextSpec, variable: Variable) -> Iterator[int | None]:
    """Where the columns of a variable are among those of the attributes; None for no image's."""
    own, part = next(
        (found for found in attributes.parts() if found[0].name == variable.name),
        (None, slice(0)),
    )
    if isinstance(variable, Category) and isinstance(own, Category):
        for value in variable.values:
            yield part.start + own.values.index(value) if value in own.values else None
    elif isinstance(variable, Number) and isinstance(own, Number):
        yield part.start
    elif isinstance(variable, Number) and variable.name in attributes.columns:
        yield attributes.columns.index(variable.name)
    else:
        choose(source, attributes, [variable.name])  # which knows better what is wrong
        raise ValueError(
            f"{source}: attribute '{variable.name}' is of another kind than the context's: give "
            "images with the attribute of the training"
        )

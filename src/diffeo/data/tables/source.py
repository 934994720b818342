"""A table that has been opened but not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from diffeo.data.files import CHUNK_VALUES, Array, check_columns

Chunk = dict[str, Array]


@dataclass(frozen=True)
class Source:
    """A table that has been opened but not read.

    Args:
        name: the source as the user wrote it, for messages.
        columns: the names of all its columns.
        read: `read(names, batch_rows)` yields chunks of rows: a `[rows]` array for each name.
        labels: the columns that are left out unless chosen by name.
        decimal: the decimal point of its text.
        frames: `frames(batch_rows)` yields DataFrames of all columns; None where those that `read`
            yields have types already.
        named: False where the file holds no column names, and only their order means anything.
    """

    name: str
    columns: list[str]
    read: Callable[[list[str], int], Iterator[Chunk]]
    labels: tuple[str, ...] = ()
    named: bool = True
    decimal: str = "."
    frames: Callable[[int], Iterator[Any]] | None = None

    def chunks(
        self, names: list[str], rows: int | None, batch_rows: int
    ) -> Iterator[tuple[int, Chunk]]:
        """Chunks of the first `rows` rows, each with the number of its first row, from 1."""
        done = 0
        for chunk in self.read(names, batch_rows if rows is None else min(rows, batch_rows)):
            if rows is not None:
                chunk = {name: column[: rows - done] for name, column in chunk.items()}
            if size := len(chunk[names[0]]):
                yield done + 1, chunk
            done += size
            if done == rows:
                return


def chunk_rows(most: int, columns: int) -> int:
    """How many rows to hold at once, of so many columns."""
    return max(1, min(most, CHUNK_VALUES // max(columns, 1)))


def check_names(name: str, columns: list[str]) -> list[str]:
    """Refuses names of columns that are too many, or two of them equal."""
    check_columns(name, len(columns))
    if len({*columns}) < len(columns):
        twice = next(column for i, column in enumerate(columns) if column in {*columns[:i]})
        raise ValueError(f"{name} has two columns named '{twice}': give each its own name")
    return columns

"""A table that has been opened but not read, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from diffeo.data.files import Array

Chunk = dict[str, Array]


@dataclass(frozen=True)
class Source:
    """A table that has been opened but not read.

    Args:
        name: the source as the user wrote it, for messages.
        columns: the names of all its columns.
        read: `read(names, batch_rows)` yields chunks of rows: a `[rows]` array for each name.
        labels: the columns that are left out unless chosen by name.
        named: False where the file holds no column names, and only their order means anything.
        drawn: True where a generator made the rows, and `rows` was how many it drew.
    """

    name: str
    columns: list[str]
    read: Callable[[list[str], int], Iterator[Chunk]]
    labels: tuple[str, ...] = ()
    named: bool = True
    drawn: bool = False

    @classmethod
    def in_memory(cls, name: str, columns: Chunk, **rest: Any) -> Self:
        """One whose columns `[rows]` are in memory already, or mapped there."""

        def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
            for start in range(0, len(next(iter(columns.values()))), batch_rows):
                yield {name: columns[name][start : start + batch_rows] for name in names}

        return cls(name, list(columns), read, **rest)

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

"""A source as a stream of batches, for scoring tables of any length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffeo.data.files import Chunk, Source, listing, suggestion
from diffeo.data.tables.columns import check_finite, check_numeric
from diffeo.data.tables.options import TableOptions, open_options

BATCH_ROWS = 65_536


def stream(
    source: str | TableOptions,
    columns: list[str],
    context: list[str] | None = None,
    batch_rows: int = BATCH_ROWS,
    delimiter: str | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """All rows of a source in their order, a batch at a time.

    Columns are picked by name, whatever else the source holds and in whatever order. Where it holds
    no names (.npy, or .npz without them), its columns are called `x0, x1, ...`, and other names are
    matched by position if there are as many as columns.

    Args:
        source: a source as in `TableOptions.source`, or options, of which `rows`, `noise`, `seed`
            and `delimiter` count as well.
        columns: the names of the features.
        context: the names of the context features.
        batch_rows: the most rows of a batch.
        delimiter: the character between the values of a CSV file; a comma by default.

    Returns:
        An iterator over `x` `[rows, features]` and `context` `[rows, context_features]` or None,
        both float32.

    Raises:
        ValueError: a source that cannot be read or lacks a column (at once), or a value that is no
            finite number (when its batch is reached).
    """
    if isinstance(source, str):
        source = TableOptions(source=source)
    if batch_rows < 1:
        raise ValueError(f"a batch of {batch_rows} rows is none: ask for at least one")
    opened = open_options(source, delimiter)
    names = _locate(opened, [*columns, *(context or [])])
    return _batches(opened, names, len(columns), batch_rows, source.rows)


def _batches(
    source: Source, names: list[str], features: int, batch_rows: int, rows: int | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    for first_row, chunk in numbered(source, names, rows, batch_rows):
        check_numeric(source.name, chunk, first_row, "the model takes it as a number")
        for name in names:
            check_finite(source.name, name, chunk[name], first_row)
        x = _tensor(chunk, names[:features])
        yield x, _tensor(chunk, names[features:]) if names[features:] else None


def _tensor(chunk: Chunk, names: list[str]) -> Tensor:
    values = np.empty((len(chunk[names[0]]), len(names)), dtype=np.float32)
    for i, name in enumerate(names):
        values[:, i] = chunk[name]
    return torch.from_numpy(values)


def numbered(
    source: Source, names: list[str], rows: int | None, batch_rows: int
) -> Iterator[tuple[int, Chunk]]:
    """Chunks of the first `rows` rows, each with the number of its first row, from 1."""
    done = 0
    for chunk in source.read(names, batch_rows if rows is None else min(rows, batch_rows)):
        if rows is not None:
            chunk = {name: column[: rows - done] for name, column in chunk.items()}
        size = len(chunk[names[0]])
        if size:
            yield done + 1, chunk
        done += size
        if done == rows:
            return


def _locate(source: Source, wanted: list[str]) -> list[str]:
    missing = [name for name in wanted if name not in source.columns]
    if not missing:
        return wanted
    if source.named:
        raise ValueError(
            f"{source.name} lacks the column '{missing[0]}'"
            f"{suggestion(missing[0], source.columns)}: it has {listing(source.columns)}"
        )
    if len(source.columns) != len(wanted):
        raise ValueError(
            f"{source.name} has {len(source.columns)} columns without names, and {len(wanted)} are "
            f"needed: save {listing(wanted)} in this order"
        )
    return source.columns

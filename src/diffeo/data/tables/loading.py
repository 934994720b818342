"""Tables as tensors: read, checked and split, or streamed batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffeo.context import ContextSpec, Number
from diffeo.data.datasets import Dataset, split_sizes
from diffeo.data.files import Array, listing, suggestion
from diffeo.data.tables.columns import (
    check_finite,
    check_numeric,
    check_spread,
    check_training,
    step_size,
)
from diffeo.data.tables.opening import open_table
from diffeo.data.tables.options import TableOptions, check_table_options
from diffeo.data.tables.source import Chunk, Source

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Split:
    """Rows of a table: `x` `[rows, features]`, `context` `[rows, context_features]` or None.

    Both are contiguous float32.
    """

    x: Tensor
    context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows at `indices` `[n]`, and their context."""
        return self.x[indices], None if self.context is None else self.context[indices]


@dataclass(frozen=True, kw_only=True)
class Table(Dataset[Split]):
    """A table in memory, split in three.

    Args:
        columns: the names of the features.
        steps: for each feature, the step over which to spread its values; 0.0 leaves it as it is.
        options: what the table was loaded with.
    """

    columns: list[str]
    steps: list[float]
    options: TableOptions = field(default_factory=TableOptions)

    @property
    def features(self) -> int:
        """How many columns are modelled."""
        return len(self.columns)


def load_table(options: TableOptions) -> Table:
    """Reads, checks and splits a table.

    The rows are permuted by `options.seed`, then split. Rows in messages count from 1.

    Raises:
        ValueError: options that contradict each other or the source, or a column without a density:
            not numeric, not finite, constant, or too fine for float32. One sentence, which names
            the source, the column and the remedy.
    """
    check_table_options(options)
    source = open_table(options)
    columns, context = choose_columns(source, options)
    parts = _read(source, [*columns, *context], options.rows)
    rows = sum(map(len, parts[columns[0]]))
    sizes = split_sizes(source.name, "row", rows, options.splits)
    order = np.random.default_rng(options.seed).permutation(rows)

    steps = {}
    tensors = []
    for names in (columns, context):
        values = np.empty((rows, len(names)), dtype=np.float32)
        for i, name in enumerate(names):
            # One column at a time in float64: its parts are dropped as its float32 copy is made.
            column = np.concatenate(parts.pop(name), dtype=np.float64)
            check_finite(source.name, name, column)
            check_spread(source.name, name, column)
            values[:, i] = column[order]
            check_training(source.name, name, values[: sizes[0], i])
            steps[name] = 0.0 if source.drawn else step_size(column)
        tensors.append(torch.split(torch.from_numpy(values), sizes))
    train, val, test = (
        Split(x, c if context else None) for x, c in zip(tensors[0], tensors[1], strict=True)
    )
    quantized = {name: steps[name] for name in columns if steps[name]}
    return Table(
        name=Path(options.source).stem,
        columns=columns,
        context=ContextSpec(tuple(map(Number, context))),
        train=train,
        val=val,
        test=test,
        steps=[steps[name] if options.dequantize else 0.0 for name in columns],
        notes=[] if options.dequantize or not quantized else [_note(source.name, quantized)],
        options=options,
    )


def choose_columns(source: Source, options: TableOptions) -> tuple[list[str], list[str]]:
    """The names of the columns to model and of those that are context."""
    context = list(options.context or [])
    for name in [*(options.columns or []), *context]:
        if name not in source.columns:
            raise ValueError(
                f"{source.name} has no column '{name}'{suggestion(name, source.columns)}: "
                f"it has {listing(source.columns)}"
            )
    if options.columns is not None:
        return list(options.columns), context
    columns = [name for name in source.columns if name not in {*context, *source.labels}]
    if not columns:
        raise ValueError(
            f"{source.name}: all columns are context and none is left to model: "
            "name fewer in --data.context"
        )
    if "" in columns:
        raise ValueError(
            f"{source.name}: column {source.columns.index('') + 1} has no name, as row numbers "
            "written along have none: name it, or choose the others with --data.columns"
        )
    return columns, context


def _read(source: Source, names: list[str], rows: int | None) -> dict[str, list[Array]]:
    parts: dict[str, list[Array]] = {name: [] for name in names}
    for first_row, chunk in source.chunks(names, rows, BATCH_ROWS):
        remedy = "choose numeric columns with --data.columns {numeric}, or encode it as numbers"
        check_numeric(source.name, chunk, first_row, remedy)
        for name in names:
            parts[name].append(chunk[name])
    if not parts[names[0]]:
        raise ValueError(f"{source.name} has no rows: there is nothing to learn from")
    return parts


def _note(source: str, steps: dict[str, float]) -> str:
    named = listing(f"'{name}' (step {step:.6g})" for name, step in steps.items())
    return (
        f"{source}: values repeat in {named}, which makes the density unbounded: "
        "`--data.dequantize true` spreads each value over its step."
    )


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
        source: as in `TableOptions.source`, or options, whose `rows`, `noise`, `seed` and
            `delimiter` count as well.
        columns: the names of the features.
        context: the names of the context features.
        batch_rows: the most rows of a batch.
        delimiter: the character between the values of a CSV file; a comma by default.

    Yields:
        `x` `[rows, features]` and `context` `[rows, context_features]` or None, both float32.

    Raises:
        ValueError: a source that cannot be read or lacks a column (at once), or a value that is no
            finite number (when its batch is reached).
    """
    options = TableOptions(source) if isinstance(source, str) else source
    if batch_rows < 1:
        raise ValueError(f"a batch of {batch_rows} rows is none: ask for at least one")
    if delimiter is not None:
        options = dataclasses.replace(options, delimiter=delimiter)
    opened = open_table(options)
    names = _locate(opened, [*columns, *(context or [])])
    return _batches(opened, names, len(columns), batch_rows, options.rows)


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


def _batches(
    source: Source, names: list[str], features: int, batch_rows: int, rows: int | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    for first_row, chunk in source.chunks(names, rows, batch_rows):
        check_numeric(source.name, chunk, first_row, "the model takes it as a number")
        for name in names:
            check_finite(source.name, name, chunk[name], first_row)
        x = _tensor(chunk, names[:features])
        yield x, _tensor(chunk, names[features:]) if names[features:] else None


def _tensor(chunk: Chunk, names: list[str]) -> Tensor:
    columns = [chunk[name].astype(np.float32) for name in names]
    return torch.from_numpy(np.stack(columns, axis=1))

"""Tables as tensors: read, checked and split, or streamed batch by batch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffeo.context import ContextSpec, Number
from diffeo.data.datasets import Dataset, split_sizes
from diffeo.data.files import Array, listing, suggestion
from diffeo.data.tables.csv_files import form_of
from diffeo.data.tables.grids import counts_rows, step_size
from diffeo.data.tables.opening import TableOptions, open_table
from diffeo.data.tables.source import Chunk, Source
from diffeo.data.tables.weighting import split_weights
from diffeo.schema import Schema
from diffeo.utils.ranges import Count, checked
from diffeo.utils.statistics import describe_far, far_values

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Split:
    """Rows of a table: `x` `[rows, features]`, `context` `[rows, context_features]` or None.

    Both are contiguous float32, and so are `weights` `[rows]`, where rows do not count alike. x of
    a table with a schema is float64, and NaN in empty cells.
    """

    x: Tensor
    context: Tensor | None = None
    weights: Tensor | None = None

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
        schema: what the features are, or None where all are plain numbers.
        conditions: what the context is, or None.
    """

    columns: list[str]
    steps: list[float]
    options: TableOptions = field(default_factory=TableOptions)
    schema: Schema | None = None
    conditions: Schema | None = None

    @property
    def features(self) -> int:
        """How many columns are modelled."""
        return len(self.columns)


def load_table(options: TableOptions) -> Table:
    """Reads, checks and splits a table.

    The rows are permuted by `options.seed`, then split. Rows in messages count from 1.

    Raises:
        ValueError: options that contradict each other or the source, or a column without a density:
            not numeric, not finite, constant, or too fine for float32.
    """
    source = open_table(options)
    if options.kinds is not None:
        raise ValueError(
            f"{source.name}: --data.kinds is for models of mixed tables: leave it out, or choose "
            "--model MixedFlow."
        )
    columns, context = choose_columns(source, options)
    names, given = [*columns, *context], [] if options.weights is None else [options.weights]
    chunks = []
    for first_row, chunk in source.chunks([*names, *given], options.rows, BATCH_ROWS):
        remedy = "choose numeric columns with --data.columns {numeric}, or encode it as numbers"
        check_numeric(source, chunk, first_row, remedy)
        chunks.append(chunk)
    if not chunks:
        raise ValueError(f"{source.name} has no rows: there is nothing to learn from")
    rows = sum(len(chunk[names[0]]) for chunk in chunks)
    sizes = split_sizes(source.name, "row", rows, options.splits)
    order = np.random.default_rng(options.seed).permutation(rows)

    values, notes = np.empty((rows, len(names)), dtype=np.float32), []
    steps: dict[str, float] = {}
    for name in names:
        # One column at a time in float64: its parts are dropped as its float32 copy is made.
        column = np.concatenate([chunk.pop(name) for chunk in chunks], dtype=np.float64)
        if options.columns is None and name in columns and counts_rows(column) and len(columns) > 1:
            columns.remove(name)
            which = f"column '{name}'" if name else "the column without a name"
            notes.append(
                f"{source.name}: {which} counts the rows and is left out: choose the columns with "
                "--data.columns to model it."
            )
            continue
        if not name:
            raise ValueError(
                f"{source.name}: column {source.columns.index('') + 1} has no name: name it, or "
                "choose the others with --data.columns"
            )
        i = len(steps)
        check_finite(source.name, name, column)
        values[:, i] = column[order]
        _check_spread(source.name, name, column, values[: sizes[0], i])
        steps[name] = step_size(column)
        one, label = torch.from_numpy(column)[:, None], f"{source.name}: column '{name}'"
        notes += describe_far(one, far_values(one), [label], first=1)
    x, c = torch.from_numpy(values[:, : len(steps)]).split([len(columns), len(context)], dim=1)
    repeated = [f"'{name}' (step {steps[name]:.6g})" for name in columns if steps[name]]
    if repeated and not options.dequantize:
        notes.append(
            f"{source.name}: values repeat in {listing(repeated)}, which makes the density "
            "unbounded: `--data.dequantize true` spreads each value over its step."
        )
    w: list[Tensor | None] = [None] * len(sizes)
    for name in given:
        column = np.concatenate([chunk.pop(name) for chunk in chunks], dtype=np.float64)
        check_finite(source.name, name, column)
        w = [*split_weights(source.name, name, column, order, sizes)]
        notes.append(f"{source.name}: rows are weighted by column '{name}'.")
    train, val, test = (
        Split(x.contiguous(), c.contiguous() if context else None, w)
        for x, c, w in zip(x.split(sizes), c.split(sizes), w, strict=True)
    )
    return Table(
        name=short_name(options),
        columns=columns,
        context=ContextSpec(tuple(map(Number, context))),
        train=train,
        val=val,
        test=test,
        steps=[steps[name] if options.dequantize else 0.0 for name in columns],
        notes=notes,
        options=options,
    )


def short_name(options: TableOptions) -> str:
    """The name of a table, for titles and folders."""
    return Path(options.source).name.partition(".")[0] or Path(options.source).stem


def choose_columns(source: Source, options: TableOptions) -> tuple[list[str], list[str]]:
    """The names of the columns to model and of those that are context."""
    name, context = source.name, list(options.context or [])
    extra = [] if options.weights is None else [options.weights]
    chosen = [*(options.columns or []), *context, *extra]
    for i, column in enumerate(chosen):
        if column in chosen[:i]:
            other = "--data.context" if i < len(chosen) - len(extra) else "--data.weights"
            raise ValueError(
                f"{name}: column '{column}' is chosen twice: "
                f"name it once, in --data.columns or in {other}"
            )
        if column not in source.columns:
            raise ValueError(
                f"{name} has no column '{column}'{suggestion(column, source.columns)}: "
                f"it has {listing(source.columns)}"
            )
    columns = options.columns
    if columns is None:
        others = {*context, *extra, *source.labels}
        columns = [column for column in source.columns if column not in others]
    if not columns:
        raise ValueError(
            f"{name}: no column is left to model: name at least one in --data.columns, or fewer in "
            "--data.context"
        )
    return list(columns), context


@checked
def stream(
    source: str | TableOptions,
    columns: list[str],
    context: list[str] | None = None,
    batch_rows: Count = BATCH_ROWS,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """All rows of a source in their order, a batch at a time.

    Columns are picked by name, whatever else the source holds and in whatever order. Where it holds
    no names (.npy, or .npz without them), its columns are called `x0, x1, ...`, and other names are
    matched by position if there are as many as columns.

    Args:
        source: as in `TableOptions.source`, or options, whose `rows`, `noise` and `seed` count too.
        columns: the names of the features.
        context: the names of the context features.
        batch_rows: the most rows of a batch.

    Yields:
        `x` `[rows, features]` and `context` `[rows, context_features]` or None, both float32.

    Raises:
        ValueError: a source that cannot be read or lacks a column (at once), or a value that is no
            finite number (when its batch is reached).
    """
    options = TableOptions(source) if isinstance(source, str) else source
    opened = open_table(options)
    names = locate(opened, [*columns, *(context or [])])

    def batches() -> Iterator[tuple[Tensor, Tensor | None]]:
        for first_row, chunk in opened.chunks(names, options.rows, batch_rows):
            check_numeric(opened, chunk, first_row, "the model takes it as a number")
            for name in names:
                check_finite(opened.name, name, chunk[name], first_row)
            x = _tensor(chunk, names[: len(columns)])
            yield x, _tensor(chunk, names[len(columns) :]) if context else None

    return batches()


def locate(source: Source, wanted: list[str]) -> list[str]:
    """What the source calls the wanted columns."""
    missing = [name for name in wanted if name not in source.columns]
    if missing and source.named:
        raise ValueError(
            f"{source.name} lacks the column '{missing[0]}'"
            f"{suggestion(missing[0], source.columns)}: it has {listing(source.columns)}"
        )
    if missing and len(source.columns) != len(wanted):
        raise ValueError(
            f"{source.name} has {len(source.columns)} columns without names, and {len(wanted)} are "
            f"needed: save {listing(wanted)} in this order"
        )
    return source.columns if missing else wanted


def _tensor(chunk: Chunk, names: list[str]) -> Tensor:
    columns = [chunk[name].astype(np.float32) for name in names]
    return torch.from_numpy(np.stack(columns, axis=1))


def check_numeric(source: Source, chunk: Chunk, first_row: int, remedy: str) -> None:
    """Refuses text, categories, truth values and dates, since none has a density.

    `{numeric}` in the remedy, the end of the message, becomes the columns that are numbers.
    """
    numeric = [name for name, column in chunk.items() if column.dtype.kind in "iuf"]
    for name, column in chunk.items():
        if name not in numeric and len(column):
            row, value = _example(column)
            names = shlex.quote(",".join(numeric) or "a,b,c")
            remedy = remedy.replace("{numeric}", names)
            form = form_of(column, source.decimal) if column.dtype.kind in "OUT" else None
            if form is not None:
                remedy = f"write `{form}` if that is a number"
            raise ValueError(
                f"{source.name}: column '{name}' is not numeric, row {first_row + row} holds "
                f"'{value}': {remedy}"
            )


def _example(column: Array) -> tuple[int, str]:
    """The first value that cannot be read as a number, or the first of all if each can."""
    found = 0
    for row, value in enumerate(column):
        try:
            float("nan" if value is None else value)
        except (TypeError, ValueError):
            found = row
            break
    return found, " ".join(str(column[found])[:1_000].split())[:40]


def check_finite(source: str, name: str, column: Array, first_row: int = 1) -> None:
    """Refuses a column `[rows]` with values that are missing, infinite or infinite in float32."""
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(column.astype(np.float32))
    if bad.any():
        count, row = int(bad.sum()), int(bad.argmax())
        rows = "1 row" if count == 1 else f"{count} rows"
        raise ValueError(
            f"{source}: column '{name}' has {rows} without a finite float32 value, first in row "
            f"{first_row + row} ({column[row]:g}): remove such rows or fill them in"
        )


def _check_spread(source: str, name: str, column: Array, training: Array) -> None:
    """Refuses a column whose rows, or whose rows for training, are equal or nearly so."""
    low, high, spread = float(column.min()), float(column.max()), column.std()
    if low < high and np.spacing(np.float32(max(abs(low), abs(high)))) > 1e-3 * spread:
        raise ValueError(
            f"{source}: column '{name}' varies by {spread:.3g} around {column.mean():.8g}, "
            "too little for float32 to resolve: subtract an offset from it"
        )
    if training.min() == training.max():
        where = "every row" if low == high else "every row of the training split"
        raise ValueError(
            f"{source}: column '{name}' is {training[0]:g} in {where}, which has no density: "
            "leave it out with --data.columns or --data.context"
        )

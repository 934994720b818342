"""A source as a table of tensors: read, checked, and split in three."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffeo.context import ContextSpec, Number
from diffeo.data.files import Array, Source, listing
from diffeo.data.splits import Divided
from diffeo.data.tables.columns import (
    check_finite,
    check_numeric,
    check_spread,
    check_training,
    step_size,
)
from diffeo.data.tables.options import TableOptions, check_options, choose_columns, open_options
from diffeo.data.tables.streaming import BATCH_ROWS, numbered


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
class Table(Divided[Split]):
    """A table in memory, split in three.

    Args:
        name: short, for titles.
        columns: the names of the features.
        steps: for each feature, the step over which to spread its values; 0.0 leaves it as it is.
        notes: sentences for the user.
        options: what the table was loaded with.
    """

    name: str
    columns: list[str]
    steps: list[float]
    notes: list[str] = field(default_factory=list)
    options: TableOptions = field(default_factory=TableOptions)

    @property
    def features(self) -> int:
        """How many columns are modelled."""
        return len(self.columns)


def load_table(options: TableOptions) -> Table:
    """Reads, checks and splits a table.

    The rows are permuted by `options.seed`, then cut in three. Rows in messages count from 1.

    Raises:
        ValueError: options that contradict each other or the source, or a column without a density:
            not numeric, not finite, constant, or too fine for float32. One sentence, which names
            the source, the column and the remedy.
    """
    check_options(options)
    source = open_options(options)
    columns, context = choose_columns(source, options)
    parts = _read(source, [*columns, *context], options.rows)
    rows = sum(map(len, parts[columns[0]]))
    sizes = _sizes(source.name, rows, options.splits)
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


def _read(source: Source, names: list[str], rows: int | None) -> dict[str, list[Array]]:
    parts: dict[str, list[Array]] = {name: [] for name in names}
    for first_row, chunk in numbered(source, names, rows, BATCH_ROWS):
        remedy = "choose numeric columns with --data.columns {numeric}, or encode it as numbers"
        check_numeric(source.name, chunk, first_row, remedy)
        for name in names:
            parts[name].append(chunk[name])
    if not parts[names[0]]:
        raise ValueError(f"{source.name} has no rows: there is nothing to learn from")
    return parts


def _sizes(source: str, rows: int, splits: tuple[float, float, float]) -> list[int]:
    val, test = (max(1, round(rows * share)) for share in splits[1:])
    train = rows - val - test
    if train < 2:
        raise ValueError(
            f"{source} has {rows} row{'s' * (rows != 1)}, too few to train (2), validate (1) and "
            f"test (1) with --data.splits {list(splits)}: give more rows"
        )
    return [train, val, test]


def _note(source: str, steps: dict[str, float]) -> str:
    named = listing(f"'{name}' (step {step:.6g})" for name, step in steps.items())
    return (
        f"{source}: values repeat in {named}, which makes the density unbounded: "
        "`--data.dequantize true` spreads each value over its step."
    )

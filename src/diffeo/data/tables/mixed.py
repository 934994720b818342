"""Tables of mixed columns as tensors: loaded and split, or streamed batch by batch, by a schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffeo.context import Category, ContextSpec, Number
from diffeo.data.datasets import split_sizes
from diffeo.data.files import Array
from diffeo.data.tables.csv_files import form_of
from diffeo.data.tables.frames import encode
from diffeo.data.tables.kind_files import read_kinds
from diffeo.data.tables.kinds import find_schema
from diffeo.data.tables.loading import (
    BATCH_ROWS,
    Split,
    Table,
    check_finite,
    check_numeric,
    choose_columns,
    locate,
    short_name,
)
from diffeo.data.tables.opening import TableOptions, open_table
from diffeo.data.tables.reading import frames, read_frame
from diffeo.data.tables.source import Source
from diffeo.data.tables.weighting import split_weights
from diffeo.schema import AnyColumn, CategoryColumn, LeftOutColumn, Schema
from diffeo.utils.ranges import Count, checked

Rows = tuple[Tensor, Tensor | None, Tensor | None]


def load_mixed(
    options: TableOptions, schema: Schema | None = None, conditions: Schema | None = None
) -> Table:
    """A table of numbers, text, dates and gaps as it is, split in three.

    Args:
        options: which, and how.
        schema: of the columns that are modelled, where it is known; by default it is found.
        conditions: the same of the context.

    Raises:
        ValueError: of all problems of the table, a sentence a line; and as `load_table`.
    """
    source = open_table(options)
    columns, context = choose_columns(source, options)
    frame = read_frame(options)
    sizes = split_sizes(source.name, "row", len(frame), options.splits)
    if schema is None:
        kinds = {} if options.kinds is None else read_kinds(options.kinds)
        _check_forms(source, {c: frame[c] for c in (*columns, *context) if c not in kinds})
        found = find_schema(frame[[*columns, *context]], kinds)
        schema, conditions = _split(source.name, found, context)
    order = np.random.default_rng(options.seed).permutation(len(frame))
    weights: list[Tensor | None] = [None] * len(sizes)
    notes = []
    if options.weights is not None:
        column = _weights(source, options.weights, frame)
        weights = [*split_weights(source.name, options.weights, column, order, sizes)]
        notes.append(f"{source.name}: rows are weighted by column '{options.weights}'.")
    x = torch.from_numpy(encode(schema, frame)[order])
    given = None if conditions is None else as_context(conditions, encode_rows(conditions, frame))
    contexts: Any = [None] * 3 if given is None else given[torch.from_numpy(order)].split(sizes)
    train, val, test = map(Split, x.split(sizes), contexts, weights)
    return Table(
        name=short_name(options),
        columns=[column.name for column in schema.modelled],
        context=ContextSpec() if conditions is None else context_spec(conditions),
        train=train,
        val=val,
        test=test,
        steps=[0.0] * len(schema.modelled),
        notes=notes,
        options=options,
        schema=schema,
        conditions=conditions,
    )


def _split(source: str, found: Schema, context: list[str]) -> tuple[Schema, Schema | None]:
    """The schemas of what is modelled and of what is context."""
    given: list[AnyColumn] = []
    for column in found.columns:
        if column.name in context:
            if isinstance(column, LeftOutColumn):
                raise ValueError(
                    f"{source}: column '{column.name}' cannot be context, since {column.reason}: "
                    "leave it out of --data.context."
                )
            given.append(column)
    schema = Schema(tuple(column for column in found.columns if column.name not in context))
    if not schema.modelled:
        raise ValueError(f"{source}: no column is left to model: name fewer in --data.context.")
    return schema, Schema(tuple(given)) if given else None


def _check_forms(source: Source, columns: dict[str, Any]) -> None:
    """Refuse texts that are numbers in another form, such as 0,5, which are meant as such."""
    for name, column in columns.items():
        if column.dtype.kind not in "iufbM":
            texts = column.dropna().to_numpy(dtype=object)
            if form_of(texts, source.decimal) is not None:
                check_numeric(source, {name: texts}, 1, "")


def _weights(source: Source, name: str, frame: Any) -> Array:
    """A column of finite numbers."""
    column: Array = frame[name].to_numpy()
    check_numeric(source, {name: column}, 1, "name another column by --data.weights")
    column = column.astype(np.float64)
    check_finite(source.name, name, column)
    return column


def encode_rows(schema: Schema, frame: Any, *, strict: bool = True) -> Tensor:
    """`encode` as a tensor."""
    return torch.from_numpy(encode(schema, frame, strict=strict))


@checked
def stream_mixed(
    options: TableOptions,
    schema: Schema,
    conditions: Schema | None = None,
    weights: str | None = None,
    *,
    batch_rows: Count = BATCH_ROWS,
) -> Iterator[Rows]:
    """All rows of a table in their order, a batch at a time, as a model with this schema has them.

    What has no probability under the schema, such as an unknown category, is not refused.

    Yields:
        x `[rows, columns]`, the context or None, and the weights `[rows]` or None.

    Raises:
        ValueError: a source that cannot be read or lacks a column (at once), or a cell that cannot
            be read (when its batch is reached).
    """
    source = open_table(options)
    given = () if conditions is None else conditions.modelled
    wanted = [column.name for column in (*schema.modelled, *given)]
    names = locate(source, wanted)
    titles = dict(zip(names, wanted, strict=True))
    extra = [] if weights is None else [weights]

    def batches() -> Iterator[Rows]:
        for frame in frames(source, [*names, *extra], options.rows, batch_rows):
            cells = frame.rename(columns=titles)
            x = encode_rows(schema, cells, strict=False)
            c = None
            if conditions is not None:
                c = as_context(conditions, encode_rows(conditions, cells, strict=False))
            w = None
            if weights is not None:
                w = torch.from_numpy(_weights(source, weights, frame))
            yield x, c, w

    return batches()


def context_spec(conditions: Schema) -> ContextSpec:
    """The context of columns that are conditions: numbers, and categories by their values."""
    variables: list[Number | Category] = []
    for column in conditions.modelled:
        if isinstance(column, CategoryColumn):
            values = [str(value) for value in column.values] + ["other"] * column.other
            variables.append(Category(column.name, tuple(values)))
        else:
            variables.append(Number(column.name))
    return ContextSpec(tuple(variables))


def as_context(conditions: Schema, rows: Tensor) -> Tensor:
    """The context `(batch, width)` of rows of conditions `(batch, columns)`.

    A number stays; a category is zeros and a one at its place, and zeros in an empty cell.
    """
    parts = []
    for column, values in zip(conditions.modelled, rows.T, strict=True):
        if isinstance(column, CategoryColumn):
            known = torch.arange(column.count, device=values.device)
            parts.append((values[:, None] == known).to(values))
        else:
            parts.append(values[:, None])
    return torch.cat(parts, 1)


def as_conditions(conditions: Schema, context: Tensor) -> Tensor:
    """The rows of conditions `(batch, columns)` of a context `(batch, width)`."""
    parts = []
    sizes = [c.count if isinstance(c, CategoryColumn) else 1 for c in conditions.modelled]
    for column, values in zip(conditions.modelled, context.split(sizes, 1), strict=True):
        if isinstance(column, CategoryColumn):
            known = values.sum(1, keepdim=True) > 0
            values = torch.where(known, values.argmax(1, keepdim=True).to(values), torch.nan)
        parts.append(values)
    return torch.cat(parts, 1)

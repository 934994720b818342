"""A schema in plain words, for a reader who wants to know how a table was understood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from diffeo.data.files import listing
from diffeo.data.tables.frames import encode_column, kind_of, range_of, read_cells, write_number
from diffeo.data.tables.grids import Floats
from diffeo.schema import (
    AnyColumn,
    CategoryColumn,
    DateColumn,
    LeftOutColumn,
    NumberColumn,
    Schema,
)

SPANS = {86_400: "day", 3_600: "hour", 60: "minute", 1: "second"}
MOST = 4  # values that are named


def describe(schema: Schema, frame: Any = None) -> list[dict[str, str]]:
    """What each column is, as texts of the same keys.

    Args:
        schema: of a table.
        frame: the table, a pandas DataFrame; with it there are examples, and shares of gaps and
            of values with a mass of their own.

    Returns:
        for each column its `column` (name), `kind`, `values`, `step`, `gaps`, `masses`, `example`.
    """
    return [_describe(column, frame) for column in schema.columns]


def schema_table(schema: Schema, frame: Any = None, title: str | None = None) -> Any:
    """A table of rich that prints `describe`, without what is empty for all columns."""
    from rich.table import Table

    rows = describe(schema, frame)
    shown = [key for key in rows[0] if any(row[key] for row in rows)] if rows else []
    table = Table(*shown, title=title)
    for row in rows:
        table.add_row(*(row[key] for key in shown))
    return table


def _describe(column: AnyColumn, frame: Any) -> dict[str, str]:
    row = dict.fromkeys(("column", "kind", "values", "step", "gaps", "masses", "example"), "")
    row |= {"column": column.name, "kind": kind_of(column)}
    cells = None if frame is None else read_cells(frame, column.name)
    if cells is not None and len(cells.values):
        first = cells.values[0]
        row["example"] = f"{first:.6g}" if isinstance(first, float) else str(first)[:30]
    if isinstance(column, LeftOutColumn):
        return row | {"values": column.reason}
    known = None if cells is None else encode_column(column, cells)[0]
    row["gaps"] = "possible" if column.missing else ""
    if known is not None and np.isnan(known).any():
        row["gaps"] = _percent(np.isnan(known))
    if isinstance(column, CategoryColumn):
        values = listing((str(value)[:30] for value in column.values), MOST)
        return row | {"values": values + ", or others" * column.other}
    masses = listing(_masses(column, known), MOST)
    values = range_of(column)
    if isinstance(column, DateColumn) and known is not None and column.low is column.high is None:
        seen = known[~np.isnan(known)]
        ends = (write_number(column, float(end)) for end in (seen.min(), seen.max()))
        values = f"{' to '.join(ends)} here"
    return row | {"values": values, "step": _step(column), "masses": masses}


def _step(column: NumberColumn) -> str:
    if not column.step or not isinstance(column, DateColumn):
        return f"{column.step:.12g}" if column.step else ""
    if column.unit != "second":
        years = column.unit == "month" and column.step % 12 == 0
        return _count(column.step / 12, "year") if years else _count(column.step, column.unit)
    span = next(span for span in SPANS if column.step % span == 0 or span == 1)
    return _count(column.step / span, SPANS[span])


def _count(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'s' * (number != 1)}"


def _masses(column: NumberColumn, known: Floats | None) -> Iterator[str]:
    for atom in column.atoms:
        share = "" if known is None else f" ({_percent(known == atom)})"
        yield f"{atom:.6g}{share}"


def _percent(found: Any) -> str:
    share = 100 * float(np.mean(found))
    return f"{share:.1f} %" if share >= 0.1 else "under 0.1 %"

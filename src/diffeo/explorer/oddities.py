"""The odd rows of a mixed table, and the odd cells of these, with what was expected instead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffeo.answers import explain
from diffeo.data.tables.frames import range_of
from diffeo.explorer import inspecting
from diffeo.explorer.asking import cell_text
from diffeo.explorer.columns import mixed_flow
from diffeo.explorer.inspecting import Findings, percent, signed
from diffeo.explorer.subject import Subject, table_of
from diffeo.schema import CategoryColumn, Column

LISTED, CELLS = 16, 160  # rows and cells that are explained at most, since each takes its time
FEWEST = 5  # rows of a wide table
ODD = 1.0  # nats of surprise from which on a cell is marked
STRONG = 8.0  # nats, at which the mark is as strong as any
PART = 0.2  # of the most odd cell of its row; what is less odd follows from that one
USUAL = 0.05  # of held-out rows that are less likely than the threshold


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a mixed table.

    Args:
        frame: their cells as they were written, a pandas DataFrame.
        x: they as the model has them `(n, columns)`.
        context: theirs, or None.
        names: of the rows.
    """

    frame: Any
    x: Tensor
    context: Tensor | None
    names: list[str]


@dataclass(frozen=True)
class Cell:
    """A cell with what is odd about it.

    Args:
        text: as it was written.
        surprise: in nats; infinite where the cell cannot be.
        note: what was expected, or why it cannot be; nothing for a cell that is not odd.
    """

    text: str
    surprise: float = 0.0
    note: str = ""


def some_rows(subject: Subject) -> Rows:
    """Test rows of the data, or samples of the model."""
    x, context, names = inspecting.some_rows(subject)
    return Rows(mixed_flow(subject).to_frame(x), x, context, names)


def reason(column: Column, value: float) -> str:
    """Why a cell cannot be."""
    if math.isnan(value):
        return "cannot be: there were no empty cells"
    if isinstance(column, CategoryColumn):
        return "cannot be: an unknown value"
    return f"cannot be: values are {range_of(column)}"


def find(subject: Subject, rows: Rows) -> Findings:
    """How likely each row is; one with a cell that cannot be has a density of zero."""
    flow = mixed_flow(subject)
    fine = ~flow.impossible(rows.x).any(1)
    nats = torch.full((len(rows.x),), -math.inf, dtype=torch.float64)
    if fine.any():
        context = None if rows.context is None else rows.context[fine].double()
        nats[fine] = subject.score(rows.x[fine].double(), context)[0].double()
    shares = [subject.reference.share_below(float(value)) for value in nats]
    return Findings(rows.x, rows.names, context, nats, shares, {}, False)


def threshold(subject: Subject) -> float:
    """The log-likelihood below which 5 % of the reference lie, in nats."""
    return float(np.quantile(subject.reference.nats, USUAL))


def explained(subject: Subject, rows: Rows, which: list[int]) -> list[list[Cell]]:
    """The cells of some rows, the odd ones with what was expected."""
    flow = mixed_flow(subject)
    columns, x = flow.schema.modelled, rows.x[which].double()
    bad = flow.impossible(x).numpy()
    context = None if rows.context is None else rows.context[which].double()
    lines = explain(flow, x, context=context)
    written, cells = rows.frame.iloc[which], []
    for i in range(len(which)):
        row, own = [], lines.iloc[i * len(columns) : (i + 1) * len(columns)]
        limit = max(ODD, PART * float(own.surprise[~bad[i]].max()) if not bad[i].all() else 0.0)
        for k, column in enumerate(columns):
            line = own.iloc[k]
            text = cell_text(written[column.name].iloc[i])
            if bad[i, k]:
                row.append(Cell(text, math.inf, reason(column, float(x[i, k]))))
            elif line.surprise >= limit:
                row.append(Cell(text, float(line.surprise), expected(column, line)))
            else:
                row.append(Cell(text))
        cells.append(row)
    return cells


def expected(column: Column, line: Any) -> str:
    """What a cell would have been, by a line of `explain`."""
    if isinstance(column, CategoryColumn):
        return f"expected {cell_text(line.expected)}"
    ends = f"{cell_text(line.low)} to {cell_text(line.high)}"
    return f"expected {cell_text(line.expected)} ({ends})"


def table(subject: Subject, rows: Rows, found: Findings) -> str:
    """The least likely rows, their odd cells marked."""
    columns = mixed_flow(subject).schema.modelled
    most = max(FEWEST, min(LISTED, CELLS // len(columns)))
    order = found.nats.argsort()[:most].tolist()
    limit = threshold(subject)
    heads = ["row", "nats", "more likely than", "odd", *(column.name for column in columns)]
    lines = []
    for i, cells in zip(order, explained(subject, rows, order), strict=True):
        nats = float(found.nats[i])
        odd = sorted((-cell.surprise, k) for k, cell in enumerate(cells) if cell.note)
        names = ", ".join(columns[k].name for _, k in odd)
        first = [rows.names[i], signed(found.nats[i], 2), percent(found.shares[i]), names]
        start = "".join(f"<td>{escape(text)}</td>" for text in first)
        look = ' class="below"' if nats < limit else ""
        lines.append(f"<tr{look}>{start}{''.join(map(_marked, cells))}</tr>")
    count = len(rows.x)
    caption = "The rows, the least likely first"
    if count > len(order):
        caption = f"The {len(order)} least likely of {count:,} rows"
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{caption}">'
        f"<table><caption>{caption}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _marked(cell: Cell) -> str:
    text = escape(cell.text)
    if not cell.note:
        return f"<td>{text}</td>"
    strength = 12 + 38 * min(1.0, cell.surprise / STRONG)
    note = f'<span class="expected">{escape(cell.note)}</span>'
    return f'<td class="odd" style="--odd: {strength:.0f}%">{text}{note}</td>'


def meaning(subject: Subject, found: Findings) -> str:
    """What the threshold is, how many rows lie below it, and what the colours say."""
    limit = threshold(subject)
    below = int((found.nats < limit).sum())
    count = len(found.nats)
    return (
        f"The threshold is {signed(torch.tensor(limit), 2)} nats: "
        f"{100 * USUAL:.0f} % of the {subject.reference.source} are less likely than that. "
        f"{below:,} of these {count:,} {'rows are' if count != 1 else 'row is'} below it, and "
        "they have an orange edge. An orange cell is odd given the other cells of its row, the "
        "stronger the odder: below its value is what was expected, with an interval of 90 %."
    )


def source(subject: Subject) -> str:
    """What `some_rows` are, in words."""
    return "Test data" if table_of(subject) is not None else "The model's own samples"

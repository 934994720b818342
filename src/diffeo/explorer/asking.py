"""Any columns of a mixed table given others: a control for each, and what the model answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import numpy as np

from diffeo.answers import Conditional, conditional
from diffeo.answers.spread import Spread
from diffeo.data.tables.frames import clean, write_number
from diffeo.data.tables.grids import Floats
from diffeo.explorer import images
from diffeo.explorer.bins import Bins, atom_share, number_text, percent, value_names, words
from diffeo.explorer.columns import data_of, draw, mixed_flow
from diffeo.explorer.subject import Subject, table_of
from diffeo.schema import CategoryColumn, Column, DateColumn, NumberColumn

MOVING, CALM = 512, 4_096  # particles: while a control is moved, and behind rows that are drawn
STEPS = 200  # of a slider of a continuous column
ASKED = 40  # columns that have a control
ROWS, OUTLINE = 10, 4_000  # that are drawn: to be read, and behind the charts
EMPTY = "(empty)"


@dataclass(frozen=True, eq=False)
class Question:
    """A column with its control.

    Args:
        column: the column.
        bins: of its chart.
        usual: how much lies in each without anything given, or None for a condition.
        low, high, step, first: of its slider, which counts from `origin`.
        origin: the first day of a date; 0 for other numbers.
    """

    column: Column
    bins: Bins
    usual: Floats | None
    low: float = 0.0
    high: float = 1.0
    step: float = 1.0
    first: float = 0.0
    origin: float = 0.0

    @property
    def choices(self) -> list[tuple[str, int]]:
        """Of the menu of a category: texts and places, -1 for an empty cell."""
        assert isinstance(self.column, CategoryColumn)
        found = [(name, place) for place, name in enumerate(value_names(self.column))]
        return found + [(EMPTY, -1)] * self.column.missing

    @property
    def label(self) -> str:
        """Of the control."""
        if isinstance(self.column, DateColumn):
            start = write_number(self.column, self.origin)
            return f"{self.column.name}, {self.column.unit}s after {start}"
        return self.column.name

    def number(self, raw: float) -> float:
        """The value that a control is set to, as the model has it."""
        if isinstance(self.column, CategoryColumn):
            return math.nan if raw == -1 else float(raw)
        return float(clean(self.column, np.array([self.origin + float(raw)]))[0])

    def given(self, raw: float) -> Any:
        """The same as it stands in the table."""
        value, column = self.number(raw), self.column
        if isinstance(column, CategoryColumn):
            if math.isnan(value):
                return None
            known = int(value) < len(column.values)
            return column.values[int(value)] if known else "a value that is not known"
        return write_number(column, value) if isinstance(column, DateColumn) else value

    def text(self, raw: float) -> str:
        """The same in words."""
        value = self.number(raw)
        if isinstance(self.column, CategoryColumn):
            return EMPTY if math.isnan(value) else value_names(self.column)[int(value)]
        return number_text(self.column, value, self.high - self.low)


def questions(subject: Subject) -> list[Question]:
    """One for each column, conditions first."""
    flow, found = mixed_flow(subject), []
    table = table_of(subject)
    if flow.conditions is not None:
        context = None if table is None else table.train.context
        if context is None:
            context = subject.conditions.draw(1_000, 0)
        given = flow.as_conditions(context.double() if context is not None else None)
        assert given is not None
        pairs = zip(flow.conditions.modelled, given.numpy().T, strict=True)
        found += [_question(column, values, None) for column, values in pairs]
    samples, data = draw(subject, 0, OUTLINE), data_of(subject)
    for i, column in enumerate(flow.schema.modelled[: max(1, ASKED - len(found))]):
        own = samples[:, i] if data is None else data[:, i]
        found.append(_question(column, own, samples[:, i]))
    return found


def _question(column: Column, values: Floats, samples: Floats | None) -> Question:
    bins = Bins.of(column, values)
    usual = None if samples is None else bins.shares(samples)
    values = values[~np.isnan(values)]
    if isinstance(column, CategoryColumn):
        most = np.bincount(values.astype(int), minlength=1).argmax()
        return Question(column, bins, usual, first=float(most))
    values = values if len(values) else np.array([column.origin])
    ends = np.quantile(values, [0.002, 0.5, 0.998], method="nearest")
    low, middle, high = (float(v) for v in clean(column, ends))
    if high <= low:
        low, high = low - (column.step or 1.0), high + (column.step or 1.0)
    step = column.step or float(f"{(high - low) / STEPS:.1g}")
    if not column.step:
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        low = low if column.low is None else max(low, column.low)
        high = high if column.high is None else min(high, column.high)
    origin = low if isinstance(column, DateColumn) else 0.0
    middle = min(max(low + round((middle - low) / step) * step, low), high)
    low, middle, high = (round(value - origin, 10) for value in (low, middle, high))
    return Question(column, bins, usual, low, high, step, middle, origin)


def ask(
    subject: Subject,
    asked: Sequence[Question],
    given: Sequence[bool],
    raws: Sequence[float],
    draws: int = MOVING,
) -> Conditional:
    """The conditional distribution that the controls ask for.

    Raises:
        ValueError: if nothing is left to ask for.
    """
    if all(given):
        raise ValueError("all columns are given: take the check from one, to see what it would be.")
    known = {
        q.column.name: q.given(raw) for q, held, raw in zip(asked, given, raws, strict=True) if held
    }
    return conditional(mixed_flow(subject), known, draws=draws, smooth=False)


def card(question: Question, found: Conditional) -> str:
    """The chart of a column that is asked for, and the answer in words."""
    name = question.column.name
    spread = found.spread(name)[0]
    shares = question.bins.shares_of(spread)
    text = answer(question, found)
    chart = question.bins.chart(shares, question.usual, f"{name}: {text}")
    return chart + images.note(text)


def held(question: Question, raw: float) -> str:
    """The chart of a column whose value is given."""
    text = question.text(raw)
    filled = None if question.usual is not None else question.bins.shares(np.zeros(0))
    name = question.column.name
    chart = question.bins.chart(
        filled, question.usual, f"{name} is given as {text}.", mark=question.number(raw)
    )
    return chart + f'<p class="note">Given: <strong>{escape(text)}</strong></p>'


def answer(question: Question, found: Conditional) -> str:
    """The distribution of a column in words, and whether that is exact."""
    column, name = question.column, question.column.name
    parts = []
    if isinstance(column, CategoryColumn):
        spread, every = found.spread(name)
        mass = spread.mass[0].cpu().numpy()
        parts.append(words(value_names(column), mass))
        error = 0.0
        if every:
            errors = found.probabilities(name).standard_error
            error = max(float(e) for e in errors.values())
        sure = f"standard error up to {100 * error:.1f} %" if every else "exact"
    else:
        parts += _numbers(column, found)
        sure = "± is the standard error" if found.spread(name)[1] else "exact"
    if column.missing:
        empty = found.empty(name)
        parts.append(f"empty {percent(empty.value)}")
    return f"{'; '.join(parts)} ({sure})."


def _numbers(column: NumberColumn, found: Conditional) -> list[str]:
    """Mean, median and interval of a column of numbers, and its values with a mass of their own."""
    name = column.name
    mean = found.number(name, lambda spread: spread.mean)
    low, median, high = (
        found.number(name, partial(Spread.quantile, q=q)) for q in (0.05, 0.5, 0.95)
    )
    width = high.value - low.value or abs(mean.value)

    def text(value: float, error: float) -> str:
        written = number_text(column, value, width)
        if not error:
            return written
        unit = f" {column.unit}s" if isinstance(column, DateColumn) else ""
        return f"{written} ± {float(f'{error:.1g}'):g}{unit}"

    parts = [
        f"mean {text(mean.value, mean.standard_error)}",
        f"median {text(median.value, median.standard_error)}",
        f"90 % from {text(low.value, 0)} to {text(high.value, 0)}",
    ]
    spread = found.spread(name)[0]
    shares = [(atom, atom_share(spread, atom)) for atom in column.atoms]
    return parts + [f"exactly {atom:g} {percent(share)}" for atom, share in shares]


def rows(
    subject: Subject, asked: Sequence[Question], given: Sequence[bool], raws: Sequence[float]
) -> str:
    """A table of rows that are drawn given these values, all columns in their order."""
    found = ask(subject, asked, given, raws, CALM).sample(ROWS)
    known = {
        q.column.name: q.text(raw) for q, on, raw in zip(asked, given, raws, strict=True) if on
    }
    flow = mixed_flow(subject)
    conditions = () if flow.conditions is None else flow.conditions.modelled
    names = [column.name for column in (*conditions, *flow.schema.modelled)]
    body = [
        [known[name] if name in known else cell_text(found[name].iloc[i]) for name in names]
        for i in range(len(found))
    ]
    what = ", ".join(f"{name} {value}" for name, value in known.items())
    return images.rows(names, body, f"{len(body)} rows given {what or 'nothing'}")


def cell_text(value: Any) -> str:
    """A cell of a table as text."""
    import pandas

    if value is None or pandas.isna(value):
        return EMPTY
    if isinstance(value, float | np.floating):
        return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")
    return str(value)

"""Distributions of columns as text and as figures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from diffeo.answers.conditional import FEW, Conditional
from diffeo.answers.spread import Spread
from diffeo.data.tables.frames import write_number
from diffeo.data.tables.grids import Floats
from diffeo.figures.style import GREY, INK, MODEL, Drawing, house_style, panel, plain
from diffeo.schema import CategoryColumn, Column, NumberColumn

BAR = 32  # characters of the longest bar
BINS = 12  # of a histogram


def few_values(asked: Conditional, name: str) -> bool:
    """Whether the values of a column are listed, as of a category."""
    column = column_of(asked, name)
    if isinstance(column, CategoryColumn):
        return True
    return column.step > 0 and len(np.unique(asked.spread(name)[0].knots[0])) <= FEW


def column_of(asked: Conditional, name: str) -> Column:
    """A column by its name."""
    return next(column for column in asked.columns if column.name == name)


def describe(
    asked: Conditional, name: str, levels: Sequence[float]
) -> tuple[str, list[list[str]], str]:
    """A title, the rows of a table with a small histogram, and a sentence about its exactness."""
    column = column_of(asked, name)
    few = few_values(asked, name)
    labels, masses = histogram(asked, name)
    top = max(float(masses.max()), 1e-12)
    exact = asked.spread(name)[1] == []
    rows = [[name, "probability", ""]]
    errors: list[float] = []
    if few:
        errors = [*asked.probabilities(name).standard_error.values()]
    for label, mass in zip(labels, masses, strict=True):
        rows.append([label, f"{mass:.3f}", "█" * round(BAR * mass / top)])
    parts = []
    if isinstance(column, NumberColumn):
        mean = asked.number(name, lambda spread: spread.mean)
        points = [asked.number(name, partial(Spread.quantile, q=level)) for level in levels]
        errors = errors or [mean.standard_error, *(p.standard_error for p in points)]
        parts.append(f"mean {number_text(column, mean.value)}")
        parts += [
            f"{level:.0%} {number_text(column, point.value)}"
            for level, point in zip(levels, points, strict=True)
        ]
    if column.missing:
        parts.append(f"empty {asked.empty(name).value:.1%}")
    note = "; ".join(parts)
    largest = max(errors, default=0.0)
    sure = "exact" if exact else f"an estimate, standard errors up to {largest:.2g}"
    return name, rows, f"{note} ({sure})" if note else f"({sure})"


def number_text(column: NumberColumn, value: float) -> str:
    """A number with the digits that mean something."""
    return write_number(column, float(f"{value:.6g}"))


def histogram(asked: Conditional, name: str) -> tuple[list[str], Floats]:
    """Labels and probabilities: of values, or of intervals of the same width."""
    column, spread = column_of(asked, name), asked.spread(name)[0]
    if few_values(asked, name):
        found = asked.probabilities(name).value
        return [str(label) for label in found], np.array([*found.values()], dtype=np.float64)
    assert isinstance(column, NumberColumn)
    ends = bins(asked, name)
    below = np.array([spread.cdf(float(end))[0] for end in ends - column.step / 2])
    below[0], below[-1] = 0.0, 1.0
    labels = [
        f"{number_text(column, a)} to {number_text(column, b - column.step)}"
        for a, b in itertools.pairwise(ends)
    ]
    return labels, np.diff(below)


def bins(asked: Conditional, name: str, count: int = BINS) -> Floats:
    """The ends of intervals of a round width, from the 0.5 % to the 99.5 % quantile or so."""
    spread, column = asked.spread(name)[0], column_of(asked, name)
    assert isinstance(column, NumberColumn)
    low, high = float(spread.quantile(0.005)[0]), float(spread.quantile(0.995)[0])
    width = (high - low) / count or abs(high) or 1.0
    power = 10.0 ** np.floor(np.log10(width))
    width = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= width * 0.999)
    if column.step:
        width = column.step * max(1.0, np.rint(width / column.step))
    first = column.origin + np.floor((low - column.origin) / width) * width
    return np.asarray(first + width * np.arange(np.floor((high - first) / width) + 2))


@house_style()
def draw_distributions(asked: Conditional) -> Figure:
    """The distribution of each column that is asked for: shares of values, or a density.

    Args:
        asked: the answer of `conditional`.
    """
    count, width, height = len(asked.want), 4.2, 2.0
    figure = Drawing(figsize=(width + 1.2, count * (height + 0.75) + 0.2))
    for i, name in enumerate(asked.want):
        axes = panel(figure, 0.7, 0.5 + (count - 1 - i) * (height + 0.75), width, height)
        axes.set_title(plain(name), color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        if few_values(asked, name):
            labels, masses = histogram(asked, name)
            axes.bar(range(len(labels)), masses, color=MODEL, width=0.8)
            axes.set_xticks(range(len(labels)), [*map(plain, labels)])
            axes.set_ylabel("probability", color=GREY)
        else:
            ends = bins(asked, name, 60)
            spread = asked.spread(name)[0]
            below = np.array([spread.cdf(float(end))[0] for end in ends])
            axes.stairs(np.diff(below) / np.diff(ends), ends, fill=True, color=MODEL)
            axes.set_ylabel("density", color=GREY)
    return figure

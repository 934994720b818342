"""Two columns of a mixed table at once: points, boxes, or a map of shares."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from diffeo.data.tables.grids import Floats
from diffeo.explorer import charts
from diffeo.explorer.bins import Bins, axis_text, percent, shortened
from diffeo.schema import CategoryColumn, Column, NumberColumn

POINTS = 600  # of a scatter plot
SIDE, LEFT, TOP = 300.0, 62.0, 34.0  # of a square panel
ROW = 34.0  # height of a category with its boxes
FEW = 5  # values of which quartiles are drawn

# What is drawn, and its name: "data" or "samples".
Source = tuple[str, Floats]


def pair(columns: tuple[Column, Column], sources: Sequence[Source]) -> str:
    """Charts of two columns.

    Args:
        columns: the two, the first one across where both are numbers.
        sources: the rows `(n, 2)` of each; limits are those of the first.
    """
    first, second = columns
    known = [(name, rows[~np.isnan(rows).any(1)]) for name, rows in sources]
    if isinstance(first, CategoryColumn) and isinstance(second, CategoryColumn):
        bins = Bins.of(first, known[0][1][:, 0]), Bins.of(second, known[0][1][:, 1])
        drawn = [_map(bins, name, rows) for name, rows in known]
    elif isinstance(first, CategoryColumn):
        assert isinstance(second, NumberColumn)
        drawn = [_boxes(first, second, known)]
    elif isinstance(second, CategoryColumn):
        drawn = [_boxes(second, first, [(name, rows[:, ::-1]) for name, rows in known])]
    else:
        window = [_reach(column, known[0][1][:, i]) for i, column in enumerate((first, second))]
        drawn = [_points((first, second), window, name, rows) for name, rows in known]
    return f'<div class="charts">{"".join(drawn)}</div>'


def _reach(column: NumberColumn, values: Floats) -> tuple[float, float]:
    values = values if len(values) else np.array([column.origin])
    low, high = (float(end) for end in np.quantile(values, [0.003, 0.997]))
    margin = 0.05 * (high - low) + column.step or max(1.0, abs(high))
    return low - margin, high + margin


def _points(
    columns: tuple[NumberColumn, NumberColumn],
    window: Sequence[tuple[float, float]],
    name: str,
    rows: Floats,
) -> str:
    """Points, those on a grid moved by up to half a step, so that equal ones do not hide."""
    frame = charts.Frame(*window[0], *window[1], LEFT, TOP, SIDE, SIDE)
    shift = np.random.default_rng(0).uniform(-0.4, 0.4, (min(len(rows), POINTS), 2))
    x = rows[:POINTS] + shift * [column.step for column in columns]
    dots = "".join(
        f'<circle cx="{frame.across(a):.1f}" cy="{frame.down(b):.1f}" r="2"/>'
        for a, b in x.tolist()
        if frame.left < a < frame.right and frame.low < b < frame.high
    )
    look = "sample" if name == "samples" else "dots"
    text, y_text = (axis_text(column) for column in columns)
    parts = [
        f'<text class="title" x="{LEFT + SIDE}" y="{TOP - 8}" text-anchor="end">{name}</text>',
        f'<g class="{look}">{dots}</g>',
        frame.axes(
            shortened(columns[0].name, 40),
            shortened(columns[1].name, 30),
            3,
            text=text,
            y_text=y_text,
        ),
    ]
    alt = f"{name.capitalize()}: {columns[1].name} by {columns[0].name}, as points."
    return charts.svg(LEFT + SIDE + 18, TOP + SIDE + 42, "".join(parts), alt)


def _boxes(category: CategoryColumn, number: NumberColumn, sources: Sequence[Source]) -> str:
    """For each value of the category the quartiles and the middle 90 % of the number."""
    bins = Bins.of(category, sources[0][1][:, 0])
    left, right = _reach(number, sources[0][1][:, 1])
    height = ROW * len(bins.places)
    frame = charts.Frame(left, right, 0, 1, 130, 34, 400, height)
    parts = [f'<text class="title" x="12" y="18">{escape(shortened(category.name, 30))}</text>']
    spoken = []
    for i, place in enumerate(bins.places):
        middle = frame.y + ROW * (i + 0.5)
        parts.append(
            f'<text class="label" x="122" y="{middle + 4:.1f}" text-anchor="end">'
            f"{escape(shortened(bins.names[i]))}</text>"
        )
        for k, (name, rows) in enumerate(sources):
            values = rows[rows[:, 0] == place, 1]
            if len(values) < FEW:
                continue
            points = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
            spoken.append(f"{bins.names[i]}, {name}: median {axis_text(number)(float(points[2]))}")
            at = [frame.across(min(max(float(p), left), right)) for p in points]
            y = middle + (11.0 * (k - (len(sources) - 1) / 2))
            look = "box sample" if name == "samples" else "box"
            parts.append(
                f'<g class="{look}"><line x1="{at[0]:.1f}" x2="{at[4]:.1f}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/><rect x="{at[1]:.1f}" y="{y - 4:.1f}" height="8" '
                f'width="{max(at[3] - at[1], 1):.1f}"/><line class="middle" x1="{at[2]:.1f}" '
                f'x2="{at[2]:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/></g>'
            )
    parts.append(frame.axes(shortened(number.name, 40), text=axis_text(number)))
    alt = f"Boxes of {number.name} by {category.name}. {'; '.join(spoken)}."
    return charts.svg(548, frame.y + height + 42, "".join(parts), alt, "chart boxes")


def _map(bins: tuple[Bins, Bins], name: str, rows: Floats) -> str:
    """The share of rows with each two values."""
    down, across = bins
    size = min(64.0, 300.0 / max(len(across.places), 1)), 26.0
    counts = np.array(
        [
            [((rows[:, 0] == a) & (rows[:, 1] == b)).sum() for b in across.places]
            for a in down.places
        ]
    )
    shares = counts / max(len(rows), 1)
    top = float(shares.max(initial=0)) or 1.0
    height = 60 + size[1] * len(down.places)
    parts = [f'<text class="title" x="12" y="16">{name}</text>']
    for k, label in enumerate(across.names[: len(across.places)]):
        at = 130 + size[0] * (k + 0.5)
        most = max(3, round(size[0] / 6.5))
        parts.append(
            f'<text class="label" x="{at:.1f}" y="42" text-anchor="middle">'
            f"{escape(shortened(label, most))}</text>"
        )
    for i, label in enumerate(down.names[: len(down.places)]):
        y = 50 + size[1] * i
        parts.append(
            f'<text class="label" x="122" y="{y + 17:.1f}" text-anchor="end">'
            f"{escape(shortened(label))}</text>"
        )
        for k, share in enumerate(shares[i].tolist()):
            x, look = 130 + size[0] * k, "sample" if name == "samples" else "bar"
            parts.append(
                f'<rect class="{look}" style="opacity: {0.04 + 0.5 * share / top:.2f}" '
                f'x="{x:.1f}" y="{y:.1f}" width="{size[0] - 2:.1f}" height="{size[1] - 2}"/>'
            )
            if size[0] >= 40:
                parts.append(
                    f'<text class="cell" x="{x + size[0] / 2 - 1:.1f}" y="{y + 16:.1f}" '
                    f'text-anchor="middle">{percent(share)}</text>'
                )
    alt = f"{name.capitalize()}: the share of rows by {down.column.name} and {across.column.name}."
    return charts.svg(440, height, "".join(parts), alt)

"""The columns of a mixed table, data against samples."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from diffeo.data.tables.frames import write_number
from diffeo.figures import style
from diffeo.figures.style import Array, house_style, panel, plain, write
from diffeo.schema import CategoryColumn, Column, DateColumn, NumberColumn, Schema

PANELS, ACROSS = 24, 4  # at most
BARS = 12  # values of a category that have a bar
ROOM = 34  # letters below a panel
BINS = 30
WIDTH, HEIGHT, GAP, ABOVE = 2.2, 1.35, 0.3, 0.8  # inches


@house_style()
def marginals(schema: Schema, x: Tensor | None, samples: Tensor) -> Figure:
    """Each column of rows x and of samples `(rows, columns)`: shares of values, or of bins.

    Rows are as `Schema` has them. Without x the samples are drawn alone. Of more than 24 columns
    the first 24 are drawn.
    """
    columns = schema.modelled[:PANELS]
    drawn = style.to_numpy(samples)
    data = drawn[:0] if x is None else style.to_numpy(x)
    across = min(ACROSS, len(columns))
    down = math.ceil(len(columns) / across)
    left, bottom = 0.3, 0.35
    size = left + across * (WIDTH + GAP), bottom + down * (HEIGHT + ABOVE) + 0.35
    figure = style.Drawing(figsize=(max(size[0], 5.0), size[1]))
    for i, column in enumerate(columns):
        row, place = divmod(i, across)
        y = bottom + (down - 1 - row) * (HEIGHT + ABOVE) + 0.3
        axes = panel(figure, left + place * (WIDTH + GAP), y, WIDTH, HEIGHT)
        axes.set_yticks([])
        axes.tick_params(labelsize=7.5)
        _draw(axes, column, data[:, i], drawn[:, i])
    top = size[1] - 0.3
    more = f", first {len(columns)} of {len(schema.modelled)} columns" * (
        len(columns) < len(schema.modelled)
    )
    title = f"{'samples' if x is None else 'data and samples'}{more}"
    write(figure, left, top, title, size=11, weight="bold")
    keys = [Patch(color=style.DATA, alpha=0.3, lw=0), Line2D([], [], color=style.MODEL, lw=1.2)]
    labels = [f"data, {len(data):,} rows", f"samples, {len(drawn):,} rows"]
    alone = x is None
    figure.legend(
        keys[alone:],
        labels[alone:],
        loc="upper right",
        bbox_to_anchor=(1 - 0.2 / figure.get_figwidth(), 1 - 0.1 / size[1]),
        ncols=2,
        borderaxespad=0,
        fontsize=8,
    )
    return figure


def _draw(axes: Axes, column: Column, data: Array, drawn: Array) -> None:
    """One column: bars of values, or a histogram; and how many cells are empty."""
    axes.set_title(plain(column.name, 24), loc="left", color=style.INK, fontsize=9)
    if column.missing:
        shares = [np.isnan(values).mean() for values in (data, drawn) if len(values)]
        text = " / ".join(f"{share:.0%}" for share in shares)
        axes.set_title(f"{text} empty", loc="right", fontsize=7, color=style.GREY)
    parts = [values[~np.isnan(values)] for values in (data, drawn)]
    if isinstance(column, CategoryColumn):
        _bars(axes, column, *parts)
    else:
        _histogram(axes, column, *parts)


def _bars(axes: Axes, column: CategoryColumn, data: Array, drawn: Array) -> None:
    """A bar for each of the most frequent values."""
    shares = [
        np.bincount(v.astype(int), minlength=column.count) / max(len(v), 1) for v in (data, drawn)
    ]
    order = np.argsort(-shares[0 if len(data) else 1], kind="stable")[:BARS]
    order = np.sort(order)
    ends = np.arange(len(order) + 1) - 0.5
    axes.stairs(shares[0][order], ends, fill=True, color=style.DATA, alpha=0.3, lw=0)
    axes.stairs(shares[1][order], ends, color=style.MODEL, lw=1.2)
    names = [*map(str, column.values)] + ["other"] * column.other
    labels = [plain(names[place], 16) for place in order]
    if sum(map(len, labels)) > ROOM:
        labels = [plain(label, 9) for label in labels]
        axes.tick_params(axis="x", labelrotation=90, labelsize=6)
    axes.set_xticks(range(len(order)), labels)


def _histogram(axes: Axes, column: NumberColumn, data: Array, drawn: Array) -> None:
    """Shares of the values in each bin; bins have whole steps of a grid."""
    known = data if len(data) else drawn
    if not len(known):
        return
    low, high = (float(end) for end in np.quantile(known, [0.005, 0.995]))
    width = (high - low) / BINS or 1.0
    if column.step:
        width = column.step * max(1.0, math.ceil(width / column.step - 1e-9))
        low = column.origin + (math.floor((low - column.origin) / column.step) - 0.5) * column.step
    count = max(1, math.ceil((high - low) / width + 1e-9))
    bins = low + width * np.arange(count + 1)
    shares = [np.histogram(v, bins)[0] / max(len(v), 1) for v in (data, drawn)]
    axes.stairs(shares[0], bins, fill=True, color=style.DATA, alpha=0.3, lw=0)
    axes.stairs(shares[1], bins, color=style.MODEL, lw=1.2)
    if isinstance(column, DateColumn):
        ticks = np.quantile(bins, [0.1, 0.9])
        axes.set_xticks(ticks, [write_number(column, round(float(t))) for t in ticks])

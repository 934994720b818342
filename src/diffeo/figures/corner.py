"""Data and samples of any number of columns: histograms and pairwise contours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from diffeo.figures.points import Limits, Window, check_table, finite_rows, limits, to_numpy
from diffeo.figures.style import DATA, MODEL, Array, house_style, oklch, panel, plain, write

COLUMNS = 8  # drawn of a table
BINS = 56  # along each side of a pair
MASSES = (0.95, 0.8, 0.5, 0.2)  # shares of the points that contours hold
BLUES = [to_hex(oklch(0.93 - 0.12 * i, 0.03 + 0.025 * i, 250)) for i in range(len(MASSES))]


@house_style()
def corner(
    x: Float[Tensor, "rows features"] | None,
    samples: Float[Tensor, "samples features"],
    columns: Sequence[str],
) -> Figure:
    """Data against samples, column by column and pair by pair.

    The limits are those of the data, from its 0.5 % to its 99.5 % quantile; contours hold 20, 50,
    80 and 95 % of the points within them. Of more than 8 columns the first 8 are drawn.

    Args:
        x: data `(rows, features)`; None draws the samples alone.
        samples: `(any number, features)`.
        columns: names of the features.

    Raises:
        ValueError: if x and samples are not tables of the same, named columns.
    """
    alone = x is None
    x = samples[:0] if x is None else x
    check_table(samples if alone else x, columns)
    if samples.ndim != 2 or samples.shape[1] != x.shape[1]:
        wanted = f"(rows, {x.shape[1]})"
        raise ValueError(f"expected samples of shape {wanted}, got {tuple(samples.shape)}.")
    d = min(x.shape[1], COLUMNS)
    data, drawn = to_numpy(x[:, :d]), to_numpy(samples[:, :d])
    not_finite = int((~finite_rows(drawn)).sum())
    data, drawn = data[finite_rows(data)], drawn[finite_rows(drawn)]
    ends = [limits(values, tail=0.005, margin=0.06) for values in (drawn if alone else data).T]

    side, gap, left, bottom = max(1.25, 4.2 / d), 0.14, 0.85, 0.6
    size = d * side + (d - 1) * gap
    figure = Figure(figsize=(left + size + 0.2, bottom + size + 0.45))
    for row in range(d):
        for column in range(row + 1):
            place = left + column * (side + gap), bottom + (d - 1 - row) * (side + gap)
            axes = panel(figure, *place, side, side)
            if row == column:
                _histograms(axes, data[:, row], drawn[:, row], ends[row])
                axes.set_yticks([])
            else:
                pair = [column, row]
                _contours(axes, data[:, pair], drawn[:, pair], (ends[column], ends[row]))
                axes.set(ylim=ends[row], yticks=_inner_ticks(ends[row], side))
            axes.set(xlim=ends[column], xticks=_inner_ticks(ends[column], side))
            axes.tick_params(labelbottom=row == d - 1, labelleft=column == 0, labelsize=7.5)
            if row == d - 1:
                axes.set_xlabel(plain(columns[column], 16))
            if column == 0 and d > 1:
                axes.set_ylabel(plain(columns[row], 16))
    figure.align_labels()
    # The title and the legend stand in the empty triangle.
    title = "samples" if alone else "data and samples"
    if x.shape[1] > d:
        title = f"first {d} of {x.shape[1]} columns"
    write(figure, left, bottom + size + 0.17, title, size=10 + d / 2, weight="bold")
    labels = [f"data, {len(data):,} rows", f"samples, {len(drawn):,} rows"]
    if not_finite:
        labels[1] += f"\n({not_finite:,} not finite, left out)"
    keys = [Patch(color=DATA, alpha=0.3, lw=0), Line2D([], [], color=MODEL, lw=1.2)]
    figure.legend(
        keys[alone:],
        labels[alone:],
        loc="upper right",
        bbox_to_anchor=(1 - 0.2 / figure.get_figwidth(), 1 - 0.45 / figure.get_figheight()),
        borderaxespad=0,
        borderpad=0 if d > 1 else 1,  # alone, the panel leaves no triangle empty
        title="contours hold 20, 50, 80, 95 %" if d > 1 else None,
        fontsize=8 + d / 2,
        title_fontsize=7.5 + d / 2,
    )
    return figure


def _inner_ticks(ends: Limits, inches: float) -> list[float]:
    """A few round numbers, none so near an end that its label touches that of the next panel."""
    low, high = ends
    edge = 0.16 / inches * (high - low)
    ticks = MaxNLocator(max(4, int(3 * inches)), steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low + edge <= tick <= high - edge]


def _histograms(axes: Axes, data: Array, drawn: Array, ends: Limits) -> None:
    """Shares of data and samples in each bin of a column, of all values, also those outside."""
    bins = np.linspace(*ends, 41)
    shares = [np.histogram(values, bins)[0] / max(len(values), 1) for values in (data, drawn)]
    axes.stairs(shares[0], bins, fill=True, color=DATA, alpha=0.3, lw=0)
    axes.stairs(shares[1], bins, color=MODEL, lw=1.2)


def _contours(axes: Axes, data: Array, drawn: Array, window: Window) -> None:
    """Filled contours of the data, and lines of the samples, which hold the same shares."""
    xs, ys = (np.linspace(*ends, 2 * BINS + 1)[1::2] for ends in window)  # middles of the bins
    if levels := _levels(heights := _heights(data, window)):
        axes.contourf(xs, ys, heights, [*levels, np.inf], colors=BLUES[-len(levels) :])
    if levels := _levels(heights := _heights(drawn, window)):
        axes.contour(xs, ys, heights, levels, colors=MODEL, linewidths=0.9)


def _heights(points: Array, window: Window) -> Array:
    """A smoothed histogram `(BINS, BINS)` of points `(rows, 2)`, indexed by y, then x."""
    heights, *_ = np.histogram2d(points[:, 0], points[:, 1], BINS, range=list(window))
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.6) ** 2)
    for axis in (0, 1):
        heights = np.apply_along_axis(np.convolve, axis, heights, kernel / kernel.sum(), "same")
    return heights.T


def _levels(heights: Array) -> list[float]:
    """Heights whose contours hold the shares MASSES of the points, in rising order."""
    ordered = np.sort(heights.ravel())[::-1]
    held = np.cumsum(ordered)
    picks = [ordered[np.searchsorted(held, mass * held[-1])] for mass in MASSES]
    return [float(level) for level in np.unique(picks) if level > 0]

"""Charts of any flow: data and samples of a table, its training, and its latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Generator, Tensor

from diffeo.bases import Base
from diffeo.figures import style
from diffeo.figures.style import Array, Limits, Window, house_style, panel, plain, tick, write
from diffeo.flow import Flow, eval_mode
from diffeo.utils.modules import on_device

COLUMNS = 8  # drawn of a table
BINS = 56  # along each side of a pair
MASSES = (0.95, 0.8, 0.5, 0.2)  # shares of the points that contours hold
LEVELS = 4  # panels of latents in a row, at most


@house_style()
def corner(x: Tensor | None, samples: Tensor, columns: Sequence[str]) -> Figure:
    """Data x against samples, `(rows, features)` each, column by column and pair by pair.

    The limits are those of the data, from its 0.5 % to its 99.5 % quantile; contours hold 20, 50,
    80 and 95 % of the points within them. Of more than 8 columns the first 8 are drawn. Without x
    the samples are drawn alone.

    Raises:
        ValueError: if x and samples are not tables of the same, named columns.
    """
    alone = x is None
    x = samples[:0] if x is None else x
    style.check_table(samples if alone else x, columns)
    if samples.ndim != 2 or samples.shape[1] != x.shape[1]:
        wanted = f"(rows, {x.shape[1]})"
        raise ValueError(f"expected samples of shape {wanted}, got {tuple(samples.shape)}.")
    d = min(x.shape[1], COLUMNS)
    data, drawn = style.to_numpy(x[:, :d]), style.to_numpy(samples[:, :d])
    not_finite = int((~style.finite_rows(drawn)).sum())
    data, drawn = data[style.finite_rows(data)], drawn[style.finite_rows(drawn)]
    ends = [
        style.limits(values, tail=0.005, margin=0.06) for values in (drawn if alone else data).T
    ]

    side, gap, left, bottom = max(1.25, 4.2 / d), 0.14, 0.85, 0.6
    size = d * side + (d - 1) * gap
    figure = style.Drawing(figsize=(left + size + 0.2, bottom + size + 0.45))
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
    keys = [Patch(color=style.DATA, alpha=0.3, lw=0), Line2D([], [], color=style.MODEL, lw=1.2)]
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
    axes.stairs(shares[0], bins, fill=True, color=style.DATA, alpha=0.3, lw=0)
    axes.stairs(shares[1], bins, color=style.MODEL, lw=1.2)


def _contours(axes: Axes, data: Array, drawn: Array, window: Window) -> None:
    """Filled contours of the data, and lines of the samples, which hold the same shares."""
    xs, ys = (np.linspace(*ends, 2 * BINS + 1)[1::2] for ends in window)  # middles of the bins
    if levels := _levels(heights := _heights(data, window)):
        axes.contourf(xs, ys, heights, [*levels, np.inf], colors=style.BLUES[-len(levels) :])
    if levels := _levels(heights := _heights(drawn, window)):
        axes.contour(xs, ys, heights, levels, colors=style.MODEL, linewidths=0.9)


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


@house_style()
def training_curve(
    epochs: Sequence[float],
    train: Sequence[float],
    validation: Sequence[float],
    *,
    floor: float | None = None,
    unit: str = "nats",
    title: str | None = None,
) -> Figure:
    """Negative log-likelihood (NLL) by epoch, and the best epoch of the validation curve.

    NaN stands for what was not measured, and `floor` is the lowest NLL that any model can reach.

    Raises:
        ValueError: if there is no finite value.
    """
    at, curves = np.asarray(epochs, float), np.array([train, validation], float)
    good = np.isfinite(curves)
    if not good.any():
        raise ValueError("there is no finite NLL to draw.")
    # The first epochs fall from so high that on their scale the rest would be a flat line.
    low = min(float(curves[good].min()), np.inf if floor is None else floor)
    high = max(float(np.quantile(curves[good], 0.9)), low)
    pad = 0.12 * (high - low) or 0.5

    figure = style.Drawing(figsize=(6.4, 3.6))
    axes = panel(figure, 0.75, 0.55, 5.45, 2.65)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=style.LINE, lw=0.5, alpha=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_axisbelow(True)
    axes.plot(at[good[0]], curves[0, good[0]], color=style.DATA, lw=1.2, label="train")
    axes.plot(at[good[1]], curves[1, good[1]], color=style.MODEL, lw=1.8, label="validation")
    if good[1].any():
        best = int(np.where(good[1], curves[1], np.inf).argmin())
        label = f"best: {curves[1, best]:.5g} at epoch {tick(at[best])}"
        axes.plot(at[best], curves[1, best], "o", ms=6, mfc="white", color=style.MODEL, label=label)
    if floor is not None:
        axes.axhline(floor, color=style.GREY, lw=1, ls=(0, (4, 3)), label=f"floor: {floor:.5g}")
    axes.set(xlabel="epoch", ylabel=f"NLL ({unit})", ylim=(low - pad, high + pad))
    axes.margins(x=0.02)
    axes.legend(loc="upper right")
    axes.set_title(plain(title or "negative log-likelihood while training"))
    return figure


@house_style()
@np.errstate(over="ignore")  # squares of what a diverged flow gives
def latent_histograms(flow: Flow, x: Tensor, context: Tensor | None = None) -> Figure:
    """The latents of x `(batch, *shape)` by level, and the base density that they should follow.

    Level 1 is the finest. Heights are densities, so that a histogram's area is 1. A panel shows
    every finite value, or, where some lie far out, 99 % of them; it then says how many it omits.

    Raises:
        ValueError: if x is empty, or x or context has the wrong shape or dtype.
    """
    if not len(x):
        raise ValueError("x is empty: pass at least one event.")
    with eval_mode(flow):
        # The middles of a dequantizer's cells would lie closer together than the base's noise.
        noise = Generator().manual_seed(0)
        z = flow.encode(*on_device(x, context, flow.device), generator=noise)
        levels = flow.split_latents(z)
    base = flow.base
    rows = -(-len(levels) // LEVELS)
    columns = -(-len(levels) // rows)
    width, height = (3.9, 2.5) if len(levels) == 1 else (2.3, 1.6)
    gap, between, left, bottom = 0.55, 0.85, 0.6, 0.75
    size = left + columns * (width + gap) - gap + 0.2, bottom + rows * (height + between) - 0.25
    figure = style.Drawing(figsize=size)
    for i, level in enumerate(levels):
        row, column = divmod(i, columns)
        place = left + column * (width + gap), bottom + (rows - 1 - row) * (height + between)
        axes = panel(figure, *place, width, height)
        values = style.to_numpy(level).ravel()
        finite = values[np.isfinite(values)]
        _histogram(axes, finite, base, len(values) - len(finite))
        shape = " x ".join(map(str, level.shape[1:])) + (" numbers" if level.ndim == 2 else "")
        axes.set_title(f"level {i + 1}: {shape}\n{_moments(finite)}", color=style.LATENT)
        axes.tick_params(labelsize=7.5)
        if row == rows - 1 or i + columns >= len(levels):
            axes.set_xlabel("z")
    name = type(base).__name__.lower()
    caption = f"all values of {len(x):,} encoded events; the line is the standard {name}"
    write(figure, 0.15, 0.14, caption, size=8, color=style.GREY)
    return figure


def _histogram(axes: Axes, values: Array, base: Base, not_finite: int) -> None:
    """A histogram of finite values, the base density over it, and how many are not drawn."""
    usual = reach = style.latent_reach(base) + 0.5
    if len(values):
        most, every = np.quantile(np.abs(values), [0.99, 1])
        reach = max(usual, 1.05 * float(most if every > 3 * usual else every))
    bins = min(80, max(10, math.isqrt(len(values))))
    counts, edges = np.histogram(values, bins, range=(-reach, reach))
    heights = counts / (max(len(values), 1) * np.diff(edges))
    axes.stairs(heights, edges, fill=True, color=style.LATENT, alpha=0.35, lw=0)
    # Where the limits are wide, even steps would jump over the peak in the middle.
    z = np.sort(np.concatenate([np.linspace(-end, end, 301) for end in (usual, reach)]))
    curve = style.base_density(base, z)
    axes.plot(z, curve, color=style.INK, lw=1.1)
    omitted = {"beyond": len(values) - int(counts.sum()), "not finite": not_finite}
    notes = "\n".join(f"{count:,} {why}" for why, count in omitted.items() if count)
    axes.text(
        1, 0.98, notes, size=7.5, color=style.GREY, ha="right", va="top", transform=axes.transAxes
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    # Values that are widely spread make low bars, which the density's peak must not press flat.
    high, top = float(heights.max()), float(curve.max())
    axes.set(xlim=(-reach, reach), ylim=(0, 1.08 * max(high, min(top, 3 * high or top))))


def _moments(values: Array) -> str:
    """Mean and standard deviation in few digits."""
    if not len(values):
        return "no finite value"
    moments = float(values.mean()), float(values.std())
    mean, std = (f"{v:z.3f}" if abs(v) < 10 else tick(v, digits=3) for v in moments)
    return f"mean {mean}, std {std}".replace("-", "\N{MINUS SIGN}")

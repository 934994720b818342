"""Histograms of a flow's latents against its base density, level by level."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Generator, Tensor

from diffeo.bases import Base
from diffeo.context import Context
from diffeo.figures.points import base_density, latent_reach, to_numpy
from diffeo.figures.style import GREY, INK, LATENT, Array, house_style, panel, tick, write
from diffeo.flow import Flow, eval_mode

COLUMNS = 4  # panels in a row, at most
BINS = 80  # of a histogram, at most


@house_style()
@np.errstate(over="ignore")  # squares of what a diverged flow gives
def latent_histograms(
    flow: Flow, x: Shaped[Tensor, "batch *shape"], context: Context | None = None
) -> Figure:
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
        noise = Generator(x.device).manual_seed(0)
        levels = flow.split_latents(flow.encode(x, context, generator=noise))
    base = flow.base
    rows = -(-len(levels) // COLUMNS)
    columns = -(-len(levels) // rows)
    width, height = (3.9, 2.5) if len(levels) == 1 else (2.3, 1.6)
    gap, between, left, bottom = 0.55, 0.85, 0.6, 0.75
    size = left + columns * (width + gap) - gap + 0.2, bottom + rows * (height + between) - 0.25
    figure = Figure(figsize=size)
    for i, level in enumerate(levels):
        row, column = divmod(i, columns)
        place = left + column * (width + gap), bottom + (rows - 1 - row) * (height + between)
        axes = panel(figure, *place, width, height)
        values = to_numpy(level).ravel()
        finite = values[np.isfinite(values)]
        _histogram(axes, finite, base, len(values) - len(finite))
        shape = " x ".join(map(str, level.shape[1:])) + (" numbers" if level.ndim == 2 else "")
        axes.set_title(f"level {i + 1}: {shape}\n{_moments(finite)}", color=LATENT)
        axes.tick_params(labelsize=7.5)
        if row == rows - 1 or i + columns >= len(levels):
            axes.set_xlabel("z")
    name = type(base).__name__.lower()
    caption = f"all values of {len(x):,} encoded events; the line is the standard {name}"
    write(figure, 0.15, 0.14, caption, size=8, color=GREY)
    return figure


def _histogram(axes: Axes, values: Array, base: Base, not_finite: int) -> None:
    """A histogram of finite values, the base density over it, and how many are not drawn."""
    usual = reach = latent_reach(base) + 0.5
    if len(values):
        most, every = np.quantile(np.abs(values), [0.99, 1])
        reach = max(usual, 1.05 * float(most if every > 3 * usual else every))
    bins = min(BINS, max(10, math.isqrt(len(values))))
    counts, edges = np.histogram(values, bins, range=(-reach, reach))
    heights = counts / (max(len(values), 1) * np.diff(edges))
    axes.stairs(heights, edges, fill=True, color=LATENT, alpha=0.35, lw=0)
    # Where the limits are wide, even steps would jump over the peak in the middle.
    z = np.sort(np.concatenate([np.linspace(-end, end, 301) for end in (usual, reach)]))
    curve = base_density(base, z)
    axes.plot(z, curve, color=INK, lw=1.1)
    omitted = {"beyond": len(values) - int(counts.sum()), "not finite": not_finite}
    notes = "\n".join(f"{count:,} {why}" for why, count in omitted.items() if count)
    axes.text(1, 0.98, notes, size=7.5, color=GREY, ha="right", va="top", transform=axes.transAxes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    # Values that are widely spread make low bars, which the density's peak must not press flat.
    high, top = float(heights.max()), float(curve.max())
    axes.set(xlim=(-reach, reach), ylim=(0, 1.08 * max(high, min(top, 3 * high or top))))


def _moments(values: Array) -> str:
    """Mean and standard deviation in few digits."""
    if not len(values):
        return "no finite value"
    return f"mean {_short(float(values.mean()))}, std {_short(float(values.std()))}"


def _short(value: float) -> str:
    if abs(value) < 10:
        return f"{value:z.3f}".replace("-", "\N{MINUS SIGN}")
    return tick(float(f"{value:.3g}")) if math.isfinite(value) else str(value)

"""The latents of a flow against its base density, level by level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Generator, Tensor

from diffeo.bijections.base import Context
from diffeo.figures.plane import REACH
from diffeo.figures.points import numbers
from diffeo.figures.style import (
    GREY,
    INK,
    LATENT,
    Array,
    house_style,
    panel,
    tick,
    write,
)
from diffeo.flow import Flow, eval_mode

COLUMNS = 4  # panels in a row, at most
BINS = 80  # of a histogram, at most


@house_style()
@np.errstate(over="ignore")  # squares of what a diverged flow gives
def latent_histograms(
    flow: Flow, x: Shaped[Tensor, "batch *shape"], context: Context | None = None
) -> Figure:
    """The values of each level of encoded x, and the base density that they should follow.

    Level 1 is the finest. Heights are densities, so that a histogram's area is 1. Its limits hold
    every finite value, or, where some lie far out, 99 % of them; it says then how many it leaves.

    Args:
        flow: any flow.
        x: data `(batch, *shape)`.
        context: `(batch, context_features)` for a conditional flow.

    Raises:
        ValueError: if x is empty, or x or context has the wrong shape or dtype.
    """
    if not len(x):
        raise ValueError("x is empty: pass at least one event.")
    with eval_mode(flow):
        # The middles of a dequantizer's cells would lie closer together than the base's noise.
        noise = Generator(x.device).manual_seed(0)
        levels = flow.split_latents(flow.encode(x, context, generator=noise))
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
        values = numbers(level).ravel()
        drawn = values[np.isfinite(values)]
        _histogram(axes, drawn, flow.base, len(values) - len(drawn))
        shape = " x ".join(map(str, level.shape[1:])) + (" numbers" if level.ndim == 2 else "")
        axes.set_title(f"level {i + 1}: {shape}\n{_moments(drawn)}", color=LATENT)
        axes.tick_params(labelsize=7.5)
        if row == rows - 1 or i + columns >= len(levels):
            axes.set_xlabel("z")
    caption = f"all values of {len(x):,} encoded events; the line is the standard {flow.base}"
    write(figure, 0.15, 0.14, caption, size=8, color=GREY)
    return figure


def _histogram(axes: Axes, values: Array, base: str, left_out: int) -> None:
    """Share of finite values per unit of z, the base density over it, and what is not drawn."""
    usual = reach = REACH[base] + 0.5
    if len(values):
        most, every = np.quantile(np.abs(values), [0.99, 1])
        reach = max(usual, 1.05 * float(most if every > 3 * usual else every))
    bins = min(BINS, max(10, math.isqrt(len(values))))
    counts, edges = np.histogram(values, bins, range=(-reach, reach))
    heights = counts / (max(len(values), 1) * np.diff(edges))
    axes.stairs(heights, edges, fill=True, color=LATENT, alpha=0.35, lw=0)
    # Where the limits are wide, even steps would jump over the bump in the middle.
    z = np.sort(np.concatenate([np.linspace(-end, end, 301) for end in (usual, reach)]))
    curve = base_density(z, base)
    axes.plot(z, curve, color=INK, lw=1.1)
    missing = {"beyond": len(values) - int(counts.sum()), "not finite": left_out}
    notes = "\n".join(f"{count:,} {why}" for why, count in missing.items() if count)
    place: dict[str, Any] = {"ha": "right", "va": "top", "transform": axes.transAxes}
    axes.text(1, 0.98, notes, size=7.5, color=GREY, **place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    # Values all over the place make low heights, that the density must not press flat.
    high, top = float(heights.max()), float(curve.max())
    axes.set(xlim=(-reach, reach), ylim=(0, 1.08 * max(high, min(top, 3 * high or top))))


def base_density(z: Array, base: str) -> Array:
    """The base density in one dimension."""
    if base == "normal":
        return np.exp(-0.5 * np.square(z)) / math.sqrt(2 * math.pi)
    tail = np.exp(-np.abs(z))
    return tail / np.square(1 + tail)


def _moments(values: Array) -> str:
    """Mean and standard deviation in few digits."""
    if not len(values):
        return "no finite value"
    return f"mean {_short(float(values.mean()))}, std {_short(float(values.std()))}"


def _short(value: float) -> str:
    if abs(value) < 10:
        return f"{value:z.3f}".replace("-", "\N{MINUS SIGN}")
    return tick(float(f"{value:.3g}")) if math.isfinite(value) else str(value)

"""The density of a flow of two features as a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Generator, Tensor

from diffeo.bijections.base import Context
from diffeo.figures.plane import mean_context
from diffeo.figures.points import check, finite, numbers, square, thin
from diffeo.figures.style import DENSITY, INK, dots, entitle, house_style, panel, plain
from diffeo.flow import Flow, eval_mode

CELLS = 240  # along each side


@house_style()
def density_map(
    flow: Flow,
    x: Float[Tensor, "batch 2"],
    context: Context | None = None,
    columns: Sequence[str] = ("x0", "x1"),
) -> Figure:
    """The flow's density, exp(log_prob), over the range of the data, and the data upon it.

    Args:
        flow: a flow of two features.
        x: data `(rows, 2)`.
        context: `(rows, context_features)`; the density is the one at its mean row.
        columns: names of the two features.

    Raises:
        ValueError: if x is not `(rows, 2)`, or has no finite row.
    """
    check(x, columns, plane=True)
    data = numbers(thin(x))
    (x0, x1), (y0, y1) = square(numbers(x))
    middles = (np.arange(CELLS) + 0.5) / CELLS
    mesh = np.meshgrid(x0 + middles * (x1 - x0), y0 + middles * (y1 - y0))
    grid = x.new_tensor(np.stack(mesh, axis=-1).reshape(-1, 2))
    mean, where = mean_context(context, len(grid))
    # A dequantizer draws noise: from a source of our own, so that the same flow looks the same.
    generator = Generator(x.device).manual_seed(0)
    with eval_mode(flow):
        log_prob = flow.log_prob(grid, mean, generator=generator)
    density = numbers(log_prob.double().exp()).reshape(CELLS, CELLS)
    good = np.isfinite(density)
    top, usual = np.quantile(density[good], [1, 0.999]) if good.any() else (1.0, 1.0)
    # One spike must not turn the rest of the map white.
    spiky = 0 < 2 * usual < top

    figure = Figure(figsize=(5.55, 4.75))
    axes = panel(figure, 0.65, 0.55, 3.85, 3.85)
    heat = axes.imshow(
        np.where(good, density, np.nan),
        extent=(x0, x1, y0, y1),
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
        cmap=DENSITY,
        vmin=0,
        vmax=float(usual if spiky else top) or 1.0,
    )
    dots(axes, data[finite(data)], s=2, color=INK, alpha=0.5)
    axes.set(xlabel=plain(columns[0], 40), ylabel=plain(columns[1], 40))
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    entitle(axes, f"density and data{where}", int((~good).sum()))
    place = panel(figure, 4.65, 0.55, 0.13, 3.85)
    bar = figure.colorbar(heat, cax=place, extend="max" if spiky else "neither")
    bar.outline.set_visible(False)
    bar.set_label("density (per unit area)")
    return figure

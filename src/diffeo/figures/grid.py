"""How a flow of two features bends the latent plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from diffeo.bijections.base import Context
from diffeo.figures.plane import REACH, latent_window, mean_context
from diffeo.figures.points import check, finite, numbers, square, thin
from diffeo.figures.style import GREY, LATENT, WHEEL, dots, entitle, house_style, panel, plain
from diffeo.flow import Flow, eval_mode

NODES = 721  # of each line


@house_style()
def latent_grid(
    flow: Flow,
    x: Float[Tensor, "batch 2"],
    context: Context | None = None,
    columns: Sequence[str] = ("x0", "x1"),
) -> Figure:
    """Circles and spokes of the latent plane, and what `flow.decode` makes of them in data space.

    Args:
        flow: a flow of two features.
        x: data `(rows, 2)`, drawn faintly below.
        context: `(rows, context_features)`; the grid is decoded at its mean row.
        columns: names of the two features.

    Raises:
        ValueError: if x is not `(rows, 2)`, or has no finite row.
    """
    check(x, columns, plane=True)
    data = numbers(thin(x))
    turn, reach = np.linspace(0, 2 * np.pi, NODES), np.linspace(0.0, 3.0, NODES)
    circles = [(np.full(NODES, radius), turn) for radius in np.arange(0.5, 3.1, 0.5)]
    spokes = [(reach, np.full(NODES, angle)) for angle in np.arange(16) * np.pi / 8]
    radii, angles = np.stack(circles + spokes, axis=1)
    unit = REACH[flow.base] / REACH["normal"]
    lines = unit * np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)
    colors = WHEEL(angles[:, 1:].ravel() / (2 * np.pi) % 1)
    flat = x.new_tensor(lines.reshape(-1, 2))
    mean, where = mean_context(context, len(flat))
    with eval_mode(flow):
        pulled = numbers(flow.decode(flat, mean)).reshape(lines.shape)

    side, left, bottom, gap = 3.4, 0.65, 0.55, 0.7
    figure = Figure(figsize=(left + 2 * side + gap + 0.15, bottom + side + 0.38))
    space, latent = (panel(figure, left + i * (side + gap), bottom, side, side) for i in (0, 1))
    dots(space, data[finite(data)], s=3, color=GREY, alpha=0.4)
    for axes, curves, (xlim, ylim) in (
        (space, pulled, square(numbers(x))),
        (latent, lines, latent_window(flow)),
    ):
        segments = np.stack([curves[:, :-1], curves[:, 1:]], axis=2).reshape(-1, 2, 2)
        keep = np.isfinite(segments).all(axis=(1, 2))
        drawn = LineCollection(list(segments[keep]), colors=colors[keep], lw=1, capstyle="round")
        axes.add_collection(drawn, autolim=False)
        axes.set(xlim=xlim, ylim=ylim)
    space.set(xlabel=plain(columns[0], 40), ylabel=plain(columns[1], 40))
    latent.set(xlabel="z0", ylabel="z1")
    entitle(space, f"decoded grid{where}", int((~finite(pulled)).sum()))
    entitle(latent, "the grid in latent space", color=LATENT)
    return figure

"""Both ways through a flow: data to latent space, and noise to data space."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Generator, Tensor

from diffeo.bijections.base import Context
from diffeo.figures.plane import latent_window
from diffeo.figures.points import Window, check, finite, numbers, square, thin
from diffeo.figures.style import (
    DATA,
    GREY,
    LATENT,
    LINE,
    WHEEL,
    Array,
    dots,
    entitle,
    house_style,
    panel,
    write,
)
from diffeo.flow import Flow, eval_mode


@house_style()
def four_panels(
    flow: Flow,
    x: Float[Tensor, "batch 2"],
    context: Context | None = None,
    *,
    generator: Generator,
    title: str | None = None,
) -> Figure:
    """Data X and f(X) above, g(Z) and base noise Z below; a point keeps its colour on its way.

    Data space stands on the left and latent space on the right, so a good flow shows the same
    cloud twice in each column. At most 2,000 evenly spread rows are drawn, as many of noise.

    Args:
        flow: a flow of two features.
        x: data `(rows, 2)`.
        context: `(rows, context_features)` for a conditional flow; Z is decoded with it too.
        generator: the only source of the noise.
        title: a line above the panels.

    Raises:
        ValueError: if x is not `(rows, 2)`, or has no finite row.
    """
    check(x, "xy", plane=True)
    x, context = thin(x), None if context is None else thin(context)
    noise = flow.noise(len(x), generator)
    with eval_mode(flow):
        fx, gz = flow.encode(x, context), flow.decode(noise, context)
    data, encoded, latent, decoded = (numbers(points) for points in (x, fx, noise, gz))
    windows = square(data), latent_window(flow)
    by_data, by_latent = _angle(data, windows[0]), _angle(latent, windows[1])

    side, gap, left, bottom, step = 2.75, 0.62, 0.45, 0.62, 2.75 + 0.42
    height = bottom + step + side + (0.7 if title else 0.35)
    figure = Figure(figsize=(left + 2 * side + gap + 0.15, height))
    for name, color, points, turn, column, row in (
        ("data X", DATA, data, by_data, 0, 1),
        ("encoded data f(X)", DATA, encoded, by_data, 1, 1),
        ("noise Z", LATENT, latent, by_latent, 1, 0),
        ("decoded noise g(Z)", LATENT, decoded, by_latent, 0, 0),
    ):
        axes = panel(figure, left + column * (side + gap), bottom + row * step, side, side)
        keep = finite(points)
        entitle(axes, name, int((~keep).sum()), color)
        dots(axes, points[keep], c=turn[keep], cmap=WHEEL, vmin=0, vmax=1, s=5)
        axes.set(xlim=windows[column][0], ylim=windows[column][1])
        axes.tick_params(labelbottom=row == 0)
        if column == 1 and flow.base == "normal":
            # One, two and three standard deviations; the logistic's are no circles.
            for radius in (1, 2, 3):
                axes.add_patch(Circle((0, 0), radius, fill=False, lw=0.7, color=LINE, zorder=0))
    for row, text in ((1, "f\n→"), (0, "g\n←")):
        place = left + side + gap / 2 - 0.02, bottom + row * step + side / 2
        write(figure, *place, text, size=13, color=GREY, ha="center", va="center")
    caption = "each row has its own colours, and a point keeps its colour on its way"
    write(figure, left, 0.14, caption, size=8, color=GREY)
    if title:
        write(figure, left, height - 0.32, title, size=12, weight="bold")
    return figure


def _angle(points: Array, window: Window) -> Array:
    """Direction of each point as seen from the middle of the window, as a part of a turn."""
    ends = np.array(window)
    dx, dy = ((points - ends.mean(axis=1)) / np.ptp(ends, axis=1)).T
    return np.arctan2(dy, dx) / (2 * np.pi) % 1

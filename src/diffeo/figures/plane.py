"""Figures of a flow of two features: its density, its latent grid, and both directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Generator, Tensor

from diffeo.bases import Normal
from diffeo.figures import style
from diffeo.figures.style import (
    Array,
    Window,
    check_table,
    dots,
    finite_rows,
    house_style,
    panel,
    plain,
    set_title,
    square_window,
    thin,
    to_numpy,
    write,
)
from diffeo.flow import Flow, eval_mode
from diffeo.utils.modules import on_device

CELLS = 240  # of the density, along each side
NODES = 721  # of each line of the grid


@house_style()
def four_panels(
    flow: Flow,
    x: Tensor,
    context: Tensor | None = None,
    *,
    generator: Generator,
    title: str | None = None,
) -> Figure:
    """Data X `(rows, 2)` and f(X) above, g(Z) and base noise Z below; a point keeps its colour.

    Data space is on the left and latent space on the right, so a good flow shows the same cloud
    twice in each column. At most 2,000 evenly spread rows are drawn, and as many points of noise,
    which come from the generator alone and are decoded with the context of the rows.

    Raises:
        ValueError: if x is not `(rows, 2)`, or has no finite row.
    """
    check_table(x, "xy", two=True)
    x, context = thin(x), None if context is None else thin(context)
    noise = flow.noise(len(x), generator)
    with eval_mode(flow):
        x, context = on_device(x, context, flow.device)
        fx, gz = flow.encode(x, context), flow.decode(noise, context)
    data, encoded, latent, decoded = (to_numpy(points) for points in (x, fx, noise, gz))
    windows = square_window(data), _latent_window(flow)
    by_data, by_latent = _angle(data, windows[0]), _angle(latent, windows[1])

    side, gap, left, bottom, step = 2.75, 0.62, 0.45, 0.62, 2.75 + 0.42
    height = bottom + step + side + (0.7 if title else 0.35)
    figure = style.Drawing(figsize=(left + 2 * side + gap + 0.15, height))
    for name, color, points, turn, column, row in (
        ("data X", style.DATA, data, by_data, 0, 1),
        ("encoded data f(X)", style.DATA, encoded, by_data, 1, 1),
        ("noise Z", style.LATENT, latent, by_latent, 1, 0),
        ("decoded noise g(Z)", style.LATENT, decoded, by_latent, 0, 0),
    ):
        axes = panel(figure, left + column * (side + gap), bottom + row * step, side, side)
        finite = finite_rows(points)
        set_title(axes, name, int((~finite).sum()), color)
        dots(axes, points[finite], c=turn[finite], cmap=style.WHEEL, vmin=0, vmax=1, s=5)
        axes.set(xlim=windows[column][0], ylim=windows[column][1])
        axes.tick_params(labelbottom=row == 0)
        if column == 1 and isinstance(flow.base, Normal):
            for radius in (1, 2, 3):  # standard deviations; other bases have no circles
                axes.add_patch(Circle((0, 0), radius, fc="none", ec=style.LINE, lw=0.7, zorder=0))
    for row, text in ((1, "f\n→"), (0, "g\n←")):
        place = left + side + gap / 2 - 0.02, bottom + row * step + side / 2
        write(figure, *place, text, size=13, color=style.GREY, ha="center", va="center")
    caption = "each row has its own colours, and a point has the same colour in both panels"
    write(figure, left, 0.14, caption, size=8, color=style.GREY)
    write(figure, left, height - 0.32, title or "", size=12, weight="bold")
    return figure


@house_style()
def density_map(
    flow: Flow,
    x: Tensor,
    context: Tensor | None = None,
    columns: Sequence[str] = ("x0", "x1"),
) -> Figure:
    """The density exp(log_prob) over the range of data x `(rows, 2)`, with the data as points.

    That of a conditional flow is drawn at the mean of the context, `(rows, context_features)`.

    Raises:
        ValueError: if x is not `(rows, 2)`, or has no finite row.
    """
    check_table(x, columns, two=True)
    data = to_numpy(thin(x))
    (x0, x1), (y0, y1) = square_window(to_numpy(x))
    middles = (np.arange(CELLS) + 0.5) / CELLS
    mesh = np.meshgrid(x0 + middles * (x1 - x0), y0 + middles * (y1 - y0))
    grid = x.new_tensor(np.stack(mesh, axis=-1).reshape(-1, 2))
    mean, note = _mean_context(context, len(grid))
    # A dequantizer draws noise: with a seed of its own, so that a flow looks the same each time.
    generator = Generator().manual_seed(0)
    with eval_mode(flow):
        log_prob = flow.log_prob(*on_device(grid, mean, flow.device), generator=generator)
    density = to_numpy(log_prob.cpu().double().exp()).reshape(CELLS, CELLS)
    finite = np.isfinite(density)
    top, usual = np.quantile(density[finite], [1, 0.999]) if finite.any() else (1.0, 1.0)
    # One spike must not turn the rest of the map white.
    spiky = 0 < 2 * usual < top

    figure = style.Drawing(figsize=(5.55, 4.75))
    axes = panel(figure, 0.65, 0.55, 3.85, 3.85)
    heat = axes.imshow(
        np.where(finite, density, np.nan),
        extent=(x0, x1, y0, y1),
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
        cmap=style.DENSITY,
        vmin=0,
        vmax=float(usual if spiky else top) or 1.0,
    )
    dots(axes, data[finite_rows(data)], s=2, color=style.INK, alpha=0.5)
    axes.set(xlabel=plain(columns[0], 40), ylabel=plain(columns[1], 40))
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    set_title(axes, f"density and data{note}", int((~finite).sum()))
    place = panel(figure, 4.65, 0.55, 0.13, 3.85)
    bar = figure.colorbar(heat, cax=place, extend="max" if spiky else "neither")
    bar.outline.set_visible(False)
    bar.set_label("density (per unit area)")
    return figure


@house_style()
def latent_grid(
    flow: Flow,
    x: Tensor,
    context: Tensor | None = None,
    columns: Sequence[str] = ("x0", "x1"),
) -> Figure:
    """Circles and spokes of the latent plane, and `flow.decode` of them in data space.

    Data x `(rows, 2)` are drawn faintly below. A conditional flow decodes them at the mean of the
    context, `(rows, context_features)`.

    Raises:
        ValueError: if x is not `(rows, 2)`, or has no finite row.
    """
    check_table(x, columns, two=True)
    data, window = to_numpy(thin(x)), _latent_window(flow)
    turn, reach = np.linspace(0, 2 * np.pi, NODES), np.linspace(0.0, 3.0, NODES)
    circles = [(np.full(NODES, radius), turn) for radius in np.arange(0.5, 3.1, 0.5)]
    spokes = [(reach, np.full(NODES, angle)) for angle in np.arange(16) * np.pi / 8]
    radii, angles = np.stack(circles + spokes, axis=1)
    unit = window[0][1] / 3.5  # standard deviations of a normal base
    lines = unit * np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)
    colors = style.WHEEL(angles[:, 1:].ravel() / (2 * np.pi) % 1)
    z = x.new_tensor(lines.reshape(-1, 2))
    mean, note = _mean_context(context, len(z))
    with eval_mode(flow):
        decoded = to_numpy(flow.decode(*on_device(z, mean, flow.device))).reshape(lines.shape)

    side, left, bottom, gap = 3.4, 0.65, 0.55, 0.7
    figure = style.Drawing(figsize=(left + 2 * side + gap + 0.15, bottom + side + 0.38))
    space, latent = (panel(figure, left + i * (side + gap), bottom, side, side) for i in (0, 1))
    dots(space, data[finite_rows(data)], s=3, color=style.GREY, alpha=0.4)
    panels = (space, decoded, square_window(to_numpy(x))), (latent, lines, window)
    for axes, curves, (xlim, ylim) in panels:
        segments = np.stack([curves[:, :-1], curves[:, 1:]], axis=2).reshape(-1, 2, 2)
        finite = np.isfinite(segments).all(axis=(1, 2))
        drawn = LineCollection(
            list(segments[finite]), colors=colors[finite], lw=1, capstyle="round"
        )
        axes.add_collection(drawn, autolim=False)
        axes.set(xlim=xlim, ylim=ylim)
    space.set(xlabel=plain(columns[0], 40), ylabel=plain(columns[1], 40))
    latent.set(xlabel="z0", ylabel="z1")
    set_title(space, f"decoded grid{note}", int((~finite_rows(decoded)).sum()))
    set_title(latent, "the grid in latent space", color=style.LATENT)
    return figure


def _latent_window(flow: Flow) -> Window:
    reach = style.latent_reach(flow.base)
    return (-reach, reach), (-reach, reach)


def _mean_context(context: Tensor | None, rows: int) -> tuple[Tensor | None, str]:
    """The mean of the context, repeated `(rows, width)`, and a note for the title."""
    if context is None:
        return None, ""
    return context.mean(dim=0, keepdim=True).expand(rows, -1), ", at the mean context"


def _angle(points: Array, window: Window) -> Array:
    """The direction of each point from the middle of the window, as a share of a turn."""
    ends = np.array(window)
    dx, dy = ((points - ends.mean(axis=1)) / np.ptp(ends, axis=1)).T
    return np.arctan2(dy, dx) / (2 * np.pi) % 1

"""Every picture of the package, in one house style."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from diffeo.flow import Flow

Array = NDArray[Any]
Limits = tuple[float, float]
Window = tuple[Limits, Limits]
Table = Float[Tensor, "rows features"]

POINTS = 2_000  # drawn of each cloud
COLUMNS = 8  # drawn of a table
REACH = {"normal": 3.5, "logistic": 6.5}  # of the latent panels, from 0
MASSES = (0.95, 0.8, 0.5, 0.2)  # shares of the points that contours hold
GIF_WIDTH, GIF_COLORS = 640, 128

# Style --------------------------------------------------------------------------------------------


def _oklch(lightness: Any, chroma: Any, hue: Any) -> Any:
    """SRGB `(..., 3)` of OKLCH colours, hue in degrees; equal steps look equal (Ottosson 2020)."""
    a, b = chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
    long = lightness + 0.3963377774 * a + 0.2158037573 * b
    medium = lightness - 0.1055613458 * a - 0.0638541728 * b
    short = lightness - 0.0894841775 * a - 1.2914855480 * b
    to_rgb = [
        [4.0767416621, -1.2684380046, -0.0041960863],
        [-3.3077115913, 2.6097574011, -0.7034186147],
        [0.2309699292, -0.3413193965, 1.7076147010],
    ]
    linear = np.clip(np.stack([long, medium, short], axis=-1) ** 3 @ to_rgb, 0, 1)
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


DATA, MODEL, LATENT = (
    to_hex(_oklch(*color)) for color in ((0.52, 0.12, 250), (0.66, 0.18, 38), (0.55, 0.16, 305))
)
INK, GREY, LINE = "#2f3542", "#7a8190", "#d3d7de"
BLUES = [to_hex(_oklch(0.93 - 0.12 * i, 0.03 + 0.025 * i, 250)) for i in range(len(MASSES))]

_t = np.linspace(0, 1, 256)
DENSITY = ListedColormap(
    _oklch(1 - 0.5 * _t, 0.2 * np.sin(0.6 * np.pi * _t), 75 - 55 * _t), name="density"
)
WHEEL = ListedColormap(_oklch(0.68, 0.145, 360 * _t + 20), name="wheel")

STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titlepad": 7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": GREY,
    "ytick.labelcolor": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}
_style_lock = threading.RLock()


@contextmanager
def _style() -> Iterator[None]:
    # matplotlib has one table of settings for all threads: two that change and restore it at the
    # same time would leave ours behind.
    with _style_lock, matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, without a display and outside pyplot's registry."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches: a fixed layout is quicker than a solved one, and steadier."""
    w, h = figure.get_size_inches()
    axes = figure.add_axes((left / w, bottom / h, width / w, height / h))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(_tick))
    return axes


def _write(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    """Text at a place in inches."""
    figure.text(x, y, _plain(text), transform=figure.dpi_scale_trans, **options)


def _tick(value: float, position: int | None = None) -> str:
    """A number as a short label: `-20`, `0.003`, `1.5e6`."""
    text = f"{value:.6g}"
    if value and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.5e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", "\N{MINUS SIGN}")


def _plain(text: str, width: int = 200) -> str:
    """Text cut to a width, with `$` as itself and not as the start of a formula."""
    text = text if len(text) <= width else text[: width - 1].rstrip() + "…"
    return text.replace("$", r"\$")


def _name(axes: Axes, title: str, left_out: int = 0, color: str = INK) -> None:
    """What a panel shows, and how many points it leaves out."""
    axes.set_title(_plain(title), color=color)
    if left_out:
        axes.set_title(f"{left_out:,} not finite", loc="right", fontsize=7.5, color=GREY)


def _dots(axes: Axes, points: Array, **options: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], linewidths=0, **options)


# Numbers ------------------------------------------------------------------------------------------


@contextmanager
def _still(flow: Flow) -> Iterator[None]:
    """The flow in eval mode and without gradients; every module's own mode comes back after."""
    modes = [(module, module.training) for module in flow.modules()]
    flow.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _numbers(x: Tensor) -> Array:
    array: Array = x.detach().to("cpu", torch.float64).numpy()
    return array


def _finite(points: Array) -> NDArray[np.bool_]:
    """Which rows have nothing but finite values."""
    return np.asarray(np.isfinite(points).all(axis=-1))


def _check(x: Tensor, columns: Sequence[str], at_most: int | None = 2) -> None:
    """Refuse what is no table of at least two columns, or of more than can be drawn."""
    if x.ndim != 2 or x.shape[1] < 2 or (at_most is not None and x.shape[1] > at_most):
        wanted = "2" if at_most == 2 else "at least 2"
        raise ValueError(f"expected x of shape (rows, {wanted}), got {tuple(x.shape)}.")
    if len(columns) != x.shape[1]:
        raise ValueError(f"{len(columns)} column names were given for {x.shape[1]} columns.")
    if not bool(torch.isfinite(x).all(dim=1).any()):
        raise ValueError("x has no row of finite values to draw.")


def _thin(x: Tensor, n: int = POINTS) -> Tensor:
    """At most n rows, evenly spread over the table: the same ones at every call."""
    if len(x) <= n:
        return x
    return x[torch.linspace(0, len(x) - 1, n, device=x.device).long()]


def _limits(values: Array, tail: float = 0.0, margin: float = 0.08) -> Limits:
    """From the lower to the upper tail quantile of the finite values, and some margin."""
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    pad = margin * (high - low) or max(0.5, 0.05 * abs(high))
    return float(low - pad), float(high + pad)


def _window(points: Array) -> Window:
    """Limits of a square panel, of one scale on both axes unless one range dwarfs the other."""
    x, y = (_limits(points[:, i], tail=0.0005) for i in (0, 1))
    spans = x[1] - x[0], y[1] - y[0]
    if max(spans) > 2.5 * min(spans):
        return x, y
    half = max(spans) / 2
    (left, right), (low, high) = ((sum(ends) / 2 - half, sum(ends) / 2 + half) for ends in (x, y))
    return (left, right), (low, high)


def _angle(points: Array, window: Window) -> Array:
    """Direction of each point as seen from the middle of the window, as a part of a turn."""
    ends = np.array(window)
    dx, dy = ((points - ends.mean(axis=1)) / (ends[:, 1] - ends[:, 0])).T
    return np.asarray(np.arctan2(dy, dx) / (2 * np.pi) % 1)


def _latent_window(flow: Flow) -> Window:
    reach = REACH[flow.base]
    return (-reach, reach), (-reach, reach)


def _rings(axes: Axes, flow: Flow) -> None:
    """One, two and three standard deviations of the base, where they are circles."""
    if flow.base == "normal":
        for radius in (1, 2, 3):
            axes.add_patch(Circle((0, 0), radius, fill=False, lw=0.7, color=LINE, zorder=0))


def _noise(flow: Flow, like: Tensor, generator: Generator) -> Tensor:
    """Base noise in the shape of `like`."""
    noise = like.new_empty(like.shape, device=generator.device)
    if flow.base == "normal":
        noise.normal_(generator=generator)
    else:
        noise.uniform_(generator=generator).logit_(eps=torch.finfo(like.dtype).eps)
    return noise.to(like.device)


def _mean_context(context: Tensor | None, rows: int) -> tuple[Tensor | None, str]:
    """The context's mean as that many rows, and what the title says of it."""
    if context is None:
        return None, ""
    return context.mean(dim=0, keepdim=True).expand(rows, -1), ", at the mean context"


# Two columns --------------------------------------------------------------------------------------


@_style()
def four_panels(
    flow: Flow,
    x: Table,
    context: Table | None = None,
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
    _check(x, "xy")
    x, context = _thin(x), None if context is None else _thin(context)
    noise = _noise(flow, x, generator)
    with _still(flow):
        fx, gz = flow.encode(x, context), flow.decode(noise, context)
    data, encoded, latent, decoded = (_numbers(points) for points in (x, fx, noise, gz))
    windows = _window(data), _latent_window(flow)
    by_data, by_latent = _angle(data, windows[0]), _angle(latent, windows[1])

    side, gap, left, bottom, step = 2.75, 0.62, 0.45, 0.62, 2.75 + 0.42
    height = bottom + step + side + (0.7 if title else 0.35)
    figure = _figure(left + 2 * side + gap + 0.15, height)
    for name, color, points, turn, column, row in (
        ("data X", DATA, data, by_data, 0, 1),
        ("encoded data f(X)", DATA, encoded, by_data, 1, 1),
        ("noise Z", LATENT, latent, by_latent, 1, 0),
        ("decoded noise g(Z)", LATENT, decoded, by_latent, 0, 0),
    ):
        axes = _panel(figure, left + column * (side + gap), bottom + row * step, side, side)
        keep = _finite(points)
        _name(axes, name, int((~keep).sum()), color)
        _dots(axes, points[keep], c=turn[keep], cmap=WHEEL, vmin=0, vmax=1, s=5)
        axes.set(xlim=windows[column][0], ylim=windows[column][1])
        axes.tick_params(labelbottom=row == 0)
        if column == 1:
            _rings(axes, flow)
    for row, text in ((1, "f\n→"), (0, "g\n←")):
        place = left + side + gap / 2 - 0.02, bottom + row * step + side / 2
        _write(figure, *place, text, size=13, color=GREY, ha="center", va="center")
    caption = "each row has its own colours, and a point keeps its colour on its way"
    _write(figure, left, 0.14, caption, size=8, color=GREY)
    if title:
        _write(figure, left, height - 0.32, title, size=12, weight="bold")
    return figure


@_style()
def density_map(
    flow: Flow,
    x: Table,
    context: Table | None = None,
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
    _check(x, columns)
    data = _numbers(_thin(x))
    (x0, x1), (y0, y1) = _window(_numbers(x))
    cells = 240
    middles = (np.arange(cells) + 0.5) / cells
    mesh = np.meshgrid(x0 + middles * (x1 - x0), y0 + middles * (y1 - y0))
    grid = x.new_tensor(np.stack(mesh, axis=-1).reshape(-1, 2))
    mean, where = _mean_context(context, len(grid))
    # A dequantizer draws noise: from a source of our own, so that the same flow looks the same.
    generator = Generator(x.device).manual_seed(0)
    with _still(flow):
        density = _numbers(flow.log_prob(grid, mean, generator=generator).double().exp())
    good = np.isfinite(density)
    top, usual = np.quantile(density[good], [1, 0.999]) if good.any() else (1.0, 1.0)
    # One spike must not turn the rest of the map white.
    spiky = 0 < 2 * usual < top

    figure = _figure(5.55, 4.75)
    axes = _panel(figure, 0.65, 0.55, 3.85, 3.85)
    heat = axes.imshow(
        np.where(good, density, np.nan).reshape(cells, cells),
        extent=(x0, x1, y0, y1),
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
        cmap=DENSITY,
        vmin=0,
        vmax=float(usual if spiky else top) or 1.0,
    )
    _dots(axes, data[_finite(data)], s=2, color=INK, alpha=0.5)
    axes.set(xlabel=_plain(columns[0], 40), ylabel=_plain(columns[1], 40))
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    _name(axes, f"density and data{where}", int((~good).sum()))
    place = _panel(figure, 4.65, 0.55, 0.13, 3.85)
    bar = figure.colorbar(heat, cax=place, extend="max" if spiky else "neither")
    bar.outline.set_visible(False)
    bar.set_label("density (per unit area)")
    return figure


@_style()
def latent_grid(
    flow: Flow,
    x: Table,
    context: Table | None = None,
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
    _check(x, columns)
    data, window = _numbers(_thin(x)), _window(_numbers(x))
    nodes, scale = 721, REACH[flow.base] / 3.5
    turn, reach = np.linspace(0, 2 * np.pi, nodes), np.linspace(0.0, 3.0, nodes)
    polar = [(np.full(nodes, radius), turn) for radius in np.arange(0.5, 3.1, 0.5)]
    polar += [(reach, np.full(nodes, angle)) for angle in np.arange(16) * np.pi / 8]
    lines = scale * np.stack([np.stack([r * np.cos(t), r * np.sin(t)], -1) for r, t in polar])
    colors = WHEEL(np.stack([t for _, t in polar])[:, 1:].ravel() / (2 * np.pi) % 1)
    flat = x.new_tensor(lines.reshape(-1, 2))
    mean, where = _mean_context(context, len(flat))
    with _still(flow):
        pulled = _numbers(flow.decode(flat, mean)).reshape(lines.shape)

    side, left, bottom, gap = 3.4, 0.65, 0.55, 0.7
    figure = _figure(left + 2 * side + gap + 0.15, bottom + side + 0.38)
    space, latent = (_panel(figure, left + i * (side + gap), bottom, side, side) for i in (0, 1))
    _dots(space, data[_finite(data)], s=3, color=GREY, alpha=0.4)
    for axes, curves, (xlim, ylim) in (
        (space, pulled, window),
        (latent, lines, _latent_window(flow)),
    ):
        segments = np.stack([curves[:, :-1], curves[:, 1:]], axis=2).reshape(-1, 2, 2)
        keep = np.isfinite(segments).all(axis=(1, 2))
        drawn = LineCollection(list(segments[keep]), colors=colors[keep], lw=1, capstyle="round")
        axes.add_collection(drawn, autolim=False)
        axes.set(xlim=xlim, ylim=ylim)
    space.set(xlabel=_plain(columns[0], 40), ylabel=_plain(columns[1], 40))
    latent.set(xlabel="z0", ylabel="z1")
    _name(space, f"decoded grid{where}", int((~_finite(pulled)).sum()))
    _name(latent, "the grid in latent space", color=LATENT)
    return figure


# Any number of columns ----------------------------------------------------------------------------


@_style()
def corner(x: Table, samples: Table, columns: Sequence[str]) -> Figure:
    """Data against samples, column by column and pair by pair.

    The limits are those of the data, from its 0.5 % to its 99.5 % quantile; contours hold 20, 50,
    80 and 95 % of the points within them. Of more than 8 columns the first 8 are drawn.

    Args:
        x: data `(rows, features)`, features at least 2.
        samples: drawn from the model, `(any number, features)`.
        columns: names of the features.

    Raises:
        ValueError: if x and samples are not tables of the same, named columns.
    """
    _check(x, columns, at_most=None)
    if samples.ndim != 2 or samples.shape[1] != x.shape[1]:
        wanted = f"(rows, {x.shape[1]})"
        raise ValueError(f"expected samples of shape {wanted}, got {tuple(samples.shape)}.")
    d = min(x.shape[1], COLUMNS)
    data, drawn = _numbers(x[:, :d]), _numbers(samples[:, :d])
    left_out = int((~_finite(drawn)).sum())
    data, drawn = data[_finite(data)], drawn[_finite(drawn)]
    limits = [_limits(data[:, i], tail=0.005, margin=0.06) for i in range(d)]

    side, gap, left, bottom = max(1.25, 4.2 / d), 0.14, 0.85, 0.6
    size = d * side + (d - 1) * gap
    figure = _figure(left + size + 0.2, bottom + size + 0.45)
    for row in range(d):
        for column in range(row + 1):
            place = left + column * (side + gap), bottom + (d - 1 - row) * (side + gap)
            axes = _panel(figure, *place, side, side)
            if row == column:
                _histograms(axes, data[:, row], drawn[:, row], limits[row])
            else:
                window, pair = (limits[column], limits[row]), [column, row]
                _contours(axes, data[:, pair], drawn[:, pair], window)
                axes.set(ylim=limits[row])
            axes.set(xlim=limits[column])
            axes.set_xticks(_inner_ticks(limits[column], side))
            axes.set_yticks([] if row == column else _inner_ticks(limits[row], side))
            axes.tick_params(labelbottom=row == d - 1, labelleft=column == 0, labelsize=7.5)
            if row == d - 1:
                axes.set_xlabel(_plain(columns[column], 16))
            if column == 0:
                axes.set_ylabel(_plain(columns[row], 16))
    figure.align_labels()
    # The empty triangle is the place for the words.
    title = f"first {d} of {x.shape[1]} columns" if x.shape[1] > d else "data and samples"
    _write(figure, left, bottom + size + 0.17, title, size=10 + d / 2, weight="bold")
    handles = [Patch(color=DATA, alpha=0.3, lw=0), Line2D([], [], color=MODEL, lw=1.2)]
    labels = [f"data, {len(data):,} rows", f"samples, {len(drawn):,} rows"]
    if left_out:
        labels[1] += f"\n({left_out:,} not finite, left out)"
    figure.legend(
        handles,
        labels,
        loc="upper right",
        bbox_to_anchor=(1 - 0.2 / figure.get_figwidth(), 1 - 0.45 / figure.get_figheight()),
        borderaxespad=0,
        borderpad=0,
        title="contours hold 20, 50, 80, 95 %",
        fontsize=8 + d / 2,
        title_fontsize=7.5 + d / 2,
    )
    return figure


def _inner_ticks(limits: Limits, inches: float) -> list[float]:
    """A few round numbers, none so near an end that its label meets that of the next panel."""
    low, high = limits
    edge = 0.16 / inches * (high - low)
    ticks = MaxNLocator(max(4, int(3 * inches)), steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low + edge <= tick <= high - edge]


def _histograms(axes: Axes, data: Array, drawn: Array, limits: Limits) -> None:
    """Both shares per bin of one column; what falls outside the limits still counts in them."""

    def draw(values: Array, **options: Any) -> None:
        weights = np.full(len(values), 1 / max(len(values), 1))
        axes.hist(values, bins=40, range=limits, weights=weights, **options)

    draw(data, color=DATA, alpha=0.3, histtype="stepfilled")
    draw(drawn, color=MODEL, lw=1.2, histtype="step")


def _heights(points: Array, window: Window) -> tuple[Array, Array, Array]:
    """A smooth histogram `(bins, bins)` of points `(rows, 2)`, and the middles of its bins."""
    bins = 56
    counts, xs, ys = np.histogram2d(points[:, 0], points[:, 1], bins, range=list(window))
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.6) ** 2)
    for axis in (0, 1):
        counts = np.apply_along_axis(np.convolve, axis, counts, kernel / kernel.sum(), mode="same")
    return counts.T, (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2


def _levels(heights: Array) -> list[float]:
    """Heights whose contours hold the shares MASSES of the points, in rising order."""
    ordered = np.sort(heights.ravel())[::-1]
    held = np.cumsum(ordered)
    picks = [ordered[np.searchsorted(held, mass * held[-1])] for mass in MASSES]
    return [float(level) for level in np.unique(picks) if level > 0]


def _contours(axes: Axes, data: Array, drawn: Array, window: Window) -> None:
    """Filled contours of the data, and lines of the samples, that hold the same shares of each."""
    heights, xs, ys = _heights(data, window)
    if levels := _levels(heights):
        axes.contourf(xs, ys, heights, [*levels, np.inf], colors=BLUES[-len(levels) :])
    heights, xs, ys = _heights(drawn, window)
    if levels := _levels(heights):
        axes.contour(xs, ys, heights, levels, colors=MODEL, linewidths=0.9)


# Training -----------------------------------------------------------------------------------------


@_style()
def training_curve(
    epochs: Sequence[float],
    train: Sequence[float],
    validation: Sequence[float],
    *,
    floor: float | None = None,
    title: str | None = None,
) -> Figure:
    """Negative log-likelihood by epoch, in nats, and the best epoch of the validation curve.

    Args:
        epochs: number of each epoch.
        train: mean NLL of the training split at each of them; NaN where it was not measured.
        validation: the same of the validation split.
        floor: the lowest NLL that any model can reach, where it is known.
        title: what was trained.

    Raises:
        ValueError: if the lists differ in length, or hold no finite value.
    """
    if not len(epochs) == len(train) == len(validation):
        lengths = f"{len(epochs)}, {len(train)} and {len(validation)}"
        raise ValueError(f"epochs, train and validation differ in length: {lengths}.")
    at, curves = np.asarray(epochs, float), np.array([train, validation], float)
    finite = curves[np.isfinite(curves)]
    if not finite.size:
        raise ValueError("there is no finite NLL to draw.")
    # The first epochs fall from so high that on their scale the rest would be a flat line.
    low = min(float(finite.min()), np.inf if floor is None else floor)
    high = max(float(np.quantile(finite, 0.9)), low)
    pad = 0.12 * (high - low) or 0.5

    figure = _figure(6.4, 3.6)
    axes = _panel(figure, 0.75, 0.55, 5.45, 2.65)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=LINE, lw=0.5, alpha=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_axisbelow(True)
    for name, color, width, curve in zip(
        ("train", "validation"), (DATA, MODEL), (1.2, 1.8), curves, strict=True
    ):
        keep = np.isfinite(curve)
        axes.plot(at[keep], curve[keep], color=color, lw=width, label=name)
    if np.isfinite(curves[1]).any():
        best = int(np.nanargmin(np.where(np.isfinite(curves[1]), curves[1], np.nan)))
        label = f"best: {curves[1, best]:.5g} at epoch {_tick(at[best])}"
        axes.plot(at[best], curves[1, best], "o", ms=6, mfc="white", color=MODEL, label=label)
    if floor is not None:
        axes.axhline(floor, color=GREY, lw=1, ls=(0, (4, 3)), label=f"floor: {floor:.5g}")
    axes.set(xlabel="epoch", ylabel="NLL (nats)", ylim=(low - pad, high + pad))
    axes.margins(x=0.02)
    axes.legend(loc="upper right")
    axes.set_title(_plain(title or "negative log-likelihood while training"))
    return figure


# Files --------------------------------------------------------------------------------------------


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name to write to, in the same folder, that takes the place of `path` once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@_style()
def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; the kind of file is that of the suffix, and the folder is made if need be.

    A reader never meets half a picture: the file is written beside and then put in place.
    """
    with _beside(Path(path)) as partial:
        figure.savefig(partial, format=partial.suffix[1:] or "png")


def animate(frames: Sequence[Path], out: str | os.PathLike[str], milliseconds: int = 120) -> None:
    """Put pictures of one size, in their order, into an endless GIF that rests on the last one.

    Args:
        frames: files that Pillow reads.
        out: the GIF, written beside and then put in place.
        milliseconds: time of each frame but the last, which stays for 2 seconds.

    Raises:
        ValueError: if there are no frames, or their sizes differ.
    """
    if not frames:
        raise ValueError("there are no frames to animate.")
    pictures = []
    for frame in frames:
        with Image.open(frame) as picture:
            pictures.append(picture.convert("RGB"))
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1:
        raise ValueError(f"frames must be of one size, but these are {sizes}.")
    width, height = sizes[0]
    if width > GIF_WIDTH:
        size = GIF_WIDTH, round(height * GIF_WIDTH / width)
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    # One palette from all the frames: with one for each, still parts would flicker.
    step = -(-len(pictures) // 8)
    strip = np.concatenate([np.asarray(picture)[::2, ::2] for picture in pictures[::-step]])
    palette = Image.fromarray(strip).quantize(GIF_COLORS, Image.Quantize.MAXCOVERAGE, kmeans=2)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with _beside(Path(out)) as partial:
        indexed[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=indexed[1:],
            duration=[milliseconds] * (len(indexed) - 1) + [2_000],
            loop=0,
        )

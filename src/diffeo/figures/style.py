"""What all figures share: colours, settings, placed panels, short labels, limits; and `save`."""

from __future__ import annotations

import copy
import io
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from diffeo.bases import Base
from diffeo.utils.files import atomic_write

Array = NDArray[Any]
Limits = tuple[float, float]
Window = tuple[Limits, Limits]


# Blue for data, orange for samples of the model, violet for latents. The steps of each scale look
# equally large (they are equally spaced in OKLCH, Ottosson 2020).
DATA, MODEL, LATENT = "#286cab", "#ea6134", "#8854bb"
INK, GREY, LINE = "#2f3542", "#7a8190", "#d3d7de"
BLUES = ["#d9eafc", "#a7c4e4", "#759fcb", "#437bb3"]
DENSITY = LinearSegmentedColormap.from_list(
    "density", ["#ffffff", "#ffdcba", "#ffb47b", "#fe8949", "#f15f2c", "#d8362a", "#b71532"]
)
WHEEL = LinearSegmentedColormap.from_list(
    "wheel",
    [
        *("#e46f72", "#de7a3c", "#c78c00", "#9e9f11", "#64ad53", "#00b48a", "#00b1bc"),
        *("#00a7e0", "#6197f1", "#9a86ea", "#c078ce", "#d96fa4", "#e46f72"),
    ],
)

DPI = 160  # of a file
STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": DPI,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titlepad": 7,
    **dict.fromkeys(("xtick.color", "ytick.color"), LINE),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), GREY),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 8),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 3),
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}
_lock = threading.RLock()


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with these settings, in a block or in a decorated function."""
    # matplotlib has one table of settings for all threads: two that change and restore it at the
    # same time would leave these behind.
    with _lock, matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        yield


class Drawing(Figure):
    """A figure that a notebook shows where a cell returns it, without pyplot.

    Others are shown there by pyplot alone, which keeps each of its figures until it is closed.
    """

    def _repr_png_(self) -> bytes:
        """The figure as a PNG."""
        file = io.BytesIO()
        with house_style():
            self.savefig(file, format="png")
        return file.getvalue()


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches: a fixed layout is faster than a solved one, and more stable."""
    w, h = figure.get_size_inches()
    axes = figure.add_axes((left / w, bottom / h, width / w, height / h))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(tick)
    return axes


def write(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    """Text at a place in inches."""
    if text.strip():
        figure.text(x, y, plain(text), transform=figure.dpi_scale_trans, **options)


def tick(value: float, position: object = None, digits: int = 6) -> str:
    """A number as a short label: `-20`, `0.003`, `1.5e6`."""
    text = f"{value:.{digits}g}"
    if math.isfinite(value) and value and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", "\N{MINUS SIGN}")


def plain(text: str, width: int = 200) -> str:
    """Text shortened to a width, with `$` as itself and not as the start of a formula."""
    text = text if len(text) <= width else text[: width - 1].rstrip() + "…"
    return text.replace("$", r"\$")


def set_title(axes: Axes, title: str, not_finite: int = 0, color: str = INK) -> None:
    """A panel's title, and how many points it omits because they are not finite."""
    axes.set_title(title, color=color)
    if not_finite:
        axes.set_title(f"{not_finite:,} not finite", loc="right", fontsize=7.5, color=GREY)


def dots(axes: Axes, points: Array, **options: Any) -> None:
    """Points `(rows, 2)` without an outline."""
    axes.scatter(*points.T, linewidths=0, **options)


@house_style()
def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure atomically; the suffix chooses the file format, missing folders are made."""
    with atomic_write(Path(path)) as partial:
        kind = partial.suffix[1:] or "png"
        # Files a tenth larger, in half the time, which is a good part of that of drawing.
        options: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
        figure.savefig(partial, format=kind, **options)


# What to draw, and where --------------------------------------------------------------------------


def check_table(x: Tensor, columns: Sequence[str], *, two: bool = False) -> None:
    """Refuse x `(rows, columns)` if it cannot be drawn: the errors say why."""
    if x.ndim != 2 or x.shape[1] < 1 or (two and x.shape[1] != 2):
        wanted = "2" if two else "at least 1"
        raise ValueError(f"expected x of shape (rows, {wanted}), got {tuple(x.shape)}.")
    if len(columns) != x.shape[1]:
        raise ValueError(f"{len(columns)} column names were given for {x.shape[1]} columns.")
    if not finite_rows(to_numpy(x)).any():
        raise ValueError("x has no row of finite values to draw.")


def to_numpy(x: Tensor) -> Array:
    """In float64, on the CPU."""
    return x.detach().cpu().double().numpy()


def finite_rows(points: Array) -> NDArray[np.bool_]:
    """Which rows have only finite values."""
    return np.asarray(np.isfinite(points).all(axis=-1))


def thin(x: Tensor, n: int = 2_000) -> Tensor:
    """At most n rows, evenly spread over the table."""
    return x if len(x) <= n else x[torch.linspace(0, len(x) - 1, n, device=x.device).long()]


def limits(values: Array, tail: float, margin: float) -> Limits:
    """From the lower to the upper tail quantile of the finite values, and some margin."""
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    pad = margin * (high - low) or max(0.5, 0.05 * abs(high))
    return float(low - pad), float(high + pad)


def square_window(points: Array) -> Window:
    """Limits of a square panel, of one scale on both axes unless one range dwarfs the other."""
    x, y = (limits(values, tail=0.0005, margin=0.08) for values in points.T)
    spans = x[1] - x[0], y[1] - y[0]
    if max(spans) > 2.5 * min(spans):
        return x, y
    half = max(spans) / 2
    (left, right), (low, high) = ((sum(ends) / 2 - half, sum(ends) / 2 + half) for ends in (x, y))
    return (left, right), (low, high)


def base_density(base: Base, z: Array) -> Array:
    """The base density in one dimension, or the mean of those of all, of z `(n,)`."""
    return to_numpy(copy.deepcopy(base).cpu().marginal(torch.from_numpy(z)).exp())


def latent_reach(base: Base) -> float:
    """The half-width of panels of latents: where the base density falls below e^-5 of its peak."""
    z = np.arange(-50, 50, 0.5)
    density = base_density(base, z)
    return float(np.abs(z[density >= np.exp(-5) * density.max()]).max()) + 0.5

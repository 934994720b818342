"""The style of all figures: colours, settings, placed panels, short labels; and `save`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from diffeo.utils.files import atomic_write

Array = NDArray[Any]


def oklch(lightness: Any, chroma: Any, hue: Any) -> Any:
    """OKLCH colours, hue in degrees, as sRGB `(..., 3)`; equal steps look equal (Ottosson 2020)."""
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


DATA = to_hex(oklch(0.52, 0.12, 250))
MODEL = to_hex(oklch(0.66, 0.18, 38))
LATENT = to_hex(oklch(0.55, 0.16, 305))
INK, GREY, LINE = "#2f3542", "#7a8190", "#d3d7de"

_t = np.linspace(0, 1, 256)
DENSITY = ListedColormap(
    oklch(1 - 0.5 * _t, 0.2 * np.sin(0.6 * np.pi * _t), 75 - 55 * _t), name="density"
)
WHEEL = ListedColormap(oklch(0.68, 0.145, 360 * _t + 20), name="wheel")

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


def mount(colors: Array, left: int, right: int, bottom: int, top: int) -> Figure:
    """A figure of an array of colours `(height, width, 3)`, with margins in pixels of the file.

    Each pixel of the array is one of a file that `save` writes.
    """
    tall, wide = colors.shape[:2]
    figure = Figure(figsize=((left + wide + right) / DPI, (bottom + tall + top) / DPI))
    axes = panel(figure, left / DPI, bottom / DPI, wide / DPI, tall / DPI)
    axes.imshow(colors, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return figure


def tick(value: float, position: object = None) -> str:
    """A number as a short label: `-20`, `0.003`, `1.5e6`."""
    text = f"{value:.6g}"
    if value and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.5e}".split("e")
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

"""Images of our own: the bundled digits, and drawn shapes with known attributes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffeo.data.images.dataset import ImageOptions, Pixels
from diffeo.data.images.source import ImageSource, Part, rows_part
from diffeo.utils.ranges import Count, Whole, checked

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

VERSION = 1  # of the drawing
DEFAULT_ROWS, DEFAULT_SIZE = 20_000, 24

SHAPES = ("circle", "square", "triangle")
HUES = {"red": 25.0, "green": 150.0, "blue": 255.0}  # degrees in OKLCH
# Shares of the image's width. The largest triangle, however it is turned, touches the edge where
# it is farthest from the middle: so the place can be drawn without regard to shape and size.
SIZE, STROKE, PLACE, ROTATION = (0.17, 0.28), (0.035, 0.075), (0.365, 0.635), (-25.0, 25.0)
SQUARE, TRIANGLE = np.sqrt(np.pi) / 2, 1.3 / 2  # apothems of size 1

_BLOCK = 256  # images that share a stream of random numbers
_DRAWS = 16  # random numbers for each image; some are not used yet
_PIXELS = 2**18  # of images drawn at once, which bounds the memory


def open_digits(options: ImageOptions) -> ImageSource:
    """Scikit-learn's 1,797 digits, 8 x 8 pixels of v = 0 to 16, here floor(255 v / 16)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * 255 // 16).astype(np.uint8)
    return ImageSource(
        options.source,
        "rows",
        lambda: [rows_part(digits.target.tolist(), {}, pixels)],
        None,
        [str(i) for i in range(10)],
    )


def open_shapes(options: ImageOptions) -> ImageSource:
    """As many shapes as `options.rows`, in `options.size`, drawn with `options.seed` as needed."""
    rows = DEFAULT_ROWS if options.rows is None else options.rows
    size = DEFAULT_SIZE if options.size is None else options.size
    seed = options.seed

    def parts() -> list[Part]:
        u = _draws(rows, seed)
        batches = (pixels.transpose(0, 2, 3, 1) for pixels in _drawn(u, size))
        contents = map(np.ascontiguousarray, itertools.chain.from_iterable(batches))
        return [rows_part([None] * rows, _attributes(u), contents)]

    facts = repr(["shapes", VERSION, rows, size, seed])
    return ImageSource(
        options.source, "rows", parts, lambda: hashlib.sha256(facts.encode()).hexdigest()
    )


@checked
def draw_shapes(
    n: Count = DEFAULT_ROWS, size: Count = DEFAULT_SIZE, seed: Whole = 0
) -> tuple[Pixels, Columns]:
    """Draws images of one shape each, with their attributes, which are all independent.

    Args:
        n: how many images; the first are the same however many there are.
        size: their height and width in pixels.
        seed: the same seed draws the same images; the global random state is not touched.

    Returns:
        Pixels, uint8 `[n, 3, size, size]`, and columns `[n]`:

        - `shape`: circle, square or triangle.
        - `colour`: red, green or blue, all of about the same lightness.
        - `filled`: whether the shape is filled and has a darker outline, or is an outline alone.
        - `stroke`: the width of the outline, as a share of the image's width.
        - `size`: the radius of a circle, as a share of the image's width. A square of that size
          has the circle's area; a triangle's corners are 1.3 times as far from its centre.
        - `x`, `y`: the centre, from 0 (left, top) to 1.
        - `rotation`: in degrees, clockwise; a circle's cannot be seen.
        - `dark`: whether the background is dark or light.
    """
    u = _draws(n, seed)
    return np.concatenate([*_drawn(u, size)]), _attributes(u)


def _draws(n: int, seed: int) -> Floats:
    """Numbers in [0, 1) `[n, draws]`; the first are the same however many there are."""
    blocks = [
        np.random.Generator(np.random.PCG64([seed, block])).random((_BLOCK, _DRAWS))
        for block in range(-(-n // _BLOCK))
    ]
    return np.concatenate(blocks)[:n]


def _drawn(u: Floats, size: int) -> Iterator[Pixels]:
    """The images of numbers `[n, draws]`, a few at a time."""
    at_once = max(1, _PIXELS // size**2)
    for start in range(0, len(u), at_once):
        part = u[start : start + at_once]
        columns = _attributes(part)
        yield _render(columns, part[:, len(columns) :], size)


def _attributes(u: Floats) -> Columns:
    """Columns `[n]` from numbers in [0, 1) `[n, draws]`, each column from its own."""
    return {
        "shape": np.array(SHAPES)[(u[:, 0] * len(SHAPES)).astype(int)],
        "colour": np.array(list(HUES))[(u[:, 1] * len(HUES)).astype(int)],
        "filled": u[:, 2] < 0.5,
        "stroke": _between(u[:, 3], *STROKE),
        "size": _between(u[:, 4], *SIZE),
        "x": _between(u[:, 5], *PLACE),
        "y": _between(u[:, 6], *PLACE),
        "rotation": _between(u[:, 7], *ROTATION),
        "dark": u[:, 8] < 0.5,
    }


def _between(u: Floats, low: float, high: float) -> Floats:
    return low + (high - low) * u


def _render(columns: Columns, u: Floats, size: int) -> Pixels:
    """Images `[n, 3, size, size]`; numbers `[n, 7]` in [0, 1) vary what is no attribute."""
    steps = (np.arange(size) + 0.5) / size - 0.5
    across, down = steps[None, None, :], steps[None, :, None]
    distance = _distance(
        columns, across + 0.5 - _tall(columns["x"]), down + 0.5 - _tall(columns["y"])
    )

    # The background: a tinted grey that runs from a little darker to a little lighter.
    lightness = np.where(
        columns["dark"], _between(u[:, 0], 0.2, 0.28), _between(u[:, 0], 0.9, 0.96)
    )
    tint, turn = 360 * u[:, 1], 2 * np.pi * u[:, 2]
    ends = [_rgb(lightness + change, 0.012, tint) for change in (-0.03, 0.03)]
    ramp = 0.5 + 0.7 * (_tall(np.cos(turn)) * across + _tall(np.sin(turn)) * down)

    # The shape: what is inside, and its outline over that.
    hue = np.array([HUES[name] for name in columns["colour"]]) + _between(u[:, 3], -8, 8)
    lightness = _between(u[:, 4], 0.62, 0.70)
    inside = _rgb(lightness, 0.15, hue)
    shade = np.where(columns["filled"], 0.2, 0.0)
    outline = _rgb(lightness - shade, np.where(columns["filled"], 0.11, 0.15), hue)
    covered = np.clip(0.5 - distance * size, 0, 1)
    hole = np.clip(0.5 - (distance + _tall(columns["stroke"])) * size, 0, 1)

    pixels = np.empty((len(u), 3, size, size), dtype=np.uint8)
    for channel in range(3):
        low, high = (_tall(end[channel]) for end in ends)
        background = low + (high - low) * ramp
        filling = np.where(_tall(columns["filled"]), _tall(inside[channel]), background)
        value = _tall(outline[channel]) * (covered - hole) + filling * hole
        value += background * (1 - covered)
        pixels[:, channel] = np.rint(255 * value)
    return pixels


def _tall(values: NDArray[Any]) -> NDArray[Any]:
    """One value for each image, to be combined with pixels: `[n, 1, 1]`."""
    return values[:, None, None]


def _distance(columns: Columns, x: Floats, y: Floats) -> Floats:
    """The signed distance to the shape's edge, negative inside, in widths of the image.

        circle: |p| - r        polygon: max_k (p . n_k) - apothem

    The latter is exact inside and along the edges, and keeps corners sharp when it is offset.
    """
    angle = _tall(np.deg2rad(columns["rotation"]))
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    square = np.maximum(np.abs(x), np.abs(y))
    slanted = np.sqrt(0.75) * np.abs(x) - 0.5 * y
    triangle = np.maximum(y, slanted)
    radius = _tall(columns["size"])
    shape = _tall(columns["shape"])
    return np.select(
        [shape == "circle", shape == "square"],
        [np.sqrt(x**2 + y**2) - radius, square - SQUARE * radius],
        triangle - TRIANGLE * radius,
    )


def _rgb(lightness: Floats, chroma: Floats | float, hue: Floats) -> list[Floats]:
    """OKLCH colours `[n]` (Ottosson 2020), hue in degrees, as red, green and blue from 0 to 1."""
    a, b = chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = [
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    ]
    return [_encoded(np.clip(light, 0, 1)) for light in linear]


def _encoded(light: Floats) -> Floats:
    """Linear light as values of sRGB."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)

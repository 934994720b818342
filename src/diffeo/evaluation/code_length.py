"""Code lengths of events without any flow: lossless image files, and a histogram of each column."""

from __future__ import annotations

import io
import lzma
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]

# No header, no alignment of bytes, and a window as large as most images.
LZMA = [{"id": lzma.FILTER_LZMA1, "dict_size": 2**20, "lc": 0, "lp": 0, "pb": 0}]
MAX_BINS = 100  # more would make a model's config.json long and add little


# Images -----------------------------------------------------------------------------------------


def image_bits(x: Shaped[Tensor, "batch C H W"]) -> Float64[Tensor, " batch"]:
    """Bits of the shortest lossless file of each image, `(batch,)`.

        L(x) = max(0, min over coders of 8 (bytes(x) - bytes(plain)))

    where `plain` is a uniform grey image of the same size: what a coder writes for any image is
    subtracted, so that headers do not dominate small images. The coders are WebP (prediction from
    neighbours; best for smooth images), reversible JPEG 2000 (wavelets; best for photos), and LZMA
    on the bare pixels (repetitions; best for flat areas, sharp edges and noise). PNG was never the
    shortest of them on MNIST, CIFAR-10 (JPEG) or noise.

    Raises:
        ValueError: if x is not uint8, or Pillow cannot write these formats.

    (Serra et al. 2020, section 3)
    """
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ValueError(
            f"the code length of an image needs uint8 pixels (batch, channels, height, width), not "
            f"{x.dtype} {tuple(x.shape)}: pass them as they are, 0 to 255."
        )
    bits = []
    for pixels in map(np.ascontiguousarray, x.permute(0, 2, 3, 1).numpy(force=True)):
        overheads = _overheads(pixels.shape)
        lengths = [len(code(pixels)) - extra for code, extra in zip(CODERS, overheads, strict=True)]
        bits.append(8 * max(0, min(lengths)))
    return torch.tensor(bits, dtype=torch.float64)


@cache
def _overheads(shape: tuple[int, ...]) -> list[int]:
    """The bytes that each coder writes for a uniform image."""
    plain = np.full(shape, 128, dtype=np.uint8)
    return [len(code(plain)) for code in CODERS]


def _file(pixels: Pixels, file_format: str, **settings: Any) -> bytes:
    height, width, channels = pixels.shape
    if channels != 3:  # grey; other numbers of channels are stacked vertically
        pixels = pixels.transpose(2, 0, 1).reshape(channels * height, width)
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, file_format, **settings)
    except (KeyError, OSError) as error:
        raise ValueError(
            f"this Pillow cannot write {file_format} ({error}): install the one of its own wheel."
        ) from error
    return file.getvalue()


def _jpeg2000(pixels: Pixels) -> bytes:
    # Each level halves the image, down to one pixel at least.
    levels = 1 + min(2, int(math.log2(min(pixels.shape[:2]))))
    settings = {"irreversible": False, "no_jp2": True, "num_resolutions": levels}
    return _file(pixels, "JPEG2000", mct=int(pixels.shape[2] == 3), **settings)


# Each turns pixels `[H, W, C]` into bytes that hold all of them.
CODERS: tuple[Callable[[Pixels], bytes], ...] = (
    lambda pixels: _file(pixels, "WEBP", lossless=True, quality=50, method=4),
    _jpeg2000,
    lambda pixels: lzma.compress(pixels.tobytes(), format=lzma.FORMAT_RAW, filters=LZMA),
)


# Columns of a table -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnDensity:
    """The density of one column on its own, as an order-0 coder learns it from training values.

        q(v) = (n h(v) + c(v)) / (n + 1)

    h is the histogram of the n training values, and c one more value spread as a Cauchy density
    over the histogram's range, half of it inside: the coder's escape. So q integrates to 1, is
    never 0, and falls so slowly outside of the training range that it does not make up for
    outliers.

    Args:
        edges: of the bins, rising `[bins + 1]`.
        counts: training values in each `[bins]`.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def learn(cls, values: Array) -> Self:
        """Bins of about equal counts, 2 n^(2/5) of them and 100 at most, for values `[n]`.

        Edges lie midway between neighbouring values, so that equal values share a bin; few
        different values have a bin each. (The number of bins: Moore 1986)

        Raises:
            ValueError: if there is no finite value.
        """
        values = values[np.isfinite(values)]
        if len(values) == 0:
            raise ValueError("a column without a finite value has no code: pass training rows.")
        levels, counts = np.unique(values.astype(np.float64), return_counts=True)
        middle = (levels[1:] + levels[:-1]) / 2
        if len(middle):
            first, last = 2 * levels[0] - middle[0], 2 * levels[-1] - middle[-1]
        else:
            half = max(abs(levels[0]), 1.0) / 2
            first, last = levels[0] - half, levels[0] + half
        candidates = np.array([first, *middle, last])
        below = np.array([0, *counts.cumsum()])
        bins = min(MAX_BINS, math.ceil(2 * len(values) ** 0.4))
        chosen = np.arange(len(candidates))
        if len(levels) > bins:
            chosen = np.unique(np.searchsorted(below, np.linspace(0, len(values), bins + 1)))
        # Midpoints of neighbours that differ in the last digit alone may round to one of them.
        chosen = chosen[np.diff(candidates[chosen], prepend=-np.inf) > 0]
        return cls(tuple(candidates[chosen].tolist()), tuple(np.diff(below[chosen]).tolist()))

    def log_density(self, values: Array) -> Array:
        """The log q of each value `[n]`, in nats, in the units of the column."""
        edges, counts = np.array(self.edges), np.array(self.counts, dtype=np.float64)
        heights = np.concatenate(([0.0], counts / np.diff(edges), [0.0]))
        place = np.searchsorted(edges, values, side="right")
        place[values == edges[-1]] -= 1
        middle, half = (edges[0] + edges[-1]) / 2, (edges[-1] - edges[0]) / 2
        far = (values - middle) / half
        escape = -np.log(math.pi * half) - np.log1p(far * far)
        with np.errstate(divide="ignore"):
            return np.logaddexp(np.log(heights[place]), escape) - math.log(counts.sum() + 1)

    def to_json(self) -> dict[str, list[float]]:
        """Plain numbers."""
        return {"edges": list(self.edges), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> Self:
        """Read the numbers of `to_json`.

        Raises:
            ValueError: if the edges do not rise, or there is not one count for each bin.
        """
        edges = tuple(map(float, numbers["edges"]))
        counts = tuple(map(int, numbers["counts"]))
        rising = len(edges) > 1 and bool((np.diff(edges) > 0).all() and np.isfinite(edges).all())
        if not rising or len(counts) != len(edges) - 1 or min(counts) < 0:
            raise ValueError("a column's density needs rising edges, and a count for each bin")
        return cls(edges, counts)


def row_nats(
    x: Shaped[Tensor, "batch *shape"], columns: tuple[ColumnDensity, ...]
) -> Float64[Tensor, " batch"]:
    """Nats of each row under independent columns, `(batch,)`, in the units of the data.

        L(x) = -sum_j log q_j(x_j)

    It comes from a density, so it may be below 0.

    Raises:
        ValueError: if there are not as many densities as columns.
    """
    rows = x.flatten(1).numpy(force=True).astype(np.float64)
    if rows.shape[1] != len(columns):
        raise ValueError(
            f"{len(columns)} densities of columns do not fit rows of {rows.shape[1]}: use the "
            "reference of the same model."
        )
    nats = [-density.log_density(rows[:, j]) for j, density in enumerate(columns)]
    return torch.from_numpy(np.sum(nats, axis=0))

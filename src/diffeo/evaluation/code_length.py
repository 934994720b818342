"""The length of the shortest lossless file of an image."""

from __future__ import annotations

import io
import lzma
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]

# No header, no alignment of bytes, and a window as large as most images.
LZMA = [{"id": lzma.FILTER_LZMA1, "dict_size": 2**20, "lc": 0, "lp": 0, "pb": 0}]


def image_bits(x: Tensor) -> Tensor:
    """Bits of the shortest lossless file of each 8-bit image `[batch, C, H, W]`, `(batch,)`.

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

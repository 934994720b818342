"""8-bit pictures: side by side on a sheet, or one to a file; Pillow alone does it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffeo.utils.files import atomic_write

Pixels = NDArray[np.uint8]

PAPER = (233, 236, 241)  # shows between pictures, and where there is none
WRITERS: dict[str, dict[str, Any]] = {  # what Pillow is told, by suffix
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
WRITERS[".jpeg"] = WRITERS[".jpg"]
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA: what a PNG holds


def tile(
    x: UInt8[Tensor, "n channels height width"],
    columns: int | None = None,
    *,
    gap: int = 2,
    smallest: int = 512,
) -> Pixels:
    """Pictures in rows, from the upper left on, as one RGB array `(height, width, 3)`.

    One channel is grey, three are RGB, and four are RGBA, laid over white; of any other number the
    first channel is drawn as grey. Each pixel becomes a square of whole pixels, of the smallest
    size that makes the longer side of the sheet `smallest`; nothing is shrunk.

    Args:
        x: 8-bit pictures `(n, C, H, W)`.
        columns: pictures in a row; by default as many as make the sheet nearly square.
        gap: pixels of the sheet between one picture and the next, in a light colour that also
            fills the missing places of the last row.
        smallest: pixels of the longer side, at least.

    Raises:
        ValueError: if x is not of that shape or dtype, or holds no picture; if columns is less
            than 1, or gap less than 0.
    """
    check_images(x)
    n, _, height, width = x.shape
    if n == 0:
        raise ValueError("there are no pictures to lay out: pass at least one.")
    if columns is None:
        columns = math.ceil(math.sqrt(n * height / width))
        columns = -(-n // -(-n // columns))  # no more than those rows need
    if columns < 1 or gap < 0:
        raise ValueError(
            f"columns and gap are {columns} and {gap}: pass 1 or more columns, and a gap of 0 or "
            "more."
        )
    scales = [
        -(-(smallest - (count - 1) * gap) // (count * side))
        for count, side in ((columns, width), (-(-n // columns), height))
    ]
    return enlarged(x, columns, gap, max(1, min(scales)))


def save_images(
    x: UInt8[Tensor, "n channels height width"],
    path: str | os.PathLike[str],
    columns: int | None = None,
) -> None:
    """Write pictures as the sheet of `tile`, pixel by pixel: .png or .webp, or roughly as .jpg.

    The folder is made if need be; the file is written beside and then put in place.

    Args:
        x: 8-bit pictures `(n, C, H, W)`.
        path: the file; its suffix says what kind.
        columns: pictures in a row; by default as many as make the sheet nearly square.

    Raises:
        ValueError: if the suffix is another, or `tile` refuses x or columns.
    """
    path = Path(path)
    check_image_file(path)
    sheet = Image.fromarray(tile(x, columns))
    with atomic_write(path) as partial:
        sheet.save(partial, **WRITERS[path.suffix.lower()])


def check_image_file(path: Path, others: Iterable[str] = ()) -> None:
    """Refuse a file that `save_images` does not write, and that has none of the other suffixes.

    Raises:
        ValueError: then.
    """
    known = [*WRITERS, *others]
    if path.suffix.lower() not in known:
        raise ValueError(f"{path} cannot be written: end its name in {', '.join(known)}.")


def write_images(
    batches: Iterable[UInt8[Tensor, "n channels height width"]], folder: str | os.PathLike[str]
) -> int:
    """Write each picture to a file of its own, `00000.png` and so on, and return how many.

    A file holds the picture's very pixels, as grey, RGB or RGBA, and is written beside and then
    put in place. One batch at a time is asked for, so there may be any number of them.

    Args:
        batches: 8-bit pictures, `(any number, C, H, W)` each, with C 1, 3 or 4.
        folder: where to; made if need be.

    Raises:
        ValueError: if the folder holds anything, or a batch is not of that shape or dtype.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the pictures.")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} already holds files: name another folder, or empty this one.")
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for x in batches:
        check_images(x)
        if x.shape[1] not in CHANNELS:
            raise ValueError(
                f"pictures of {x.shape[1]} channels fit no PNG: pass 1 (grey), 3 (RGB) or 4 (RGBA)."
            )
        for picture in _last(x):
            with atomic_write(folder / f"{count:05d}.png") as partial:
                Image.fromarray(picture.squeeze(2) if x.shape[1] == 1 else picture).save(partial)
            count += 1
    return count


def check_images(x: Tensor) -> None:
    """Refuse what is no batch of 8-bit pictures.

    Raises:
        ValueError: then.
    """
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"expected pictures of shape (n, C, H, W), got {tuple(x.shape)}.")
    if x.dtype != torch.uint8:
        raise ValueError(f"pictures are {x.dtype}: pass them as torch.uint8, 0 to 255.")


def _last(x: Tensor) -> Pixels:
    """Pictures as `(n, H, W, C)` in NumPy."""
    return x.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()


def _colours(x: Tensor) -> Pixels:
    """What is seen of pictures: RGB `(n, H, W, 3)`."""
    pixels = _last(x)
    channels = pixels.shape[3]
    if channels == 4:
        alpha = pixels[..., 3:].astype(np.uint32)
        over = pixels[..., :3] * alpha + 255 * (255 - alpha)
        return ((over + 127) // 255).astype(np.uint8)
    return pixels if channels == 3 else pixels[..., :1].repeat(3, axis=3)


def enlarged(x: Tensor, columns: int, gap: int, scale: int) -> Pixels:
    """The sheet of `tile`, with each pixel of a picture `scale` pixels wide and high."""
    pictures = _colours(x)
    height, width = scale * x.shape[2], scale * x.shape[3]
    rows = -(-len(pictures) // columns)
    size = rows * (height + gap) - gap, columns * (width + gap) - gap, 3
    sheet = np.full(size, PAPER, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        sheet[top : top + height, left : left + width] = large
    return sheet

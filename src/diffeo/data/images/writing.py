"""8-bit images onto the disk: in a grid, as a PNG file each, or in a column of a Parquet file."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from diffeo.data.images.dataset import Pixels
from diffeo.data.tables.writing import check_writable, write_columns
from diffeo.utils.files import atomic_write

PAPER = (233, 236, 241)  # shows between images, and where there is none
WRITERS: dict[str, dict[str, Any]] = {  # the arguments of Pillow, by suffix
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
WRITERS[".jpeg"] = WRITERS[".jpg"]
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA: what a PNG holds
IMAGE = "image"
# What makes other readers take the column for images rather than for bytes.
NOTES = {"info": {"features": {IMAGE: {"_type": "Image"}}}}


def tile(x: Tensor, columns: int | None = None, *, gap: int = 2, smallest: int = 512) -> Pixels:
    """Images in rows, from the upper left on, as one RGB array `(height, width, 3)`.

    One channel is grey, three are RGB, and four are RGBA, laid over white; of any other number the
    first channel is drawn as grey. Each pixel becomes a square of whole pixels, of the smallest
    size that makes the longer side of the grid `smallest`; nothing is shrunk.

    Args:
        x: 8-bit images `(n, C, H, W)`.
        columns: images in a row; by default as many as make the grid nearly square.
        gap: light pixels between one image and the next.
        smallest: pixels of the longer side, at least.

    Raises:
        ValueError: if x is not of that shape or dtype, or empty; for columns < 1 or gap < 0.
    """
    check_images(x)
    n, _, height, width = x.shape
    if n == 0:
        raise ValueError("there are no images to lay out: pass at least one.")
    if columns is None:
        columns = math.ceil(math.sqrt(n * height / width))
        columns = -(-n // -(-n // columns))  # no more than those rows need
    if columns < 1 or gap < 0:
        raise ValueError(f"columns and gap are {columns} and {gap}: pass at least 1 and 0.")
    scales = [
        -(-(smallest - (count - 1) * gap) // (count * side))
        for count, side in ((columns, width), (-(-n // columns), height))
    ]
    return enlarged(x, columns, gap, max(1, min(scales)))


def enlarged(x: Tensor, columns: int, gap: int, scale: int) -> Pixels:
    """The grid of `tile`, with each pixel of an image `scale` pixels wide and high."""
    images = _colours(x)
    height, width = scale * x.shape[2], scale * x.shape[3]
    rows = -(-len(images) // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), PAPER, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        large = image.repeat(scale, axis=0).repeat(scale, axis=1)
        grid[top : top + height, left : left + width] = large
    return grid


def _colours(x: Tensor) -> Pixels:
    """The visible colours of images: RGB `(n, H, W, 3)`."""
    pixels = channels_last(x)
    channels = pixels.shape[3]
    if channels == 4:
        alpha = pixels[..., 3:].astype(np.uint32)
        over = pixels[..., :3] * alpha + 255 * (255 - alpha)
        return ((over + 127) // 255).astype(np.uint8)
    return pixels if channels == 3 else pixels[..., :1].repeat(3, axis=3)


def channels_last(x: Tensor) -> Pixels:
    """Images `(n, C, H, W)` as `(n, H, W, C)` in NumPy."""
    return x.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()


def save_images(x: Tensor, path: str | os.PathLike[str], columns: int | None = None) -> None:
    """Write images as the grid of `tile`: .png or .webp pixel by pixel, or .jpg with small losses.

    The folder is made if need be; the file appears only when it is whole.

    Raises:
        ValueError: if the suffix is another, or `tile` refuses x or columns.
    """
    path = Path(path)
    check_image_file(path)
    grid = PIL.Image.fromarray(tile(x, columns))
    with atomic_write(path) as partial:
        grid.save(partial, **WRITERS[path.suffix.lower()])


def check_image_file(path: Path, others: Iterable[str] = ()) -> None:
    """Refuse a file that `save_images` does not write, and that has none of the other suffixes."""
    known = [*WRITERS, *others]
    if path.suffix.lower() not in known:
        raise ValueError(f"{path} cannot be written: end its name in {', '.join(known)}.")


def check_images(x: Tensor) -> None:
    """Refuse what is no batch of 8-bit images."""
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"expected images of shape (n, C, H, W), got {tuple(x.shape)}.")
    if x.dtype != torch.uint8:
        raise ValueError(f"images are {x.dtype}: pass them as torch.uint8, 0 to 255.")


def write_images(batches: Iterable[Tensor], folder: str | os.PathLike[str]) -> int:
    """Write each image to a file of its own, `00000.png` and so on, and return how many.

    A file holds the image's very pixels, as grey, RGB or RGBA, and appears only when it is whole.
    One batch `(n, C, H, W)` at a time is asked for, so there may be any number of them.

    Raises:
        ValueError: if the folder holds anything, or a batch is not of that shape or dtype.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the images.")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} already holds files: name another folder, or empty this one.")
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for x in batches:
        for image in _pil_images(x):
            with atomic_write(folder / f"{count:05d}.png") as partial:
                image.save(partial)
            count += 1
    return count


def write_any_images(batches: Iterable[Tensor], path: Path) -> None:
    """Write images as an array (.npy, .npz), as one image of all, or into a folder, by the name.

    Raises:
        ValueError: as `save_images`, `write_images` and `check_writable`.
    """
    if path.suffix.lower() in {".npy", ".npz"}:
        check_writable(path)
        write_columns(path, {"images": torch.cat([*batches]).numpy()})
    elif path.suffix:
        save_images(torch.cat([*batches]), path)
    else:
        write_images(batches, path)


def write_image_table(
    path: Path, batches: Iterable[tuple[Tensor, Tensor | None]], columns: list[str]
) -> None:
    """Write images as PNG, whose pixels are theirs, next to what they are conditional on.

    Args:
        path: a .parquet file.
        batches: uint8 `(n, C, H, W)` with C 1, 3 or 4, and the context `(n, columns)` or None.
        columns: the names of the context.
    """
    import pyarrow
    import pyarrow.parquet

    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [(IMAGE, struct), *((name, pyarrow.float32()) for name in columns)],
        {"huggingface": json.dumps(NOTES)},
    )
    with atomic_write(path) as partial, pyarrow.parquet.ParquetWriter(partial, schema) as writer:
        for x, context in batches:
            values = [] if context is None else list(context.numpy(force=True).T)
            files = []
            for image in _pil_images(x):
                file = io.BytesIO()
                image.save(file, "PNG")
                files.append({"bytes": file.getvalue(), "path": None})
            writer.write_table(pyarrow.table([files, *values], schema=schema))


def _pil_images(x: Tensor) -> Iterable[PIL.Image.Image]:
    check_images(x)
    if x.shape[1] not in CHANNELS:
        raise ValueError(
            f"images of {x.shape[1]} channels fit no PNG: pass 1 (grey), 3 (RGB) or 4 (RGBA)."
        )
    pixels = channels_last(x)
    return map(PIL.Image.fromarray, pixels.squeeze(3) if x.shape[1] == 1 else pixels)

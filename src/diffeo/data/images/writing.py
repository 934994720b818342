"""Images onto the disk, each for itself: as PNG files, or in a column of a Parquet file."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import PIL.Image
from jaxtyping import UInt8
from torch import Tensor

from diffeo.data.images.grid import channels_last, check_images
from diffeo.utils.files import atomic_write

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA: what a PNG holds
IMAGE = "image"
# What makes other readers take the column for images rather than for bytes.
NOTES = {"info": {"features": {IMAGE: {"_type": "Image"}}}}


def write_images(
    batches: Iterable[UInt8[Tensor, "n channels height width"]], folder: str | os.PathLike[str]
) -> int:
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

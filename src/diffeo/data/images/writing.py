"""Pictures into a Parquet file, in the form that diffeo and Hugging Face's datasets read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from diffeo.utils.files import atomic_write

IMAGE = "image"
# What makes other readers take the column for pictures rather than for bytes.
NOTES = {"info": {"features": {IMAGE: {"_type": "Image"}}}}


def write_image_table(
    path: Path, batches: Iterable[tuple[Tensor, Tensor | None]], columns: list[str]
) -> None:
    """Write pictures as PNG, whose pixels are theirs, and what they are conditional on beside them.

    Args:
        path: a .parquet file.
        batches: uint8 `(n, C, H, W)` with C 1, 3 or 4, and the context `(n, columns)` or None.
        columns: the names of the context.
    """
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [(IMAGE, image), *((name, pyarrow.float32()) for name in columns)],
        {"huggingface": json.dumps(NOTES)},
    )
    with atomic_write(path) as partial, pyarrow.parquet.ParquetWriter(partial, schema) as writer:
        for x, context in batches:
            values = [] if context is None else list(context.numpy(force=True).T)
            files = [{"bytes": png(picture), "path": None} for picture in x]
            writer.write_table(pyarrow.table([files, *values], schema=schema))


def png(picture: Tensor) -> bytes:
    """A picture, uint8 `(C, H, W)`, as the bytes of a PNG file."""
    from PIL import Image

    pixels = np.ascontiguousarray(picture.numpy(force=True).transpose(1, 2, 0))
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()

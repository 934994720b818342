"""Uploaded images and tables.

Their bytes come inside the message, never as the name of a file, so there is no path to follow; a
table is in a private temporary file while it is read.
"""

from __future__ import annotations

import base64
import binascii
import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffeo.data import TableOptions, read_frame, size_of, stream
from diffeo.data.images.decoding import UnreadableError, fit, open_image
from diffeo.data.tables.mixed import encode_rows
from diffeo.explorer.subject import Subject
from diffeo.models.mixed import MixedFlow
from diffeo.schema import TableError

LARGEST = 10 * 2**20  # bytes of a file
MOST = 64  # files at once
ROWS = 50_000  # of a table
LISTED = 12  # columns that a sentence names

REMEDIES = {
    "no images": "is not an image: choose a PNG, JPEG, WebP, GIF, BMP or TIFF file.",
    "broken": "is damaged or incomplete: save it anew, or choose another.",
    "too large": "is too large to be opened safely: scale it down below 10,000 pixels a side.",
    "of 32-bit values": "has 32-bit values, whose white nobody knows: save it with 8 or 16 bits.",
}


@dataclass(frozen=True)
class Upload:
    """One file: its name, which is only shown, and its bytes."""

    name: str
    content: bytes


def receive(message: Any) -> list[Upload]:
    """The files of a message `[{"name": ..., "size": ..., "data": base64}, ...]`.

    Raises:
        ValueError: if there is none, or one is too large, or there are too many.
    """
    files = message if isinstance(message, list) else []
    if not files:
        raise ValueError("no file came with it: choose one.")
    if len(files) > MOST:
        raise ValueError(f"{len(files)} files are too many at once: choose up to {MOST}.")
    return [_receive(file) for file in files]


def _receive(file: Any) -> Upload:
    if not isinstance(file, dict):
        raise ValueError("a file did not arrive whole: choose it again.")
    name = str(file.get("name", "the file"))[:80]
    data = file.get("data")
    if not isinstance(data, str) or len(data) > 4 * LARGEST // 3 + 4:
        raise ValueError(f"{name} is larger than {LARGEST >> 20} MB: choose a smaller one.")
    try:
        return Upload(name, base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} did not arrive whole: choose it again.") from error


def read_image(subject: Subject, upload: Upload) -> tuple[Tensor, str]:
    """An image `(1, C, H, W)` scaled and cropped as `Run.gallery` does, and its name.

    The name says whether it was scaled, and whether it is but one frame.

    Raises:
        ValueError: if it cannot be read; one sentence that names it and the remedy.
    """
    channels, height, width = subject.flow.shape
    size = height if height == width else None
    try:
        image = open_image(upload.content, size)
    except UnreadableError as error:
        remedy = REMEDIES.get(error.kind, "cannot be read: choose another.")
        raise ValueError(f"{upload.name} {remedy}") from error
    x = torch.from_numpy(fit(image, size, grey=channels == 1).copy())
    if len(x) == 1 and channels == 3:
        x = x.expand(3, -1, -1).contiguous()
    if x.shape != subject.flow.shape:
        raise ValueError(
            f"{upload.name} holds {size_of(tuple(x.shape))} and the model takes "
            f"{size_of(subject.flow.shape)}: choose such an image."
        )
    name = upload.name + (", the first frame" if _moves(upload.content) else "")
    if image.size != (width, height):
        cropped = " and cropped" if image.width != image.height else ""
        name += f", scaled{cropped} to {width} x {height} pixels"
    return x[None], name


def read_images(subject: Subject, uploads: Iterable[Upload]) -> tuple[Tensor, list[str], list[str]]:
    """The readable images `(n, C, H, W)`, their names, and a sentence for each unreadable one."""
    read, names, sentences = [], [], []
    for upload in uploads:
        try:
            x, name = read_image(subject, upload)
        except ValueError as error:
            sentences.append(str(error))
        else:
            read.append(x)
            names.append(name)
    shape = (0, *subject.flow.shape)
    return torch.cat(read) if read else torch.empty(shape, dtype=torch.uint8), names, sentences


def read_rows(subject: Subject, upload: Upload) -> tuple[Tensor, Tensor | None]:
    """The rows of a CSV file and their context; the first ROWS of them.

    Raises:
        ValueError: if it cannot be read, or lacks a column; one sentence that names it.
    """
    columns, context = subject.run.columns, subject.flow.context.columns
    with _as_file(upload) as path:
        parts = list(stream(TableOptions(path, rows=ROWS), columns, context))
    if not parts:
        raise ValueError(f"{upload.name} has no rows: choose one with a line for each row.")
    given = [part[1] for part in parts if part[1] is not None]
    return torch.cat([x for x, _ in parts]), torch.cat(given) if given else None


def read_mixed_rows(subject: Subject, upload: Upload) -> tuple[Any, Tensor, Tensor | None]:
    """The rows of a CSV file for a model of mixed columns; the first ROWS of them.

    Cells that have no probability, such as unknown categories, are not refused.

    Returns:
        A DataFrame of the modelled columns, the rows `(n, columns)`, and their context.

    Raises:
        ValueError: if it cannot be read, or lacks a column; one sentence that names it.
    """
    flow = subject.flow
    assert isinstance(flow, MixedFlow)
    with _as_file(upload) as path:
        options = TableOptions(path, rows=ROWS, **subject.run.form)
        frame = read_frame(options)
        given_columns = () if flow.conditions is None else flow.conditions.modelled
        wanted = [column.name for column in (*given_columns, *flow.schema.modelled)]
        lacking = [name for name in wanted if name not in {*map(str, frame.columns)}]
        if lacking:
            more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
            raise ValueError(
                f"{path} lacks the column '{lacking[0]}'{more}: choose a file with the columns "
                f"{', '.join(wanted[:LISTED])}{', ...' * (len(wanted) > LISTED)}."
            )
        x = encode_rows(flow.schema, frame, strict=False)
        context = None
        if flow.conditions is not None:
            given = encode_rows(flow.conditions, frame, strict=False)
            context = flow.as_context(given)
    return frame[[column.name for column in flow.schema.modelled]], x, context


@contextmanager
def _as_file(upload: Upload) -> Iterator[str]:
    """The path of a CSV file while it is read; errors name the file that the visitor chose."""
    if b"\0" in upload.content[:4096]:
        raise ValueError(f"{upload.name} is not a CSV file: choose one with a line for each row.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload.csv"
        path.write_bytes(upload.content)
        try:
            yield str(path)
        except TableError as error:
            first, *more = error.sentences
            first = first.removesuffix(".") + f" ({len(more):,} more like this)." * bool(more)
            raise ValueError(f"{upload.name}: {first}") from error
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), upload.name)) from error


def _moves(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return bool(getattr(opened, "is_animated", False))
    except Exception:  # the image was decoded; its other metadata may be damaged
        return False

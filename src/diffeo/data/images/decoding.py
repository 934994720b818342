"""One image, however it is stored, as an array of bytes."""

from __future__ import annotations

import contextlib
import io
import threading
from pathlib import Path
from typing import IO

import numpy as np
import PIL.Image
import PIL.ImageOps
from PIL.Image import Image, Resampling

from diffeo.data.images.dataset import LARGEST, Pixels

LONGEST_SIDE = 10_000
# Pixels of an image that is decoded alone, since it takes some ten bytes for each.
LARGE = 2**23
_alone = threading.Lock()

# Formats of pixels only: Pillow reads others, of which some start a program (EPS) and some are
# recognised in any text.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


class UnreadableError(Exception):
    """An image that cannot be read; `kind` says why, as in "2 broken"."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def decode(content: Path | bytes | Pixels, size: int | None = None, grey: bool = False) -> Pixels:
    """Reads one image: `open_image`, then `fit`.

    Args:
        content: a file, its bytes, or pixels `[height, width]` or `[height, width, 3]`.
        size: height and width to scale and crop to, see `fit`.
        grey: for one channel whatever the image holds (luma by ITU-R 601).

    Returns:
        Pixels `[channels, height, width]`: one channel if the image is stored as grey (a palette
        of greys included), else three.

    Raises:
        UnreadableError: what is no image, broken, or too large to be opened safely.
    """
    return fit(open_image(content, size), size, grey)


def open_image(content: Path | bytes | Pixels, size: int | None = None) -> Image:
    """Reads one image in mode L or RGB, which has its own size, or for a JPEG a fraction of it.

    It is turned upright (EXIF) and laid on white where it is transparent. Of an animation the first
    frame counts. Values of 16 bits lose their lower 8, so that each of the 256 values stands for
    equally many. Colour profiles are ignored.

    Args:
        content: a file, its bytes, or pixels `[height, width]` or `[height, width, 3]`.
        size: height and width that it will be scaled to; an image of exactly these keeps them.

    Raises:
        UnreadableError: what is no image, broken, or too large to be opened safely.
    """
    if isinstance(content, np.ndarray):
        return PIL.Image.fromarray(content)
    try:
        stream = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
    except OSError as error:
        raise UnreadableError("unreadable") from error
    with stream:
        try:
            return _open(stream, size)
        except UnreadableError:
            raise
        except PIL.UnidentifiedImageError as error:
            raise UnreadableError("no images") from error
        except PIL.Image.DecompressionBombError as error:
            raise UnreadableError("too large") from error
        except Exception as error:  # damage makes Pillow's decoders raise nearly anything
            raise UnreadableError("broken") from error


def _open(stream: IO[bytes], size: int | None) -> Image:
    PIL.Image.init()
    known = [name for name in FORMATS if name in PIL.Image.OPEN]
    with PIL.Image.open(stream, formats=known) as image:
        _check_size(image)
        if size is None and max(image.size) > LARGEST:  # see `ImageOptions`
            raise UnreadableError("too large without --data.size")
        if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
            raise UnreadableError("of 32-bit values")  # whose white is anybody's guess
        if size is not None:
            # A JPEG is decoded at a fraction of its size, at least twice what is needed.
            image.draft(None, (2 * size, 2 * size))
        large = image.width * image.height > LARGE
        with _alone if large else contextlib.nullcontext():
            image.load()
            _check_size(image)  # an icon holds another image, of whatever size that is
            PIL.ImageOps.exif_transpose(image, in_place=True)
            return _opaque(image)


def _check_size(image: Image) -> None:
    """Refuses what is too large; Pillow itself only warns up to twice its limit."""
    pixels = image.width * image.height
    if max(image.size) > LONGEST_SIDE or pixels > (PIL.Image.MAX_IMAGE_PIXELS or pixels):
        raise UnreadableError("too large")


def _opaque(image: Image) -> Image:
    """A copy in mode L or RGB."""
    mode = image.mode
    if mode.startswith("I"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        image = PIL.Image.new("RGB", image.size, "white")
        image.paste(transparent, mask=transparent)
    elif mode in ("1", "L"):
        return image.convert("L")
    image = image.convert("RGB")
    if mode in ("1", "L", "LA", "P", "PA"):
        red, green, blue = image.split()
        return red if red == green == blue else image
    return image


def fit(image: Image, size: int | None, grey: bool) -> Pixels:
    """An image in mode L or RGB as pixels `[channels, height, width]`.

    With a size, the middle square is cropped and scaled (Lanczos, antialiased), which is to scale
    the shorter side and crop the longer one: nothing is distorted.
    """
    if grey:
        image = image.convert("L")
    if size is not None:
        side = min(image.size)
        # Whole pixels, so that an image of the right height is cropped and otherwise untouched.
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Resampling.LANCZOS, box)
    pixels: Pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

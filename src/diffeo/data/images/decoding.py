"""One picture, however it is stored, as an array of bytes."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffeo.data.images.options import LARGEST

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Pixels = NDArray[np.uint8]
Content = Path | bytes | Pixels

LONGEST_SIDE = 10_000
# Pixels of a picture that is decoded alone, since it takes some ten bytes for each.
LARGE = 2**23
_alone = threading.Lock()
STRIP = 256  # rows

# Formats of pixels only: Pillow reads others, of which some start a program (EPS) and some are
# recognised in any text.
_FORMATS = (
    "AVIF",
    "BMP",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)


class UnreadableError(Exception):
    """A picture that cannot be had; `kind` says why, as in "2 broken"."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def decode(content: Content, size: int | None = None, grey: bool = False) -> Pixels:
    """Reads one picture.

    It is turned upright (EXIF) and laid on white where it is transparent. Of an animation the first
    frame counts. Values of 16 bits keep their upper 8, so that each of the 256 values stands for
    equally many. Colour profiles are ignored.

    Args:
        content: a file, its bytes, or pixels `[height, width]` or `[height, width, 3]`.
        size: height and width to scale and crop to, see `fit`.
        grey: for one channel whatever the picture holds (luma by ITU-R 601).

    Returns:
        Pixels `[channels, height, width]`: one channel if the picture is stored as grey (a palette
        of greys included), else three.

    Raises:
        UnreadableError: what is no picture, broken, or too large to be opened safely.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(content, np.ndarray):
        return fit(Image.fromarray(content), size, grey)
    try:
        stream: IO[bytes] = (
            io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
        )
    except OSError as error:
        raise UnreadableError("unreadable") from error
    with stream:
        try:
            return fit(_open(stream, size), size, grey)
        except UnreadableError:
            raise
        except UnidentifiedImageError as error:
            raise UnreadableError("no pictures") from error
        except Image.DecompressionBombError as error:
            raise UnreadableError("too large") from error
        except Exception as error:  # damage makes Pillow's decoders raise nearly anything
            raise UnreadableError("broken") from error


def _open(stream: IO[bytes], size: int | None) -> Picture:
    from PIL import Image, ImageOps

    with Image.open(stream, formats=_formats()) as picture:
        _check_size(picture)
        if size is None and max(picture.size) > LARGEST:  # see `check_image_options`
            raise UnreadableError("too large without --data.size")
        if picture.mode == "F" or (picture.mode == "I" and picture.format == "TIFF"):
            raise UnreadableError("of 32-bit values")  # whose white is anybody's guess
        if size is not None:
            # A JPEG is decoded at a fraction of its size, at least twice what is needed.
            picture.draft(None, (2 * size, 2 * size))
        large = picture.width * picture.height > LARGE
        with _alone if large else contextlib.nullcontext():
            picture.load()
            _check_size(picture)  # an icon holds another picture, of whatever size that is
            ImageOps.exif_transpose(picture, in_place=True)
            return _opaque(picture)


def _check_size(picture: Picture) -> None:
    """Refuse what is too large; Pillow itself only warns up to twice its limit."""
    from PIL import Image

    pixels = picture.width * picture.height
    if max(picture.size) > LONGEST_SIDE or pixels > (Image.MAX_IMAGE_PIXELS or pixels):
        raise UnreadableError("too large")


@functools.cache
def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _opaque(picture: Picture) -> Picture:
    """A copy in mode L or RGB."""
    from PIL import Image

    mode = picture.mode
    if mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = _on_white(picture)
    elif mode in ("1", "L"):
        return picture.convert("L")
    picture = picture.convert("RGB")
    if mode in ("1", "L", "LA") or (mode in ("P", "PA") and _is_grey(picture)):
        return picture.getchannel(0)
    return picture


def _on_white(picture: Picture) -> Picture:
    """A transparent picture in mode RGB, strip by strip, since each step of it takes a copy."""
    from PIL import Image

    laid = Image.new("RGB", picture.size, "white")
    for top in range(0, picture.height, STRIP):
        strip = picture.crop((0, top, picture.width, min(top + STRIP, picture.height)))
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        laid.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return laid


def _is_grey(picture: Picture) -> bool:
    red, green, blue = picture.split()
    return red == green == blue


def fit(picture: Picture, size: int | None, grey: bool) -> Pixels:
    """A picture in mode L or RGB as pixels `[channels, height, width]`.

    With a size, the middle square is cut out and scaled (Lanczos, antialiased), which is to scale
    the shorter side and crop the longer one: nothing is distorted.
    """
    from PIL.Image import Resampling

    if grey:
        picture = picture.convert("L")
    if size is not None:
        side = min(picture.size)
        # Whole pixels, so that a picture of the right height is cropped and otherwise untouched.
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        picture = picture.resize((size, size), Resampling.LANCZOS, box)
    pixels: Pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

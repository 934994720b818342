"""Options of images."""

from __future__ import annotations

from dataclasses import dataclass

from diffeo.data.options import SourceOptions, check_options

LARGEST = 4096


@dataclass
class ImageOptions(SourceOptions):
    """Which images to learn from, and how.

    Args:
        source: The bundled digits, shapes that are drawn here, a folder of images or of
            train*.parquet and test*.parquet, a .npz, .npy or .parquet file, or hf://owner/name.
        size: The height and width to which each image is scaled and cropped, in pixels; by
            default all are of one size and stay as they are.
        image_column: The column of images in a parquet file or a hub dataset; by default found.
        label_column: The column of labels in a parquet file or a hub dataset; by default found.
        strict: Whether a file that cannot be read is an error, instead of left out with a note.
        flip: Whether training images are mirrored left to right at random.
        shift: By how many pixels at most training images are moved at random.
        grey: Whether images are turned grey, with one channel.
        cache: The folder for decoded images; by default $DIFFEO_CACHE or ~/.cache/diffeo.
    """

    source: str = "digits"
    size: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    strict: bool = False
    flip: bool = False
    shift: int = 0
    grey: bool = False
    cache: str | None = None


def check_image_options(options: ImageOptions) -> None:
    """Refuses options that are wrong whatever the source holds."""
    check_options(options)
    source = options.source
    if options.size is not None and not 1 <= options.size <= LARGEST:
        raise ValueError(
            f"{source}: images of {options.size} x {options.size} pixels cannot be made: "
            f"pass a --data.size from 1 to {LARGEST}"
        )
    if options.shift < 0:
        raise ValueError(
            f"{source}: a shift of {options.shift} pixels is none: pass a --data.shift of 0 or more"
        )

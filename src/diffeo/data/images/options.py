"""What a user may say about pictures."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST = 4096
IMAGE_SETS = ("digits", "shapes")  # sources that are no file


@dataclass
class ImageOptions:
    """Which pictures to learn from, and how.

    Args:
        source: The bundled digits, shapes that are drawn here, a folder of pictures or of
            train*.parquet and test*.parquet, a .npz, .npy or .parquet file, or hf://owner/name.
        size: The height and width to which each picture is scaled and cropped, in pixels; by
            default all are of one size and stay as they are.
        image_column: The column of pictures in a parquet file or a hub dataset; by default found.
        label_column: The column of labels in a parquet file or a hub dataset; by default found.
        rows: How many of the first pictures are used, of each split that the source gives, or how
            many shapes are drawn.
        splits: The shares for training, validation and testing, where the source gives no splits.
        seed: The seed of the split, and of shapes.
        strict: Whether a file that cannot be read is an error, instead of left out with a note.
        flip: Whether training pictures are mirrored left to right at random.
        shift: By how many pixels at most training pictures are moved at random.
        grey: Whether pictures are turned grey, with one channel.
        cache: The folder for decoded pictures; by default $DIFFEO_CACHE or ~/.cache/diffeo.
        context: The attributes that the density is conditional on: labels, other columns of a
            table of pictures, a folder's metadata.csv.
    """

    source: str = "digits"
    size: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    rows: int | None = None
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    strict: bool = False
    flip: bool = False
    shift: int = 0
    grey: bool = False
    cache: str | None = None
    context: list[str] | None = None


def check_image_options(options: ImageOptions) -> None:
    """Refuses options that are wrong whatever the source holds."""
    source, splits = options.source, options.splits
    if len(splits) != 3 or not all(share > 0 for share in splits) or abs(sum(splits) - 1) > 1e-6:
        raise ValueError(
            f"{source}: --data.splits are {list(splits)}: "
            "pass three positive shares that sum to 1, such as [0.8, 0.1, 0.1]"
        )
    if options.size is not None and not 1 <= options.size <= LARGEST:
        raise ValueError(
            f"{source}: pictures of {options.size} x {options.size} pixels cannot be made: "
            f"pass a --data.size from 1 to {LARGEST}"
        )
    if options.rows is not None and options.rows < 1:
        raise ValueError(f"{source}: {options.rows} rows are none: pass a positive --data.rows")
    if options.shift < 0:
        raise ValueError(
            f"{source}: a shift of {options.shift} pixels is none: pass a --data.shift of 0 or more"
        )

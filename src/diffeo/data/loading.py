"""One way in for tables and pictures: what the source holds decides."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rich.console import Console

from diffeo.data.images.loading import load_images
from diffeo.data.images.options import ImageOptions
from diffeo.data.images.sets import Images
from diffeo.data.images.sources import is_image_source
from diffeo.data.tables.options import TableOptions
from diffeo.data.tables.sources import BUNDLED
from diffeo.data.tables.synthetic import GENERATORS
from diffeo.data.tables.table import Table, load_table

Data = Table | Images


@dataclass
class DataOptions(ImageOptions, TableOptions):
    """Which table or which pictures to learn from, and how.

    Args:
        source: For a table, a generator (moons, circles, swiss_roll, gaussians), a bundled one
            (iris, wine, breast_cancer, diabetes), or a .csv, .parquet, .npy or .npz file. For
            pictures, the bundled digits, shapes that are drawn here, a folder of them or of
            train*.parquet and test*.parquet, or a .parquet, .npy or .npz file that holds some.
            Either may be hf://owner/name. By default moons, or digits for a model of pictures.
        context: What the density is conditional on: columns of a table, or attributes of pictures
            (labels, other columns of their table, a folder's metadata.csv).
        rows: How many rows or shapes are drawn, or how many of a source's first rows or pictures
            are used.
        splits: The shares for training, validation and testing, where pictures come without splits.
        seed: The seed of what is drawn and of the split.
    """

    source: str = ""


def load_data(options: DataOptions, console: Console | None = None) -> Data:
    """Reads a source as pictures if it holds some and no columns are chosen, else as a table.

    Raises:
        ValueError: as `load_table` and `load_images`, and for an option of the other kind.
    """
    if holds_images(options):
        _refuse(options, TableOptions, ImageOptions, "holds pictures", "a table")
        return load_images(options, console)
    _refuse(options, ImageOptions, TableOptions, "is a table", "pictures")
    return load_table(options)


def holds_images(options: DataOptions) -> bool:
    """Whether `load_data` will read pictures."""
    if options.columns is not None:
        return False
    # A table that has a name of ours is meant by it, even where a folder has the same.
    return options.source not in (*GENERATORS, *BUNDLED) and is_image_source(options.source)


def _refuse(options: DataOptions, other: type, ours: type, what: str, whose: str) -> None:
    """Refuses what the user said that only the other kind of data knows."""
    known = {field.name for field in dataclasses.fields(ours)}
    for field in dataclasses.fields(other):
        if field.name not in known and getattr(options, field.name) != field.default:
            raise ValueError(
                f"{options.source} {what}: --data.{field.name} is for {whose}, leave it out"
            )

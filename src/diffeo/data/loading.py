"""Loads a table or images, whichever the source holds."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from diffeo.data.images.dataset import IMAGE_SETS, ImageOptions, Images
from diffeo.data.tables.csv_files import TEXT_ENDINGS
from diffeo.data.tables.loading import Table, load_table
from diffeo.data.tables.opening import BUNDLED, TableOptions
from diffeo.data.tables.synthetic import GENERATORS

Data = Table | Images


@dataclass
class DataOptions(ImageOptions, TableOptions):
    """Which table or which images to learn from, and how.

    Args:
        source: For a table, a generator (moons, circles, swiss_roll, gaussians), a bundled one
            (iris, wine, breast_cancer, diabetes), or a .csv, .tsv, .parquet, .npy or .npz file. For
            images, the bundled digits, shapes that are drawn here, a folder of them or of
            train*.parquet and test*.parquet, or a .parquet, .npy or .npz file that holds some.
            Either may be hf://owner/name. By default moons, or digits for a model of images.
    """

    source: str = ""


def load_data(
    options: DataOptions,
    console: Console | None = None,
    load_table: Callable[[TableOptions], Table] = load_table,
) -> Data:
    """Reads a source as images if it holds some and no columns are chosen, else as a table.

    Args:
        options: which, and how.
        console: for progress.
        load_table: how a table is read: `load_table`, as plain numbers, or `load_mixed`.

    Raises:
        ValueError: as `load_table` and `load_images`, and for an option of the other kind.
    """
    if holds_images(options):
        from diffeo.data.images.loading import load_images

        _refuse(options, TableOptions, ImageOptions, "holds images", "a table")
        return load_images(options, console)
    _refuse(options, ImageOptions, TableOptions, "is a table", "images")
    return load_table(options)


def holds_images(options: DataOptions) -> bool:
    """Whether `load_data` will read images: by the name of the source, or by its file's header."""
    source = options.source
    # A table that has a name of ours is meant by it, even where a folder has the same.
    if options.columns is not None or source in (*GENERATORS, *BUNDLED):
        return False
    if source.lower().endswith(TEXT_ENDINGS):
        return False
    from diffeo.data.images.loading import is_image_source

    return source in IMAGE_SETS or is_image_source(source)


def _refuse(options: DataOptions, other: type, ours: type, what: str, whose: str) -> None:
    """Refuses a value of an option that only the other kind of data has."""
    known = {field.name for field in dataclasses.fields(ours)}
    for field in dataclasses.fields(other):
        if field.name not in known and getattr(options, field.name) != field.default:
            raise ValueError(
                f"{options.source} {what}: --data.{field.name} is for {whose}, leave it out"
            )

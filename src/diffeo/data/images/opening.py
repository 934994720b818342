"""Where images come from: digits, shapes, folders, arrays, parquet files and the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffeo.data.arrow import open_parquet
from diffeo.data.files import check_file, check_plain, plain_path
from diffeo.data.images.arrays import find_images, open_array, read_headers
from diffeo.data.images.dataset import IMAGE_SETS, ImageOptions
from diffeo.data.images.folders import open_folder
from diffeo.data.images.parquet import (
    find_columns,
    open_image_file,
    open_image_folder,
    open_image_hub,
)
from diffeo.data.images.source import ImageSource
from diffeo.data.images.synthetic import open_digits, open_shapes

READERS: dict[str, Callable[[Path, ImageOptions], ImageSource]] = {
    ".npz": open_array,
    ".npy": open_array,
    ".parquet": open_image_file,
}


def open_images(options: ImageOptions) -> ImageSource:
    """Lists the images of a source without decoding them.

    Raises:
        ValueError: an unknown name or ending, or a source that is missing, empty or damaged.
    """
    name = options.source
    if name.startswith("hf://"):
        return open_image_hub(options)
    path = plain_path(name)
    is_folder = name not in IMAGE_SETS and path.is_dir()
    table = open_image_folder(path, options) if is_folder else None
    if table is not None:
        return table
    if is_folder or path.suffix.lower() != ".parquet":
        for column in ("image_column", "label_column"):
            if getattr(options, column) is not None:
                raise ValueError(f"{name} has no columns: --data.{column} is for parquet and hf://")
    if name in IMAGE_SETS:
        return open_digits(options) if name == "digits" else open_shapes(options)
    if is_folder:
        return open_folder(name, path)
    others = f"{' or '.join(IMAGE_SETS)}, a folder of images"
    check_file(name, path, tuple(READERS), others, IMAGE_SETS)
    return READERS[path.suffix.lower()](path, options)


def is_image_source(source: str) -> bool:
    """Whether a source holds images rather than a table, by its name or its file's header.

    True for digits, shapes, folders, arrays of three or four axes, and parquet files and datasets
    of the hub with a column of images. Raises nothing.
    """
    try:
        options = ImageOptions(source)
        if source.startswith("hf://"):
            return bool(open_image_hub(options))
        path = plain_path(source)
        if source in IMAGE_SETS or path.is_dir():
            return True
        check_plain(source, path)
        if path.suffix.lower() == ".parquet":
            return bool(find_columns(open_parquet(source, path), options))
        headers = read_headers(path) if path.suffix.lower() in READERS else {}
        key = find_images(headers)
        return key is not None and len(headers[key].shape) in (3, 4)
    except Exception:  # loading it raises a sentence about what is wrong
        return False

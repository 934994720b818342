"""What a source of pictures may be called, and which of them a name means."""

from __future__ import annotations

from pathlib import Path

from diffeo.data.bounds import check_footer, check_plain
from diffeo.data.files import suggestion
from diffeo.data.images.arrays import images_key, open_array, open_digits, read_headers
from diffeo.data.images.options import IMAGE_SETS, ImageOptions
from diffeo.data.images.parquet import find_columns, open_hub, open_parquet, open_parquet_folder
from diffeo.data.images.shapes import open_shapes
from diffeo.data.images.source import ImageSource, open_folder
from diffeo.data.tables.sources import plain_path

IMAGE_ENDINGS = (".npz", ".npy", ".parquet")


def open_images(options: ImageOptions) -> ImageSource:
    """Lists the pictures of a source without decoding them.

    Raises:
        ValueError: an unknown name or ending, or a source that is missing, empty or damaged.
    """
    name = options.source
    path = _path(name)
    if name.startswith("hf://"):
        return open_hub(options)
    if name not in IMAGE_SETS and not path.is_dir():
        check_plain(name, path)
    if path.suffix.lower() == ".parquet" and path.is_file():
        return open_parquet(options, path)
    folder = name not in IMAGE_SETS and path.is_dir()
    table = open_parquet_folder(options, path) if folder else None
    if table is not None:
        return table
    for column in ("image_column", "label_column"):
        if getattr(options, column) is not None:
            raise ValueError(f"{name} has no columns: --data.{column} is for parquet and hf://")
    if name == "digits":
        return open_digits()
    if name == "shapes":
        return open_shapes(options)
    if folder:
        return open_folder(name, path)
    if path.suffix.lower() not in IMAGE_ENDINGS:
        what = f"{name} cannot be read" if path.exists() else f"unknown source '{name}'"
        raise ValueError(
            f"{what}{suggestion(name, IMAGE_SETS)}: give {' or '.join(IMAGE_SETS)}, "
            f"a folder of pictures, a file ending in {', '.join(IMAGE_ENDINGS)}, or hf://owner/name"
        )
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            f"there is no file {name}{suggestion(path.name, beside)}: check --data.source"
        )
    return open_array(name, path)


def _path(name: str) -> Path:
    if not name:  # which would be the folder at hand
        raise ValueError("no source is named: pass --data.source")
    return plain_path(name)


def is_image_source(source: str) -> bool:
    """Whether a source holds pictures rather than a table, by its name or its file's header.

    True for digits, shapes, folders, arrays of three or four axes, and parquet files and datasets
    of the hub with a column of pictures. Raises nothing.
    """
    try:
        path = _path(source)
        ending = path.suffix.lower()
        if path.exists() and not path.is_dir():
            check_plain(source, path)
        if source in IMAGE_SETS or path.is_dir():
            return True
        if source.startswith("hf://"):
            open_hub(ImageOptions(source))
            return True
        if ending == ".parquet":
            import pyarrow.parquet

            check_footer(source, path)
            find_columns(source, pyarrow.parquet.read_schema(path), ImageOptions(source))
            return True
        headers = read_headers(path) if ending in IMAGE_ENDINGS else {}
        key = images_key(headers)
        return key is not None and len(headers[key].shape) in (3, 4)
    except Exception:  # whatever is wrong with it is told when it is loaded
        return False

"""Folders of images, with labels by their names and attributes from metadata.csv."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from diffeo.data.datasets import SPLITS
from diffeo.data.files import LimitedFile, check_columns, listing, reading, suggestion
from diffeo.data.images.source import ImageSource, Part

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
METADATA, KEY = "metadata.csv", "file_name"  # as Hugging Face's ImageFolder has them
_SPELLINGS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def split_of(name: str) -> str | None:
    """The split that a name such as "validation-00001" starts with, or None."""
    word = name.lower().replace("_", "-").replace(".", "-").split("-")[0].rstrip("0123456789")
    return _SPELLINGS.get(word)


def open_folder(name: str, folder: Path) -> ImageSource:
    """All files below a folder; what is hidden is ignored, and links are followed once.

    The folders in it are the labels. If they are called train, test and perhaps val, they are
    splits instead, and the folders in these are the labels. A metadata.csv in any of them gives
    attributes to the images that it names.
    """
    files = list_files(name, folder)
    if not files:
        raise ValueError(f"{name} is a folder without files: put images into it")
    images = [file for file in files if Path(file).name != METADATA]
    tables = [file for file in files if Path(file).name == METADATA]

    def parts() -> Iterator[Part]:
        attributes = _read_metadata(name, folder, tables, images)
        above = [Path(image).parent.parts for image in images]
        outer = {_SPELLINGS.get(folders[0].lower()) for folders in above if folders}
        given = None not in outer and "train" in outer
        places: dict[str, list[int]] = {split: [] for split in SPLITS}
        labels = []
        for row, folders in enumerate(above):
            split = _SPELLINGS[folders[0].lower()] if given and folders else "train"
            places[split].append(row)
            inner = folders[1:] if given else folders
            labels.append(inner[0] if inner else None)
        for split, rows in places.items():
            names = [images[row] for row in rows]
            contents = map(folder.joinpath, names)
            known = [labels[row] for row in rows]
            yield Part(split, names, known, attributes.iloc[rows], contents)

    return ImageSource(name, "files", parts, lambda: listing_hash(folder, files))


def open_single(name: str, path: Path) -> ImageSource:
    """One file of an image, without label."""
    import pandas

    def parts() -> Iterator[Part]:
        yield Part("train", [path.name], [None], pandas.DataFrame(index=[0]), [path])

    return ImageSource(name, "files", parts, lambda: listing_hash(path.parent, [path.name]))


def list_files(name: str, folder: Path) -> list[str]:
    """The files below a folder, sorted, each as its path inside the folder.

    Raises:
        ValueError: a folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        where = error.filename
        raise ValueError(
            f"{name}: the folder {where} cannot be listed: {error.strerror}"
        ) from error

    files: list[str] = []
    waiting = [folder]
    seen: set[tuple[int, int]] = set()
    for start in waiting:
        for here, folders, names in os.walk(start, onerror=refuse):
            status = Path(here).stat()
            if (status.st_dev, status.st_ino) in seen:  # a second link, or one that leads back up
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = [name for name in folders if not name.startswith(".")]
            # Links come last, so that a folder is known by its own name rather than by a link's.
            waiting += sorted(
                path for path in map(Path(here).joinpath, folders) if path.is_symlink()
            )
            visible = (Path(here, file) for file in names if not file.startswith("."))
            files += [str(path.relative_to(folder)) for path in visible if _is_plain(path)]
    return sorted(files)


def _is_plain(path: Path) -> bool:
    """Whether opening a file cannot hang, as a pipe would; a link to nowhere is left to fail."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def listing_hash(folder: Path, files: Iterable[str]) -> str:
    """The hash of the names, sizes and times of change of files.

    Not of their bytes: to read every file of a large folder takes about as long as to decode it,
    which is what a cache is there to save. An image that is replaced gets another time.
    """
    digest = hashlib.sha256()
    for name in files:
        try:
            status = (folder / name).stat()
            facts = f"\0{status.st_size}\0{status.st_mtime_ns}\0"
        except OSError:  # a link to nowhere
            facts = "\0?\0"
        digest.update(os.fsencode(name) + facts.encode())
    return digest.hexdigest()


def _read_metadata(name: str, folder: Path, tables: list[str], images: list[str]) -> Any:
    """The attributes of images, a DataFrame of a row for each, of all metadata.csv of a folder.

    Each file has a column file_name, the path of an image from where the file lies; the others are
    attributes.

    Raises:
        ValueError: a damaged file, one without file_name, or one that names no image that is
            there, or one twice.
    """
    import pandas

    known = []
    for file in tables:
        table = _read_table(f"{name}: {file}", folder / file)
        names = table.pop(KEY)
        table.index = [os.path.normpath(Path(file).parent / image) for image in names]
        if not table.index.isin(images).any():
            raise ValueError(
                f"{name}: {file} names no image that is there, its first is "
                f"{listing(names, 1) or 'missing'}: write paths from its own folder into {KEY}"
            )
        known.append(table)
    whole = pandas.concat(known) if known else pandas.DataFrame(index=images)
    for image in whole.index[whole.index.duplicated()]:
        raise ValueError(f"{name}: {METADATA} names {image} a second time: leave one row of it")
    return whole.reindex(images)


def _read_table(name: str, path: Path) -> Any:
    """The table of a file, which names an image in each row."""
    import pandas

    with reading(name), io.BufferedReader(LimitedFile(path)) as file:
        # A file called 007 has its zeros. `low_memory=False` gives each column one type.
        table = pandas.read_csv(
            file, dtype={KEY: str}, index_col=False, encoding="utf-8-sig", low_memory=False
        )
        check_columns(name, len(table.columns))
    if KEY not in table:
        raise ValueError(
            f"{name} has no column '{KEY}'{suggestion(KEY, table.columns)}: "
            f"it has {listing(table.columns)}"
        )
    if table[KEY].isna().any():
        row = int(table[KEY].isna().argmax()) + 1
        raise ValueError(f"{name} has no {KEY} in row {row}: write one, or remove the row")
    return table

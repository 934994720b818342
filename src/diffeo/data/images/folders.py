"""Folders of images, with labels by their names and attributes from metadata.csv."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffeo.data.files import listing, reading, suggestion
from diffeo.data.images.attributes import Value
from diffeo.data.images.source import Entry, ImageSource, Part
from diffeo.data.limits import LimitedFile, check_columns
from diffeo.data.splits import SPLITS

METADATA, KEY = "metadata.csv", "file_name"  # as Hugging Face's ImageFolder has them
_SPELLINGS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

Files = list[tuple[str, Path]]  # each as its path inside a folder and its path


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
    images = [file for file in files if file[1].name != METADATA]
    tables = [file for file in files if file[1].name == METADATA]
    known = _read_metadata(name, tables, {*dict(images)})
    above = [Path(inside).parent.parts for inside, _ in images]
    splits = {_SPELLINGS.get(folders[0].lower()) for folders in above if folders}
    given = None not in splits and "train" in splits
    places: dict[str, list[tuple[str, Path, str | None]]] = {split: [] for split in SPLITS}
    for (inside, path), folders in zip(images, above, strict=True):
        split = "train"
        if given and folders:
            split, folders = _SPELLINGS[folders[0].lower()], folders[1:]
        places[split].append((inside, path, folders[0] if folders else None))

    def part(split: str) -> Part:
        def read() -> Iterator[Entry]:
            for inside, path, label in places[split]:
                columns, row = known.get(inside, ({}, 0))
                attributes = {column: _value(values[row]) for column, values in columns.items()}
                yield Entry(inside, path, label, attributes)

        return Part(split, len(places[split]), read)

    parts = [part(split) for split in SPLITS if places[split]]
    return ImageSource(name, "files", parts, lambda: listing_hash(files))


def _value(value: Any) -> Value:
    return value if isinstance(value, str) else float(value)


def list_files(name: str, folder: Path) -> Files:
    """The files below a folder, sorted, each as its path inside the folder and its path.

    Raises:
        ValueError: a folder that cannot be listed.
    """
    files: Files = []
    folders: Files = [("", folder)]
    links: Files = []
    seen: set[tuple[int, int]] = set()
    while folders or links:
        # Links come last, so that a folder is known by its own name rather than by a link's.
        prefix, here = folders.pop() if folders else links.pop(0)
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:  # a second link, or one that leads back up
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith("."):
                        continue
                    inside, path = prefix + entry.name, here / entry.name
                    if path.is_dir():
                        (links if entry.is_symlink() else folders).append((inside + os.sep, path))
                    elif _is_plain(path):
                        files.append((inside, path))
        except OSError as error:
            raise ValueError(
                f"{name}: the folder {here} cannot be listed: {error.strerror}"
            ) from error
    return sorted(files)


def _is_plain(path: Path) -> bool:
    """Whether opening a file cannot hang, as a pipe would; a link to nowhere is left to fail."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def listing_hash(files: Files) -> str:
    """The hash of the names, sizes and times of change of files.

    Not of their bytes: to read every file of a large folder takes about as long as to decode it,
    which is what a cache is there to save. An image that is replaced gets another time.
    """
    digest = hashlib.sha256()
    for name, path in files:
        try:
            status = path.stat()
            facts = f"\0{status.st_size}\0{status.st_mtime_ns}\0"
        except OSError:  # a link to nowhere
            facts = "\0?\0"
        digest.update(os.fsencode(name) + facts.encode())
    return digest.hexdigest()


def _read_metadata(
    name: str, tables: Files, images: set[str]
) -> dict[str, tuple[dict[str, Any], int]]:
    """The columns and the row of each image that the metadata.csv files of a folder name.

    Each file has a column file_name, the path of an image from where the file lies; the others are
    attributes.

    Raises:
        ValueError: a damaged file, one without file_name, or one that names no image that is
            there, or one twice.
    """
    rows: dict[str, tuple[dict[str, Any], int]] = {}
    for inside, path in tables:
        names, columns = _read_table(f"{name}: {inside}", path)
        keys = [os.path.normpath(Path(inside).parent / key) for key in names]
        if not images.intersection(keys):
            raise ValueError(
                f"{name}: {inside} names no image that is there, its first is "
                f"{listing(names, 1) or 'missing'}: write paths from its own folder into {KEY}"
            )
        for row, key in enumerate(keys):
            if key in rows:
                raise ValueError(f"{name}: {inside} names {key} a second time: leave one row of it")
            rows[key] = columns, row
    return rows


def _read_table(name: str, path: Path) -> tuple[list[str], dict[str, Any]]:
    """The paths of images, and the other columns as arrays; NaN is what they lack."""
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
    columns = {column: table[column].to_numpy() for column in table.columns.drop(KEY)}
    return table[KEY].tolist(), columns

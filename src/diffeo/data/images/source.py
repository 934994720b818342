"""Where pictures come from: the bundled digits, folders, arrays, parquet files and the hub."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from diffeo.data.images.attributes import Value
from diffeo.data.images.decoding import Content
from diffeo.data.images.metadata import METADATA, read_metadata

Label = int | str | None

# The order in which the pictures of a source are read.
SPLITS = ("train", "val", "test")
_SPELLINGS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Entry:
    """One picture that has not been decoded.

    Args:
        name: for messages.
        content: where its pixels are.
        label: its class, or None where it has none.
        attributes: what else is known of it, by name.
    """

    name: str
    content: Content
    label: Label = None
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Pictures that the source gives to one split; all count as "train" where it gives none.

    Args:
        split: one of `SPLITS`.
        count: how many `read()` yields.
        read: yields the pictures.
    """

    split: str
    count: int
    read: Callable[[], Iterator[Entry]]


@dataclass(frozen=True)
class ImageSource:
    """Pictures that have been listed but not decoded.

    Args:
        name: the source as the user wrote it, for messages.
        unit: what its pictures are counted in: files, rows.
        parts: its pictures, in the order of `SPLITS`.
        content: `content()` is a hash that changes with the pictures; None where they are too few
            to be worth a cache.
        label_names: what its labels 0, 1, ... are called, where it says so.
        label_column: what its labels are called as an attribute.
    """

    name: str
    unit: str
    parts: list[Part]
    content: Callable[[], str] | None
    label_names: list[str] | None = None
    label_column: str = "label"

    def count(self, rows: int | None) -> int:
        """How many pictures `entries(rows)` yields."""
        counts = Counter[str]()
        for part in self.parts:
            counts[part.split] += part.count
        return sum(count if rows is None else min(count, rows) for count in counts.values())

    def entries(self, rows: int | None) -> Iterator[tuple[str, Entry]]:
        """The first `rows` pictures of each split, each with the split's name."""
        for split, parts in itertools.groupby(self.parts, lambda part: part.split):
            entries = itertools.chain.from_iterable(part.read() for part in parts)
            for entry in itertools.islice(entries, rows):
                yield split, entry


def split_of(name: str) -> str | None:
    """The split that a name such as "validation-00001" starts with, or None."""
    word = name.lower().replace("_", "-").replace(".", "-").split("-")[0].rstrip("0123456789")
    return _SPELLINGS.get(word)


def file_hash(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing_hash(files: list[tuple[str, Path]]) -> str:
    """The hash of the names, sizes and times of change of files, given with their names.

    Not of their bytes: to read every file of a large folder takes about as long as to decode it,
    which is what a cache is there to save. A picture that is replaced gets another time.
    """
    digest = hashlib.sha256()
    for name, path in files:
        try:
            status = path.stat()
        except OSError:  # a link to nowhere
            digest.update(os.fsencode(name) + b"\0?\0")
        else:
            digest.update(
                os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode()
            )
    return digest.hexdigest()


def open_folder(name: str, folder: Path) -> ImageSource:
    """All files below a folder; what is hidden is ignored, and links are followed once.

    The folders in it are the labels. If they are called train, test and perhaps val, they are
    splits instead, and the folders in these are the labels. A metadata.csv in any of them gives
    attributes to the pictures that it names.
    """
    files = list_files(name, folder)
    if not files:
        raise ValueError(f"{name} is a folder without files: put pictures into it")
    tables = [file for file in files if file[1].name == METADATA]
    pictures = [file for file in files if file[1].name != METADATA]
    above = [Path(inside).parent.parts for inside, _ in pictures]
    splits = {_SPELLINGS.get(folders[0].lower()) for folders in above if folders}
    given = None not in splits and "train" in splits
    entries: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for (inside, path), folders in zip(pictures, above, strict=True):
        split = "train"
        if given and folders:
            split, folders = _SPELLINGS[folders[0].lower()], folders[1:]
        entries[split].append(Entry(inside, path, folders[0] if folders else None))
    known = read_metadata(name, tables, {inside for inside, _ in pictures})

    def part(split: str) -> Part:
        def read() -> Iterator[Entry]:
            return (replace(entry, attributes=known(entry.name)) for entry in entries[split])

        return Part(split, len(entries[split]), read)

    parts = [part(split) for split in SPLITS if entries[split]]
    return ImageSource(name, "files", parts, lambda: listing_hash(files))


def list_files(name: str, folder: Path) -> list[tuple[str, Path]]:
    """The files below a folder, sorted, each as its path inside the folder and its path.

    Raises:
        ValueError: a folder that cannot be listed.
    """
    files: list[tuple[str, Path]] = []
    folders, links = [("", folder)], list[tuple[str, Path]]()
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

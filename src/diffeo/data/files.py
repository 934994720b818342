"""Files that hold data: their names, limits on untrusted ones, and one sentence for what is wrong.

Limits are checked before a file is read.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from diffeo.context import MOST_COLUMNS as MOST_COLUMNS
from diffeo.utils.ranges import suggestion as suggestion

Array = NDArray[Any]

# Bytes of a line of text, and of the text of one chunk of rows.
LONGEST_LINE, LONGEST_CHUNK = 2**24, 2**29
# Values of a chunk of rows, over all its columns.
CHUNK_VALUES = 2**23
# Bytes that a compressed part may unpack to, or else so many times its own size.
UNPACKED, TIMES = 2**30, 100
# How compressed files of text are opened, by the ending of a file's name.
UNPACKERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


class RefusedError(ValueError):
    """A file is refused by a sentence that names it already."""


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns whatever a reading library raises into one sentence that names the file."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:  # damage makes libraries raise nearly anything
        reason = " ".join(str(error).split()).replace("Error tokenizing data. C error: ", "")
        reason = reason or type(error).__name__
        raise ValueError(f"{name} cannot be read, it may be damaged: {reason}") from error


def listing(names: Iterable[str], most: int = 20) -> str:
    """Names in a row, with the end of a long row counted instead of written."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plain_path(name: str) -> Path:
    """The path that a user wrote, in which ~ is the home folder.

    Raises:
        ValueError: if there is no such home folder, or the name could be no file's.
    """
    if not name:  # which would be the folder at hand
        raise ValueError("no source is named: pass --data.source")
    if "\0" in name:
        raise ValueError(f"{name} has a zero byte in it, as no name of a file has")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}: there is no such home folder: check --data.source") from error


def check_file(
    name: str, path: Path, endings: Sequence[str], others: str, known: Iterable[str]
) -> None:
    """Refuses a source that is no plain file of one of some endings.

    For the message, `others` are what else could be given, and `known` names that may be meant.
    """
    if not path.name.lower().endswith(tuple(endings)):
        what = f"{name} cannot be read" if path.exists() else f"unknown source '{name}'"
        raise ValueError(
            f"{what}{suggestion(name, known)}: give {others}, a file ending in "
            f"{', '.join(endings)}, or hf://owner/name"
        )
    if not path.exists():
        neighbours = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            f"there is no file {name}{suggestion(path.name, neighbours)}: check --data.source"
        )
    check_plain(name, path)


def check_plain(name: str, path: Path) -> None:
    """Refuses what is there but no plain file, such as a pipe or a device, which may never end."""
    if os.path.lexists(path) and not path.is_file():
        raise RefusedError(
            f"{name} is not a plain file, but a pipe, a device or a folder: save what it holds as "
            "one"
        )


def check_columns(name: str, count: int) -> None:
    """Refuses a table of too many columns."""
    if count > MOST_COLUMNS:
        raise RefusedError(
            f"{name} has {count:,} columns, and {MOST_COLUMNS:,} are the most that are read: "
            "save those that are wanted"
        )


def check_unpacked(name: str, packed: int, unpacked: int) -> None:
    """Refuses a few bytes that stand for gigabytes."""
    if unpacked > max(UNPACKED, TIMES * packed):
        raise RefusedError(
            f"{name} unpacks {packed:,} bytes into {unpacked:,}, as no data do: save it unpacked"
        )


def check_archive(name: str, archive: zipfile.ZipFile) -> None:
    """Refuses an archive whose members unpack into far more than they are."""
    members = archive.infolist()
    check_columns(name, len(members))
    check_unpacked(name, sum(m.compress_size for m in members), sum(m.file_size for m in members))


def file_hash(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LimitedFile(io.RawIOBase):
    """A text file, maybe compressed, that can be read as long as no line or chunk is too long."""

    def __init__(self, path: Path) -> None:
        unpack = UNPACKERS.get(path.suffix.lower())
        self._file = path.open("rb", buffering=0) if unpack is None else unpack(path)
        self._path, self._packed = path, 0 if unpack is None else path.stat().st_size
        self._line = self._chunk = self._all = 0

    def next_chunk(self) -> None:
        """Begins to count for another chunk of rows."""
        self._chunk = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer) or 0
        end = bytes(buffer[:count]).rfind(b"\n")
        self._line = self._line + count if end < 0 else count - end
        self._chunk += count
        self._all += count
        if self._packed:
            check_unpacked(str(self._path), self._packed, self._all)
        if self._line > LONGEST_LINE:
            raise ValueError(f"it has a line of more than {LONGEST_LINE >> 20} MiB")
        if self._chunk > LONGEST_CHUNK:
            raise ValueError(
                "it has a row, a quote of which may never be closed, of more than "
                f"{LONGEST_CHUNK >> 20} MiB"
            )
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

"""Limits on untrusted files, checked before they are read."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

from diffeo.context import MOST_COLUMNS as MOST_COLUMNS

# Bytes of a line of text, and of the text of one chunk of rows.
LONGEST_LINE, LONGEST_CHUNK = 2**24, 2**29
# Values of a chunk of rows, over all its columns.
CHUNK_VALUES = 2**23
# Bytes that a compressed part may unpack to, or else so many times its own size.
UNPACKED, TIMES = 2**30, 100
FOOTER_BYTES = 2**26  # of a parquet file

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


class RefusedError(ValueError):
    """A file is refused by a sentence that names it already."""


def check_plain(name: str, path: Path) -> None:
    """Refuse what is there but no plain file, such as a pipe or a device, which may never end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # a name with a zero byte
        return
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise RefusedError(f"{name} is {kind}, not a plain file: save what it holds as one")


def check_columns(name: str, count: int) -> None:
    """Refuse a table of too many columns."""
    if count > MOST_COLUMNS:
        raise RefusedError(
            f"{name} has {count:,} columns, and {MOST_COLUMNS:,} are the most that are read: "
            "save those that are wanted"
        )


def check_unpacked(name: str, packed: int, unpacked: int) -> None:
    """Refuse a few bytes that stand for gigabytes."""
    if unpacked > max(UNPACKED, TIMES * packed):
        raise RefusedError(
            f"{name} unpacks {packed:,} bytes into {unpacked:,}, as no data do: save it unpacked"
        )


def check_archive(name: str, archive: zipfile.ZipFile) -> None:
    """Refuse an archive whose members unpack into far more than they are."""
    members = archive.infolist()
    check_columns(name, len(members))
    check_unpacked(name, sum(m.compress_size for m in members), sum(m.file_size for m in members))


class LimitedFile(io.RawIOBase):
    """A text file that can be read as long as no line and no chunk of rows is too long."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._line = self._chunk = 0

    def next_chunk(self) -> None:
        """Begin to count for another chunk of rows."""
        self._chunk = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer) or 0
        end = bytes(buffer[:count]).rfind(b"\n")
        self._line = self._line + count if end < 0 else count - end
        self._chunk += count
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

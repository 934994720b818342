"""What a file may ask for before it is read: files that end, and no more than their size tells."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# A table of more is no table; some selection of it may be.
MOST_COLUMNS = 100_000
# Bytes of a line of text, and of the text of one chunk of rows.
LONGEST_LINE, LONGEST_CHUNK = 2**24, 2**29
# Values of a chunk of rows, over all its columns.
CHUNK_VALUES = 2**23
# Bytes that a compressed part may unpack to, or else so many times its own size.
UNPACKED, TIMES = 2**30, 100
FOOTER_BYTES = 2**26  # of a parquet file

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


class RefusedError(ValueError):
    """What is wrong with a file is known, and said in a sentence that names it."""


def check_plain(name: str, path: Path) -> None:
    """Refuse what is no plain file: a pipe would be waited for, and a device never ends.

    Raises:
        ValueError: then; of a file that is not there nothing is said.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # a name with a zero byte
        return
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
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


def lines(file: IO[str]) -> Iterator[str]:
    """The lines of a text, none of which is endless.

    Raises:
        ValueError: at one that is too long.
    """
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(_too_long(LONGEST_LINE, "line"))
        yield line


class Text(io.RawIOBase):
    """A file that is read only as long as its lines end, and no more at once than a chunk needs.

    Args:
        path: of the file.
    """

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
            raise ValueError(_too_long(LONGEST_LINE, "line"))
        if self._chunk > LONGEST_CHUNK:
            raise ValueError(_too_long(LONGEST_CHUNK, "row, a quote of which may never be closed,"))
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _too_long(limit: int, what: str) -> str:
    return f"it has a {what} of more than {limit >> 20} MiB"


def check_footer(name: str, path: Path) -> None:
    """Refuse a parquet file of too many columns by a look at its footer, which is slow to parse.

    It begins with a version and the list of columns, in Thrift's compact protocol: for each a byte
    of its kind, and then numbers in groups of seven bits.

    Raises:
        ValueError: then.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        if size < 12:
            return
        file.seek(size - 8)
        (length,) = struct.unpack("<I", file.read(4))
        if length > FOOTER_BYTES:
            raise ValueError(f"it has a footer of {length:,} bytes: save it in fewer row groups")
        file.seek(max(0, size - 8 - length))
        head = iter(file.read(24) + bytes(24))
    next(head)
    _whole(head)  # the version
    next(head)
    count = next(head) >> 4
    # The first of them is the whole.
    check_columns(name, (_whole(head) if count == 15 else count) - 1)


def _whole(head: Iterator[int]) -> int:
    value = shift = 0
    for byte in head:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value


def parquet_batches(name: str, path: Path, columns: list[str], rows: int) -> Iterator[Any]:
    """Columns of a parquet file, batch by batch, in no more memory than the file deserves.

    A dictionary of a few bytes may stand for the same gigabyte over and over. Texts and bytes stay
    dictionaries; inside of structs, where pyarrow cannot do so, few rows are read at once.

    Args:
        name: of the file, for messages.
        path: of the file.
        columns: which to read.
        rows: of a batch at most.

    Raises:
        ValueError: if these columns unpack into far more than they are.
    """
    import pyarrow.parquet

    wanted = set(columns)
    metadata = pyarrow.parquet.read_metadata(path)
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    chosen = [i for i, leaf in enumerate(leaves) if _root(leaf, wanted) in wanted]
    packed = unpacked = 0
    largest = 1
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        sizes = {i: group.column(i).total_uncompressed_size for i in chosen}
        packed += sum(group.column(i).total_compressed_size for i in chosen)
        # Of numbers, for which runs of equal ones may stand, at least these.
        unpacked += max(sum(sizes.values()), 8 * group.num_rows * len(chosen))
        largest = max([largest, *(sizes[i] for i in chosen if leaves[i].path not in wanted)])
    check_unpacked(name, packed, unpacked)
    texts = [leaves[i].path for i in chosen if leaves[i].physical_type == "BYTE_ARRAY"]
    texts = [path for path in texts if path in wanted]
    with pyarrow.parquet.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
        yield from file.iter_batches(max(1, min(rows, UNPACKED // largest)), columns=columns)


def _root(leaf: Any, wanted: set[str]) -> str:
    """The column that a leaf is of; a name may have dots in it."""
    return leaf.path if leaf.path in wanted else leaf.path.partition(".")[0]

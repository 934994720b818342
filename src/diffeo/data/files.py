"""Table files. Every one is read the same way: by column name, in chunks of rows."""

from __future__ import annotations

import csv
import difflib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Chunk = dict[str, Array]

DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Source:
    """A table that has been opened but not read.

    Args:
        name: the source as the user wrote it, for messages.
        columns: the names of all its columns.
        read: `read(names, batch_rows)` yields chunks of rows: a `[rows]` array for each name.
        labels: the columns that are left out unless chosen by name.
        named: False where the file holds no column names, and only their order means anything.
        drawn: True where a generator made the rows, and `rows` was how many it drew.
    """

    name: str
    columns: list[str]
    read: Callable[[list[str], int], Iterator[Chunk]]
    labels: tuple[str, ...] = ()
    named: bool = True
    drawn: bool = False


def open_file(name: str, path: Path, delimiter: str | None = None) -> Source:
    """Opens a file that ends in one of `ENDINGS`; the delimiter is for CSV and a comma by default.

    Raises:
        ValueError: an empty or damaged file, or one without a usable line of column names.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{name} is empty: it has not a single byte")
    if path.suffix.lower() == ".csv":
        return _csv(name, path, "," if delimiter is None else delimiter.replace("\\t", "\t"))
    return _BINARY[path.suffix.lower()](name, path)


def slices(columns: Chunk) -> Callable[[list[str], int], Iterator[Chunk]]:
    """The `read` of a source whose columns are in memory already."""

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        for start in range(0, len(next(iter(columns.values()))), batch_rows):
            yield {name: columns[name][start : start + batch_rows] for name in names}

    return read


def listing(names: Iterable[str], most: int = 20) -> str:
    """Names in a row, with the end of a long row counted instead of written."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def suggestion(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'moons'?)"` where a known name is close, otherwise nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns whatever a reading library raises into one sentence that names the file."""
    try:
        yield
    except (
        OSError,
        ValueError,  # pandas' parser and pyarrow raise subclasses of it
        EOFError,
        NotImplementedError,
        csv.Error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split()).replace("Error tokenizing data. C error: ", "")
        raise ValueError(f"{name} cannot be read, it may be damaged: {reason}") from error


def _check_names(name: str, columns: list[str]) -> list[str]:
    twice = [column for i, column in enumerate(columns) if column in columns[:i]]
    if twice:
        raise ValueError(f"{name} has two columns named '{twice[0]}': give each its own name")
    return columns


def _csv(name: str, path: Path, delimiter: str) -> Source:
    if len(delimiter) != 1:
        raise ValueError(f"{name}: --data.delimiter is one character, not {delimiter!r}")
    with reading(name), path.open(newline="", encoding="utf-8-sig") as file:
        lines = (line for line in csv.reader(file, delimiter=delimiter) if line)
        header = [column.strip() for column in next(lines, [])]
        first = next(lines, [])
    _check_header(name, header, first, delimiter)

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        import pandas

        # All columns are parsed, since with `usecols` pandas cuts lines that are too long in
        # silence; the copies let go of those that nobody asked for. `low_memory=False` gives each
        # column of a chunk one type.
        with (
            reading(name),
            pandas.read_csv(
                path,
                sep=delimiter,
                names=header,
                header=0,
                index_col=False,
                chunksize=batch_rows,
                low_memory=False,
            ) as frames,
        ):
            for frame in frames:
                yield {column: frame[column].to_numpy(copy=True) for column in names}

    return Source(name, header, read)


def _check_header(name: str, header: list[str], first: list[str], delimiter: str) -> None:
    if len(header) == 1:
        for other in DELIMITERS.replace(delimiter, ""):
            if other in header[0]:
                sign = "\\t" if other == "\t" else other
                raise ValueError(
                    f'{name} looks separated by "{sign}", not by "{delimiter}": '
                    f'pass --data.delimiter "{sign}"'
                )
    if not header:
        raise ValueError(f"{name} is empty: it has not a single line with text")
    numbered = header == [str(i) for i in range(len(header))]  # as pandas writes a bare array
    if all(map(_is_number, header)) and not numbered:
        raise ValueError(
            f"{name} has no line of column names, it starts with {listing(header, 3)}: "
            "write names that are not numbers above the values"
        )
    if len(first) > len(header):
        raise ValueError(
            f"{name} names {len(header)} columns and its first row has {len(first)} values: "
            "write one name for each column"
        )
    _check_names(name, header)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(name: str, path: Path) -> Source:
    import pyarrow.parquet

    with reading(name), pyarrow.parquet.ParquetFile(path) as file:
        # pandas stores a table's row labels as one more column.
        columns = [c for c in file.schema_arrow.names if not c.startswith("__index_level_")]
    _check_names(name, columns)

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        with reading(name), pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_rows, columns=names):
                yield {column: from_arrow(batch.column(column)) for column in names}

    return Source(name, columns, read)


def from_arrow(column: Any) -> Array:
    """A pyarrow column as NumPy's, `[rows]`; what is missing is NaN in a column of numbers."""
    import pyarrow

    if pyarrow.types.is_decimal(column.type) or pyarrow.types.is_null(column.type):
        column = column.cast(pyarrow.float64())
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _npy(name: str, path: Path) -> Source:
    with reading(name):
        table = np.lib.format.open_memmap(path, mode="r")
    return _unnamed(name, table)


def _unnamed(name: str, table: Array) -> Source:
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(
            f"{name} holds an array of shape {table.shape}: save one of (rows, columns)"
        )
    columns = {f"x{i}": table[:, i] for i in range(table.shape[1])}
    return Source(name, list(columns), slices(columns), named=False)


def _npz(name: str, path: Path) -> Source:
    with reading(name):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive")
        with np.load(path, allow_pickle=False) as file:
            arrays: Chunk = {key: file[key] for key in file.files}
    tables = {key for key, array in arrays.items() if array.ndim == 2}
    table = next((arrays[key] for key in ("x", "data") if key in tables), None)
    if table is None and len(arrays) == 1 and tables:
        (table,) = arrays.values()
    if table is None:
        if len({array.shape for array in arrays.values()}) == 1 and (
            next(iter(arrays.values())).ndim == 1
        ):
            return Source(name, list(arrays), slices(arrays))
        held = listing(f"{key} {array.shape}" for key, array in arrays.items())
        raise ValueError(
            f"{name} holds {held or 'no array'}: save one array of (rows, columns) named x, or one "
            "array of (rows,) for each column"
        )
    titles = arrays.get("columns", np.empty(0))
    if titles.shape != table.shape[1:] or titles.dtype.kind != "U":
        return _unnamed(name, table)
    columns = _check_names(name, [str(title) for title in titles])
    return Source(name, columns, slices(dict(zip(columns, table.T, strict=True))))


_BINARY = {".parquet": _parquet, ".npy": _npy, ".npz": _npz}
ENDINGS = (".csv", *_BINARY)

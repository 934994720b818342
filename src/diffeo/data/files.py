"""Table files. Every one is read the same way: by column name, in chunks of rows."""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffeo.data.bounds import (
    CHUNK_VALUES,
    RefusedError,
    Text,
    check_archive,
    check_columns,
    check_footer,
    check_plain,
    lines,
    parquet_batches,
)

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
    check_plain(name, path)
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
    close = difflib.get_close_matches(name[:100], list(itertools.islice(known, 1_000)), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


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


def _check_names(name: str, columns: list[str]) -> list[str]:
    check_columns(name, len(columns))
    seen: set[str] = set()
    for column in columns:
        if column in seen:
            raise ValueError(f"{name} has two columns named '{column}': give each its own name")
        seen.add(column)
    return columns


def _csv(name: str, path: Path, delimiter: str) -> Source:
    if len(delimiter) != 1:
        raise ValueError(f"{name}: --data.delimiter is one character, not {delimiter!r}")
    with reading(name), path.open(newline="", encoding="utf-8-sig") as file:
        rows = (row for row in csv.reader(lines(file), delimiter=delimiter) if row)
        header = [column.strip() for column in next(rows, [])]
        first = next(rows, [])
    _check_header(name, header, first, delimiter)

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        import pandas

        # All columns are parsed, since with `usecols` pandas cuts lines that are too long in
        # silence; the copies let go of those that nobody asked for. `low_memory=False` gives each
        # column of a chunk one type.
        text = Text(path)
        with (
            reading(name),
            io.BufferedReader(text, 2**18) as file,
            pandas.read_csv(
                file,
                sep=delimiter,
                names=header,
                header=0,
                index_col=False,
                chunksize=_chunk_rows(batch_rows, len(header)),
                low_memory=False,
            ) as frames,
        ):
            for frame in frames:
                yield {column: frame[column].to_numpy(copy=True) for column in names}
                text.next_chunk()

    return Source(name, header, read)


def _chunk_rows(most: int, columns: int) -> int:
    """How many rows to hold at once, of so many columns."""
    return max(1, min(most, CHUNK_VALUES // max(columns, 1)))


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

    with reading(name):
        check_footer(name, path)
        schema = pyarrow.parquet.read_schema(path)
    # pandas stores a table's row labels as one more column.
    columns = [column for column in schema.names if not column.startswith("__index_level_")]
    _check_names(name, columns)

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        rows = _chunk_rows(batch_rows, len(names))
        if not all(_is_narrow(schema.field(column).type) for column in names):
            rows = min(rows, 64)  # texts, which the first of them is enough to refuse
        with reading(name):
            for batch in parquet_batches(name, path, names, rows):
                yield {column: from_arrow(batch.column(column)) for column in names}

    return Source(name, columns, read)


def from_arrow(column: Any) -> Array:
    """A pyarrow column as NumPy's, `[rows]`; what is missing is NaN in a column of numbers."""
    import pyarrow

    if pyarrow.types.is_decimal(column.type) or pyarrow.types.is_null(column.type):
        column = column.cast(pyarrow.float64())
    if pyarrow.types.is_dictionary(column.type):
        return _looked_up(column)
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _looked_up(column: Any) -> Array:
    """The values of a dictionary, of which equal ones are one object, as large as it may be."""
    known = column.dictionary.to_numpy(zero_copy_only=False)
    places = column.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)
    if column.null_count:
        missing: Any = np.nan if known.dtype.kind in "iuf" else None
        known = np.append(known, missing)
    values: Array = known[places]
    return values


def _is_narrow(kind: Any) -> bool:
    """Whether a value of a pyarrow type takes a few bytes, whatever it is."""
    from pyarrow import types

    checks = (types.is_primitive, types.is_decimal, types.is_null)
    return any(check(kind) for check in checks)


def _npy(name: str, path: Path) -> Source:
    with reading(name):
        table = np.lib.format.open_memmap(path, mode="r")
    return _unnamed(name, table)


def _unnamed(name: str, table: Array) -> Source:
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(
            f"{name} holds an array of shape {table.shape}: save one of (rows, columns)"
        )
    check_columns(name, table.shape[1])
    columns = {f"x{i}": table[:, i] for i in range(table.shape[1])}
    return Source(name, list(columns), slices(columns), named=False)


def _npz(name: str, path: Path) -> Source:
    with reading(name):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive")
        with np.load(path, allow_pickle=False) as file:
            check_archive(name, file.zip)
            held = {key: file[key] for key in file.files}
        for array in held.values():
            if getattr(array, "dtype", None) is not None and array.dtype.kind == "U":
                array.tolist()  # where numbers are no characters, it is told here
    # Of what is no array, such as a text, NumPy gives the bytes.
    arrays: Chunk = {key: array for key, array in held.items() if isinstance(array, np.ndarray)}
    tables = {key for key, array in arrays.items() if array.ndim == 2}
    table = next((arrays[key] for key in ("x", "data") if key in tables), None)
    if table is None and len(arrays) == 1 and tables:
        (table,) = arrays.values()
    if table is None:
        if len({array.shape for array in arrays.values()}) == 1 and (
            next(iter(arrays.values())).ndim == 1
        ):
            return Source(name, list(arrays), slices(arrays))
        shapes = listing(f"{key} {array.shape}" for key, array in arrays.items())
        raise ValueError(
            f"{name} holds {shapes or 'no array'}: save one array of (rows, columns) named x, or "
            "one array of (rows,) for each column"
        )
    titles = arrays.get("columns", np.empty(0))
    if titles.shape != table.shape[1:] or titles.dtype.kind != "U":
        return _unnamed(name, table)
    columns = _check_names(name, [str(title) for title in titles])
    return Source(name, columns, slices(dict(zip(columns, table.T, strict=True))))


_BINARY = {".parquet": _parquet, ".npy": _npy, ".npz": _npz}
ENDINGS = (".csv", *_BINARY)

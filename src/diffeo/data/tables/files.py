"""Table files: CSV, Parquet and NumPy's formats, each read by column names in chunks of rows."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffeo.data.arrow import ArrowTable, open_parquet, to_numpy
from diffeo.data.files import (
    CHUNK_VALUES,
    Array,
    LimitedFile,
    check_archive,
    check_columns,
    listing,
    reading,
)
from diffeo.data.tables.options import TableOptions
from diffeo.data.tables.source import Chunk, Source

DELIMITERS = ",;\t|"


def read_file(path: Path, options: TableOptions) -> Source:
    """Opens a file that ends in one of `READERS`.

    Raises:
        ValueError: an empty or damaged file, or one without a usable line of column names.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{options.source} is empty: it has not a single byte")
    return READERS[path.suffix.lower()](path, options)


def _check_names(name: str, columns: list[str]) -> list[str]:
    check_columns(name, len(columns))
    if len({*columns}) < len(columns):
        twice = next(column for i, column in enumerate(columns) if column in {*columns[:i]})
        raise ValueError(f"{name} has two columns named '{twice}': give each its own name")
    return columns


def _read_csv(path: Path, options: TableOptions) -> Source:
    name = options.source
    delimiter = "," if options.delimiter is None else options.delimiter.replace("\\t", "\t")
    if len(delimiter) != 1:
        raise ValueError(f"{name}: --data.delimiter is one character, not {delimiter!r}")
    with (
        reading(name),
        io.BufferedReader(LimitedFile(path)) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
    ):
        rows = (row for row in csv.reader(text, delimiter=delimiter) if row)
        header = [column.strip() for column in next(rows, [])]
        first = next(rows, [])
    _check_header(name, header, first, delimiter)

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        import pandas

        # All columns are parsed, since with `usecols` pandas shortens lines that are too long
        # without a word; the copies let go of the columns that nobody asked for.
        # `low_memory=False` gives each column of a chunk one type.
        limited = LimitedFile(path)
        with (
            reading(name),
            io.BufferedReader(limited, 2**18) as file,
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
                limited.next_chunk()

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


def _read_parquet(path: Path, options: TableOptions) -> Source:
    return from_arrow(open_parquet(options.source, path))


def from_arrow(table: ArrowTable) -> Source:
    """A table of pyarrow as a source."""
    columns = _check_names(table.name, table.columns)

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        rows = _chunk_rows(batch_rows, len(names))
        if not all(_is_narrow(table.schema.field(column).type) for column in names):
            rows = min(rows, 64)  # texts, which the first of them is enough to refuse
        with reading(table.name):
            for batch in table.read(names, rows):
                yield {column: to_numpy(batch.column(column)) for column in names}

    return Source(table.name, columns, read)


def _is_narrow(kind: Any) -> bool:
    """Whether each value of a pyarrow type takes a few bytes."""
    from pyarrow import types

    checks = (types.is_primitive, types.is_decimal, types.is_null)
    return any(check(kind) for check in checks)


def _read_npy(path: Path, options: TableOptions) -> Source:
    with reading(options.source):
        table = np.lib.format.open_memmap(path, mode="r")
    return _unnamed(options.source, table)


def _unnamed(name: str, table: Array) -> Source:
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(
            f"{name} holds an array of shape {table.shape}: save one of (rows, columns)"
        )
    check_columns(name, table.shape[1])
    columns = {f"x{i}": column for i, column in enumerate(table.T)}
    return Source.in_memory(name, columns, named=False)


def _read_npz(path: Path, options: TableOptions) -> Source:
    name = options.source
    with reading(name):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive")
        with np.load(path, allow_pickle=False) as file:
            check_archive(name, file.zip)
            held = {key: file[key] for key in file.files}
        # Of what is no array, such as a text, NumPy gives the bytes.
        arrays: Chunk = {key: array for key, array in held.items() if isinstance(array, np.ndarray)}
        for array in arrays.values():
            if array.dtype.kind == "U":
                array.tolist()  # fails where numbers are no characters
    tables = {key: array for key, array in arrays.items() if array.ndim == 2}
    table = next((tables[key] for key in ("x", "data") if key in tables), None)
    if table is None and len(arrays) == 1 and tables:
        (table,) = tables.values()
    if table is None:
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) == 1 and len(next(iter(shapes))) == 1:
            return Source.in_memory(name, arrays)
        found = listing(f"{key} {array.shape}" for key, array in arrays.items())
        raise ValueError(
            f"{name} holds {found or 'no array'}: save one array of (rows, columns) named x, or "
            "one array of (rows,) for each column"
        )
    titles = arrays.get("columns", np.empty(0))
    if titles.shape != table.shape[1:] or titles.dtype.kind != "U":
        return _unnamed(name, table)
    columns = _check_names(name, [str(title) for title in titles])
    return Source.in_memory(name, dict(zip(columns, table.T, strict=True)))


# How each format is read, by the ending of a file's name.
READERS: dict[str, Callable[[Path, TableOptions], Source]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
ENDINGS = tuple(READERS)

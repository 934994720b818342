"""Tables that are opened but not read: generators, bundled tables, files, the Hugging Face hub."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffeo.data.arrow import ArrowTable, open_hub, open_parquet, to_numpy
from diffeo.data.datasets import SourceOptions, check_options
from diffeo.data.files import (
    CHUNK_VALUES,
    Array,
    LimitedFile,
    check_archive,
    check_columns,
    check_file,
    listing,
    plain_path,
    reading,
)
from diffeo.data.images.dataset import IMAGE_SETS
from diffeo.data.tables.synthetic import DEFAULT_ROWS, GENERATORS, generate
from diffeo.utils.ranges import Positive

BUNDLED = ("iris", "wine", "breast_cancer", "diabetes")
DELIMITERS = ",;\t|"  # of CSV files
Chunk = dict[str, Array]


@dataclass
class TableOptions(SourceOptions):
    """Which table to learn from, and how.

    Args:
        source: A generator (moons, circles, swiss_roll, gaussians), a bundled table (iris, wine,
            breast_cancer, diabetes), a .csv, .parquet, .npy or .npz file, or hf://owner/name.
        columns: The columns to model; by default all that are not context.
        noise: The standard deviation of a generator's noise.
        dequantize: Whether each value of a column of repeated values is spread over its step.
    """

    source: str = "moons"
    columns: list[str] | None = None
    noise: Positive | None = None
    dequantize: bool = False


@dataclass(frozen=True)
class Source:
    """A table that has been opened but not read.

    Args:
        name: the source as the user wrote it, for messages.
        columns: the names of all its columns.
        read: `read(names, batch_rows)` yields chunks of rows: a `[rows]` array for each name.
        labels: the columns that are left out unless chosen by name.
        named: False where the file holds no column names, and only their order means anything.
    """

    name: str
    columns: list[str]
    read: Callable[[list[str], int], Iterator[Chunk]]
    labels: tuple[str, ...] = ()
    named: bool = True

    def chunks(
        self, names: list[str], rows: int | None, batch_rows: int
    ) -> Iterator[tuple[int, Chunk]]:
        """Chunks of the first `rows` rows, each with the number of its first row, from 1."""
        done = 0
        for chunk in self.read(names, batch_rows if rows is None else min(rows, batch_rows)):
            if rows is not None:
                chunk = {name: column[: rows - done] for name, column in chunk.items()}
            if size := len(chunk[names[0]]):
                yield done + 1, chunk
            done += size
            if done == rows:
                return


def open_table(options: TableOptions) -> Source:
    """Opens a generator, a bundled table, a file or a dataset of the Hugging Face hub.

    Raises:
        ValueError: an unknown name or ending, a missing, empty or damaged file, or a file without
            a usable line of column names.
    """
    name = options.source
    check_options(options)
    if name in GENERATORS:
        rows = DEFAULT_ROWS if options.rows is None else options.rows
        points, names, labels = generate(name, rows, options.seed, options.noise)
        more = {} if labels is None else {"label": labels}
        columns = dict(zip(names, points.T, strict=True))
        return _in_memory(name, columns | more, labels=tuple(more))
    if options.noise is not None:
        raise ValueError(f"{name} draws no noise: --data.noise is for {', '.join(GENERATORS)}")
    if name in BUNDLED:
        return _bundled(name)
    if name.startswith("hf://"):
        splits = open_hub(name)
        table = splits["train" if "train" in splits else next(iter(splits))]
        return _from_arrow(dataclasses.replace(table, name=name))
    path = plain_path(name)
    if path.is_dir():
        raise ValueError(f"{name} is a folder: give one file, ending in {', '.join(ENDINGS)}")
    known = [*GENERATORS, *BUNDLED]
    # Images are no table, but may be what was meant.
    near = known if name in IMAGE_SETS else [*known, *IMAGE_SETS]
    check_file(name, path, ENDINGS, f"one of {', '.join(known)}", near)
    if path.stat().st_size == 0:
        raise ValueError(f"{name} is empty: it has not a single byte")
    return READERS[path.suffix.lower()](name, path)


def _in_memory(name: str, columns: Chunk, **rest: Any) -> Source:
    """A source whose columns `[rows]` are in memory already, or mapped there."""

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        for start in range(0, len(next(iter(columns.values()))), batch_rows):
            yield {name: columns[name][start : start + batch_rows] for name in names}

    return Source(name, list(columns), read, **rest)


def _bundled(name: str) -> Source:
    from sklearn import datasets

    # Scikit-learn ships diabetes scaled to a common norm, which hides the units.
    keywords = {"scaled": False} if name == "diabetes" else {}
    table = getattr(datasets, f"load_{name}")(**keywords)
    columns = dict(zip(map(str, table.feature_names), table.data.T, strict=True))
    return _in_memory(name, columns | {"target": table.target}, labels=("target",))


def _from_arrow(table: ArrowTable) -> Source:
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

    return types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind)


def _chunk_rows(most: int, columns: int) -> int:
    """How many rows to hold at once, of so many columns."""
    return max(1, min(most, CHUNK_VALUES // max(columns, 1)))


def _check_names(name: str, columns: list[str]) -> list[str]:
    check_columns(name, len(columns))
    if len({*columns}) < len(columns):
        twice = next(column for i, column in enumerate(columns) if column in {*columns[:i]})
        raise ValueError(f"{name} has two columns named '{twice}': give each its own name")
    return columns


def _open_csv(name: str, path: Path) -> Source:
    with reading(name):
        starts = {delimiter: _first_lines(path, delimiter) for delimiter in DELIMITERS}
    # The delimiter is the one that finds most columns in both lines.
    delimiter = max(starts, key=lambda delimiter: min(map(len, starts[delimiter]), default=0))
    header, first = [*starts[delimiter], [], []][:2]
    header = [column.strip() for column in header]
    _check_header(name, header, first)

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


def _first_lines(path: Path, delimiter: str) -> list[list[str]]:
    """The values of the first two lines that are not blank."""
    with (
        io.BufferedReader(LimitedFile(path)) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
    ):
        rows = (row for row in csv.reader(text, delimiter=delimiter) if row)
        return list(itertools.islice(rows, 2))


def _check_header(name: str, header: list[str], first: list[str]) -> None:
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


def _open_parquet(name: str, path: Path) -> Source:
    return _from_arrow(open_parquet(name, path))


def _open_npy(name: str, path: Path) -> Source:
    with reading(name):
        table = np.lib.format.open_memmap(path, mode="r")
    return _unnamed(name, table)


def _unnamed(name: str, table: Array) -> Source:
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(
            f"{name} holds an array of shape {table.shape}: save one of (rows, columns)"
        )
    check_columns(name, table.shape[1])
    columns = {f"x{i}": column for i, column in enumerate(table.T)}
    return _in_memory(name, columns, named=False)


def _open_npz(name: str, path: Path) -> Source:
    with reading(name):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive")
        with np.load(path, allow_pickle=False) as file:
            check_archive(name, file.zip)
            members = {key: file[key] for key in file.files}
        # Of what is no array, such as a text, NumPy gives the bytes.
        arrays = {key: array for key, array in members.items() if isinstance(array, np.ndarray)}
        for array in arrays.values():
            if array.dtype.kind == "U":
                array.tolist()  # fails where numbers are no characters
    tables = [key for key, array in arrays.items() if array.ndim == 2]
    if "x" in tables or len(tables) == 1:
        table = arrays["x" if "x" in tables else tables[0]]
        titles = arrays.get("columns", np.empty(0))
        if titles.shape != table.shape[1:] or titles.dtype.kind != "U":
            return _unnamed(name, table)
        columns = _check_names(name, [str(title) for title in titles])
        return _in_memory(name, dict(zip(columns, table.T, strict=True)))
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) == 1 and len(shapes.pop()) == 1:
        return _in_memory(name, arrays)
    found = listing(f"{key} {array.shape}" for key, array in arrays.items())
    raise ValueError(
        f"{name} holds {found or 'no array'}: save one array of (rows, columns) named x, or "
        "one array of (rows,) for each column"
    )


# How each format is read, by the ending of a file's name.
READERS: dict[str, Callable[[str, Path], Source]] = {
    ".csv": _open_csv,
    ".parquet": _open_parquet,
    ".npy": _open_npy,
    ".npz": _open_npz,
}
ENDINGS = tuple(READERS)

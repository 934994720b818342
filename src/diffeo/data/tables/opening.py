"""Tables that are opened but not read: generators, bundled tables, files, the Hugging Face hub."""

import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffeo.data.arrow import ArrowTable, arrow_frame, open_hub, open_parquet, to_numpy
from diffeo.data.datasets import SourceOptions, check_options
from diffeo.data.files import (
    Array,
    check_archive,
    check_columns,
    check_file,
    listing,
    plain_path,
    reading,
)
from diffeo.data.images.dataset import IMAGE_SETS
from diffeo.data.tables.csv_files import TEXT_ENDINGS, open_csv
from diffeo.data.tables.source import Chunk, Source, check_names, chunk_rows
from diffeo.data.tables.synthetic import DEFAULT_ROWS, GENERATORS, generate
from diffeo.utils.ranges import Positive

FORM = ("decimal", "thousands", "encoding")  # options of files of text
BUNDLED = ("iris", "wine", "breast_cancer", "diabetes")


@dataclass
class TableOptions(SourceOptions):
    """Which table to learn from, and how.

    Args:
        source: A generator (moons, circles, swiss_roll, gaussians), a bundled table (iris, wine,
            breast_cancer, diabetes), a .csv, .tsv, .parquet, .npy or .npz file, or hf://owner/name.
            A .csv or .tsv may be compressed, as .gz, .bz2 or .xz.
        columns: The columns to model; by default all that are not context, and none that counts
            the rows.
        weights: A column that says how much each row counts, from 0 on; it is not modelled.
        noise: The standard deviation of a generator's noise.
        dequantize: Whether each value of a column of repeated values is spread over its step.
        kinds: What columns are, where that is not found by itself, as COLUMN=KIND,COLUMN=KIND; a
            kind is number, integer, category, date or left out. Or a YAML file of kinds, such as
            `diffeo schema --save` writes. Of models of mixed tables.
        decimal: The decimal point of the numbers of a .csv or .tsv, a point or a comma.
        thousands: What separates the thousands of its numbers, one character; by default nothing.
        encoding: How its letters are encoded, such as utf-8, latin-1 or utf-16.
    """

    source: str = "moons"
    columns: list[str] | None = None
    weights: str | None = None
    noise: Positive | None = None
    dequantize: bool = False
    kinds: str | None = None
    decimal: Literal[".", ","] = "."
    thousands: str | None = None
    encoding: str = "utf-8"

    def form(self) -> dict[str, str]:
        """How numbers are written in a .csv or .tsv, where that is not as usual."""
        usual = TableOptions()
        return {n: getattr(self, n) for n in FORM if getattr(self, n) != getattr(usual, n)}


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
    ending = next(ending for ending in ENDINGS if path.name.lower().endswith(ending))
    if ending in TEXT_ENDINGS:
        return open_csv(name, path, options.decimal, options.thousands, options.encoding)
    return READERS[ending](name, path)


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
    columns = check_names(table.name, table.columns)

    def read(names: list[str], batch_rows: int) -> Iterator[Chunk]:
        rows = chunk_rows(batch_rows, len(names))
        if not all(_is_narrow(table.schema.field(column).type) for column in names):
            rows = min(rows, 64)  # texts, which the first of them is enough to refuse
        with reading(table.name):
            for batch in table.read(names, rows):
                yield {column: to_numpy(batch.column(column)) for column in names}

    def frames(batch_rows: int) -> Iterator[Any]:
        with reading(table.name):
            for batch in table.read(columns, chunk_rows(batch_rows, len(columns))):
                yield arrow_frame(batch, columns)

    return Source(table.name, columns, read, frames=frames)


def _is_narrow(kind: Any) -> bool:
    """Whether each value of a pyarrow type takes a few bytes."""
    from pyarrow import types

    return types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind)


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
        columns = check_names(name, [str(title) for title in titles])
        return _in_memory(name, dict(zip(columns, table.T, strict=True)))
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) == 1 and len(shapes.pop()) == 1:
        return _in_memory(name, arrays)
    found = listing(f"{key} {array.shape}" for key, array in arrays.items())
    raise ValueError(
        f"{name} holds {found or 'no array'}: save one array of (rows, columns) named x, or "
        "one array of (rows,) for each column"
    )


# How each format but CSV is read, by the ending of a file's name.
READERS: dict[str, Callable[[str, Path], Source]] = {
    ".parquet": _open_parquet,
    ".npy": _open_npy,
    ".npz": _open_npz,
}
ENDINGS = (*TEXT_ENDINGS[:1], *READERS, *TEXT_ENDINGS[1:])

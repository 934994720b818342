"""Tables of pyarrow, which hold numbers or images: parquet files and datasets of the hub."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffeo.data.files import (
    MOST_COLUMNS,
    UNPACKED,
    Array,
    check_plain,
    check_unpacked,
    file_hash,
    reading,
)

FOOTER_BYTES = 2**26  # of a parquet file


@dataclass(frozen=True)
class ArrowTable:
    """A table that has been opened but not read."""

    name: str  # for messages
    schema: Any  # pyarrow's
    rows: int  # how many there are
    # `read(columns, rows)` yields record batches of these columns, `rows` at most.
    read: Callable[[list[str], int], Iterator[Any]]
    content: Callable[[], str]  # changes with what the table holds

    @property
    def columns(self) -> list[str]:
        """The names of its columns, without those in which pandas stores the labels of rows."""
        return [name for name in self.schema.names if not name.startswith("__index_level_")]


def open_parquet(name: str, path: Path) -> ArrowTable:
    """A parquet file.

    Raises:
        ValueError: a file that is damaged, or has too many columns.
    """
    import pyarrow.parquet

    check_plain(name, path)
    with reading(name):
        with path.open("rb") as start:
            start.seek(-8, io.SEEK_END)
            length = int.from_bytes(start.read(4), "little")
        if length > FOOTER_BYTES:
            raise ValueError(f"it has a footer of {length:,} bytes: save it in fewer row groups")
        file = pyarrow.parquet.ParquetFile(path, thrift_container_size_limit=MOST_COLUMNS + 1)
        with file:
            schema, rows = file.schema_arrow, file.metadata.num_rows

    def read(columns: list[str], most: int) -> Iterator[Any]:
        with reading(name):
            yield from parquet_batches(name, path, columns, most)

    return ArrowTable(name, schema, rows, read, lambda: file_hash(path))


def parquet_batches(name: str, path: Path, columns: list[str], rows: int) -> Iterator[Any]:
    """Batches of at most so many rows of a parquet file, in memory that its size justifies.

    A dictionary of a few bytes may stand for the same gigabyte over and over. Texts and bytes stay
    dictionaries; inside of structs, where pyarrow cannot do so, few rows are read at once.

    Raises:
        ValueError: if these columns unpack into far more than they are.
    """
    import pyarrow.parquet

    wanted = set(columns)
    metadata = pyarrow.parquet.read_metadata(path)
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    # A leaf of a struct is called COLUMN.FIELD; the name of a column may have dots in it, too.
    chosen = [
        i for i, leaf in enumerate(leaves) if wanted & {leaf.path, leaf.path.partition(".")[0]}
    ]
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
    texts = [text for text in texts if text in wanted]
    with pyarrow.parquet.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
        yield from file.iter_batches(max(1, min(rows, UNPACKED // largest)), columns=columns)


def open_hub(name: str) -> dict[str, ArrowTable]:
    """The splits of `hf://owner/name` or `hf://owner/name/config`, by name.

    Raises:
        ValueError: if the datasets package is missing, or the hub has no such dataset.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            'reading hf:// needs the datasets package: pip install "diffeo[hub]"'
        ) from error
    parts = name.removeprefix("hf://").strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ValueError(
            f"{name} is not a dataset: write hf://owner/name or hf://owner/name/config"
        )
    try:
        splits: dict[str, Any] = datasets.load_dataset("/".join(parts[:2]), *parts[2:])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be loaded from the hub: {reason}") from error
    return {split: _hub_table(split, table) for split, table in splits.items()}


def _hub_table(name: str, table: Any) -> ArrowTable:
    def read(columns: list[str], rows: int) -> Iterator[Any]:
        for part in table.select_columns(columns).with_format("arrow").iter(rows):
            yield from part.combine_chunks().to_batches()

    schema = table.features.arrow_schema
    return ArrowTable(name, schema, len(table), read, lambda: str(table._fingerprint))


def to_numpy(column: Any) -> Array:
    """A pyarrow column as NumPy's, `[rows]`; what is missing is NaN in a column of numbers.

    Equal values of a dictionary stay one object, since each may be large.
    """
    import pyarrow
    from pyarrow import types

    if types.is_decimal(column.type) or types.is_null(column.type):
        column = column.cast(pyarrow.float64())
    if types.is_dictionary(column.type):
        if not types.is_primitive(column.type.value_type):
            return np.array(to_list(column), dtype=object)
        column = column.dictionary_decode()
    return np.asarray(column.to_numpy(zero_copy_only=False))


def to_list(column: Any) -> list[Any]:
    """The values of a pyarrow column, of a struct those called bytes; equal ones as `to_numpy`."""
    from pyarrow import compute, types

    while types.is_struct(column.type):
        column = compute.struct_field(column, "bytes")
    if not types.is_dictionary(column.type):
        return list(column.to_pylist())
    known = column.dictionary.to_pylist()
    return [None if place is None else known[place] for place in column.indices.to_pylist()]


def arrow_frame(batch: Any, columns: list[str]) -> Any:
    """A record batch as a DataFrame, whole numbers and truth values with gaps as pandas' own types.

    Texts are read as dictionaries, whose equal values stay one object.
    """
    import pandas
    import pyarrow
    from pyarrow import types

    gaps = {pyarrow.bool_(): pandas.BooleanDtype()}
    for bits in (8, 16, 32, 64):
        for sign in ("Int", "UInt"):
            kind = getattr(pyarrow, f"{sign.lower()}{bits}")()
            gaps[kind] = getattr(pandas, f"{sign}{bits}Dtype")()
    found = {}
    for name in columns:
        column = batch.column(name)
        plain = types.is_dictionary(column.type) or types.is_decimal(column.type)
        mapper = gaps.get if column.null_count else None
        found[name] = (
            pandas.Series(to_numpy(column))
            if plain or types.is_null(column.type)
            else column.to_pandas(types_mapper=mapper)
        )
    return pandas.DataFrame(found, columns=columns)

"""Pictures in a column: parquet files, folders of them, and datasets of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeo.data.bounds import check_footer, check_plain, parquet_batches
from diffeo.data.files import listing, reading, suggestion
from diffeo.data.hub import hub_splits
from diffeo.data.images.attributes import Value
from diffeo.data.images.options import ImageOptions
from diffeo.data.images.source import (
    SPLITS,
    Entry,
    ImageSource,
    Part,
    file_hash,
    listing_hash,
    split_of,
)
from diffeo.utils.parsing import parse_json

BATCH_ROWS = 256  # so that memory does not grow with the file


@dataclass(frozen=True)
class Columns:
    """The columns of pictures, of labels and of attributes.

    Args:
        image: that of pictures.
        label: that of labels, if there is one.
        label_names: what the labels 0, 1, ... are called, where the source says so.
        attributes: the others, each with the names of its values where these are classes.
    """

    image: str
    label: str | None
    label_names: list[str] | None
    attributes: dict[str, list[str] | None]

    @property
    def names(self) -> list[str]:
        """Those to read."""
        return [self.image, *([] if self.label is None else [self.label]), *self.attributes]


def find_columns(name: str, schema: Any, options: ImageOptions) -> Columns:
    """Finds the columns in a pyarrow schema, by the options, Hugging Face's notes, or their types.

    Raises:
        ValueError: a named column that is not there, or no column of pictures.
    """
    with reading(name):
        notes = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = notes.get("info", {}).get("features", {})
        features = {key: value for key, value in features.items() if isinstance(value, dict)}
    kinds = {key: value.get("_type") for key, value in features.items()}
    for column in (options.image_column, options.label_column):
        if column is not None and column not in schema.names:
            raise ValueError(
                f"{name} has no column '{column}'{suggestion(column, schema.names)}: "
                f"it has {listing(schema.names)}"
            )
    images = [f.name for f in schema if _holds_images(f.type)]
    images.sort(key=lambda column: kinds.get(column) != "Image")
    image = options.image_column or next(iter(images), None)
    if image is None:
        raise ValueError(
            f"{name} has no column of pictures: it has {listing(schema.names)}, "
            "and pictures are kept as bytes, or as a struct of bytes and path"
        )
    if image not in images:
        raise ValueError(
            f"{name}: column '{image}' is of type {schema.field(image).type}: name one of encoded "
            "pictures with --data.image_column"
        )
    classes = [column for column in schema.names if kinds.get(column) == "ClassLabel"]
    usual = [column for column in ("label", "labels", *classes) if column in schema.names]
    label = options.label_column or next(
        (column for column in usual if _holds_labels(schema.field(column).type)), None
    )
    if label is not None and not _holds_labels(schema.field(label).type):
        raise ValueError(
            f"{name}: column '{label}' is of type {schema.field(label).type}: name one of whole "
            "numbers or text with --data.label_column"
        )
    names = {column: _texts(features[column].get("names")) for column in classes}
    attributes = {
        field.name: names.get(field.name)
        for field in schema
        if field.name not in (image, label)
        and _holds_attributes(field.type)
        # pandas stores a table's row labels as one more column.
        and not field.name.startswith("__index_level_")
        and schema.names.count(field.name) == 1
    }
    return Columns(image, label, names.get(label), attributes)


def _texts(names: Any) -> list[str] | None:
    """Names of classes as the source's notes have them, if that is what they are."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names if len({*names}) == len(names) else None


def _holds_images(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_images(kind.field(index).type)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _holds_labels(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    checks = (types.is_integer, types.is_string, types.is_large_string, types.is_boolean)
    return any(check(kind) for check in checks)


def _holds_attributes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return _holds_labels(kind) or types.is_floating(kind)


def _entries(name: str, batches: Iterable[Any], columns: Columns) -> Iterator[Entry]:
    row = 0
    for batch in batches:
        images = _listed(batch.column(columns.image))
        labels: list[Any] = [None] * len(images)
        if columns.label is not None:
            labels = _listed(batch.column(columns.label))
        known = {
            column: _values(batch.column(column), names)
            for column, names in columns.attributes.items()
        }
        for i, (content, label) in enumerate(zip(images, labels, strict=True)):
            row += 1
            attributes = {column: values[i] for column, values in known.items()}
            yield Entry(f"{name} row {row}", content or b"", label, attributes)


def _listed(column: Any) -> list[Any]:
    """The values of a pyarrow column, of a struct those called bytes.

    Equal values of a dictionary are one object: a few bytes may stand for the same picture of
    hundreds of megabytes over and over.
    """
    from pyarrow import compute, types

    while types.is_struct(column.type):
        column = compute.struct_field(column, "bytes")
    if not types.is_dictionary(column.type):
        return column.to_pylist()
    known = column.dictionary.to_pylist()
    return [None if place is None else known[place] for place in column.indices.to_pylist()]


def _values(column: Any, names: list[str] | None) -> list[Value]:
    values = _listed(column)
    if names is not None:  # -1 is Hugging Face's "unknown"
        return [None if v is None or not 0 <= v < len(names) else names[v] for v in values]
    return [v if v is None or isinstance(v, str) else float(v) for v in values]


def open_parquet(options: ImageOptions, path: Path) -> ImageSource:
    """A parquet file with a column of pictures."""
    return _parquet(options, [("train", path)], lambda: file_hash(path))


def open_parquet_folder(options: ImageOptions, folder: Path) -> ImageSource | None:
    """A folder of train*.parquet and perhaps val*.parquet and test*.parquet; None if it is not."""
    found = [(split_of(path.name), path) for path in sorted(folder.glob("*.parquet"))]
    files = [(split, path) for split in SPLITS for given, path in found if given == split]
    if not any(split == "train" for split, _ in files):
        return None
    return _parquet(options, files, lambda: listing_hash([(p.name, p) for _, p in files]))


def _parquet(options: ImageOptions, files: list[tuple[str, Path]], content: Any) -> ImageSource:
    import pyarrow.parquet

    parts: list[Part] = []
    for split, path in files:
        check_plain(str(path), path)
        with reading(str(path)):
            check_footer(str(path), path)
            with pyarrow.parquet.ParquetFile(path) as file:
                schema, count = file.schema_arrow, file.metadata.num_rows
        columns = find_columns(str(path), schema, options)
        if not parts:
            names, label = columns.label_names, columns.label or "label"

        def read(path: Path = path, columns: Columns = columns) -> Iterator[Entry]:
            return _entries(path.name, _batches(path, columns), columns)

        parts.append(Part(split, count, read))
    return ImageSource(options.source, "rows", parts, content, names, label)


def _batches(path: Path, columns: Columns) -> Iterator[Any]:
    with reading(str(path)):
        yield from parquet_batches(str(path), path, columns.names, BATCH_ROWS)


def open_hub(options: ImageOptions) -> ImageSource:
    """A dataset of the Hugging Face hub, with its own splits.

    Raises:
        ValueError: the `datasets` package is missing, or a dataset that cannot be loaded.
    """
    tables = hub_splits(options.source)
    found = [(split_of(name), table) for name, table in tables.items()]
    given = [(split, table) for split in SPLITS for name, table in found if name == split]
    if not any(split == "train" for split, _ in given):
        given = [("train", next(iter(tables.values())))]
    parts: list[Part] = []
    for split, table in given:
        columns = find_columns(options.source, table.features.arrow_schema, options)
        if not parts:
            names, label = columns.label_names, columns.label or "label"

        def read(split: str = split, table: Any = table, columns: Columns = columns) -> Any:
            batches = table.select_columns(columns.names).with_format("arrow").iter(BATCH_ROWS)
            return _entries(split, batches, columns)

        parts.append(Part(split, len(table), read))
    prints = json.dumps([(split, table._fingerprint) for split, table in given])
    content = hashlib.sha256(prints.encode()).hexdigest()
    return ImageSource(options.source, "rows", parts, lambda: content, names, label)

"""Images in a column of a table: parquet files, folders of them, and datasets of the hub."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeo.data.arrow import ArrowTable, open_hub, open_parquet, to_list
from diffeo.data.files import file_hash, listing, reading, suggestion
from diffeo.data.images.attributes import Value
from diffeo.data.images.folders import listing_hash, split_of
from diffeo.data.images.options import ImageOptions
from diffeo.data.images.source import Entry, ImageSource, Part
from diffeo.data.splits import SPLITS
from diffeo.utils.files import parse_json

BATCH_ROWS = 256  # so that memory does not grow with the file


@dataclass(frozen=True)
class Columns:
    """The columns of images, labels and attributes, with the names of classes that are known."""

    image: str
    label: str | None
    label_names: list[str] | None
    attributes: dict[str, list[str] | None]


def find_columns(table: ArrowTable, options: ImageOptions) -> Columns:
    """Finds the columns of a table, by the options, Hugging Face's notes, or their types.

    Raises:
        ValueError: a named column that is not there, or no column of images.
    """
    name, schema = options.source, table.schema
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

    def find(option: str | None, usual: list[str], holds: Any, what: str, flag: str) -> str | None:
        found = [column for column in usual if holds(schema.field(column).type)]
        if option is not None and not holds(schema.field(option).type):
            raise ValueError(
                f"{name}: column '{option}' is of type {schema.field(option).type}: name one of "
                f"{what} with --data.{flag}"
            )
        return option or next(iter(found), None)

    usual = sorted(_unique(schema.names), key=lambda column: kinds.get(column) != "Image")
    image = find(options.image_column, usual, _holds_images, "encoded images", "image_column")
    if image is None:
        raise ValueError(
            f"{name} has no column of images: it has {listing(schema.names)}, "
            "and images are stored as bytes, or as a struct of bytes and path"
        )
    classes = [column for column in schema.names if kinds.get(column) == "ClassLabel"]
    usual = [column for column in ("label", "labels", *classes) if column in schema.names]
    what = "whole numbers or text"
    label = find(options.label_column, usual, _holds_labels, what, "label_column")
    names = {column: _class_names(features[column].get("names")) for column in classes}
    attributes = {
        column: names.get(column)
        for column in _unique(table.columns)
        if column not in (image, label) and _holds_attributes(schema.field(column).type)
    }
    return Columns(image, label, names.get(label or ""), attributes)


def _unique(names: list[str]) -> list[str]:
    """The names that stand for one column each."""
    return [name for name, count in Counter(names).items() if count == 1]


def _class_names(names: Any) -> list[str] | None:
    """The names of classes in the source's notes, if they are texts that differ."""
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

    value = kind.value_type if types.is_dictionary(kind) else kind
    return _holds_labels(kind) or types.is_floating(value)


def _entries(table: ArrowTable, columns: Columns) -> Iterator[Entry]:
    wanted = [columns.image, *([columns.label] if columns.label else []), *columns.attributes]
    row = 0
    for batch in table.read(wanted, BATCH_ROWS):
        images = to_list(batch.column(columns.image))
        labels: list[Any] = [None] * len(images)
        if columns.label is not None:
            labels = to_list(batch.column(columns.label))
        known = {
            column: _values(to_list(batch.column(column)), names)
            for column, names in columns.attributes.items()
        }
        for i, (content, label) in enumerate(zip(images, labels, strict=True)):
            row += 1
            attributes = {column: values[i] for column, values in known.items()}
            yield Entry(f"{Path(table.name).name} row {row}", content or b"", label, attributes)


def _values(values: list[Any], names: list[str] | None) -> list[Value]:
    if names is not None:  # -1 is Hugging Face's "unknown"
        return [None if v is None or not 0 <= v < len(names) else names[v] for v in values]
    return [v if v is None or isinstance(v, str) else float(v) for v in values]


def open_image_file(path: Path, options: ImageOptions) -> ImageSource:
    """A parquet file with a column of images."""
    table = open_parquet(options.source, path)
    return _from_tables(options, [("train", table)], lambda: file_hash(path))


def open_image_folder(folder: Path, options: ImageOptions) -> ImageSource | None:
    """A folder of train*.parquet and perhaps val*.parquet and test*.parquet; None if it is not."""
    found = [(split_of(path.name), path) for path in sorted(folder.glob("*.parquet"))]
    files = [(split, path) for split in SPLITS for given, path in found if given == split]
    if not any(split == "train" for split, _ in files):
        return None
    tables = [(split, open_parquet(str(path), path)) for split, path in files]
    named = [(path.name, path) for _, path in files]
    return _from_tables(options, tables, lambda: listing_hash(named))


def open_image_hub(options: ImageOptions) -> ImageSource:
    """A dataset of the Hugging Face hub, with its own splits.

    Raises:
        ValueError: the `datasets` package is missing, or a dataset that cannot be loaded.
    """
    tables = open_hub(options.source)
    found = [(split_of(name), table) for name, table in tables.items()]
    given = [(split, table) for split in SPLITS for name, table in found if name == split]
    if not any(split == "train" for split, _ in given):
        given = [("train", next(iter(tables.values())))]

    def content() -> str:
        return hashlib.sha256(
            repr([(split, table.content()) for split, table in given]).encode()
        ).hexdigest()

    return _from_tables(options, given, content)


def _from_tables(
    options: ImageOptions, tables: list[tuple[str, ArrowTable]], content: Callable[[], str]
) -> ImageSource:
    columns = [find_columns(table, options) for _, table in tables]

    def part(split: str, table: ArrowTable, columns: Columns) -> Part:
        return Part(split, table.rows, lambda: _entries(table, columns))

    parts = [part(*table, found) for table, found in zip(tables, columns, strict=True)]
    label = columns[0].label or "label"
    return ImageSource(options.source, "rows", parts, content, columns[0].label_names, label)

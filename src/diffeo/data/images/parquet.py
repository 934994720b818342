"""Images in a column of a table: parquet files, folders of them, and datasets of the hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffeo.data.arrow import ArrowTable, open_hub, open_parquet, to_list, to_numpy
from diffeo.data.datasets import SPLITS
from diffeo.data.files import listing, reading, suggestion
from diffeo.data.images.attributes import MOST_TEXTS, Label
from diffeo.data.images.dataset import ImageOptions
from diffeo.data.images.folders import listing_hash, split_of
from diffeo.data.images.source import Content, ImageSource, Part
from diffeo.utils.files import parse_json

# Of images and of their attributes, so that memory does not grow with the file.
BATCH_ROWS, ATTRIBUTE_ROWS = 256, 2**14
Option = Literal["image_column", "label_column"]


@dataclass(frozen=True)
class Columns:
    """The columns of images, labels and attributes, and the names of classes that are known."""

    image: str
    label: str | None
    attributes: list[str]
    classes: dict[str, list[str]]


def find_columns(table: ArrowTable, options: ImageOptions) -> Columns:
    """Finds the columns of a table, by the options, Hugging Face's notes, or their types.

    Raises:
        ValueError: a named column that is not there, or no column of images.
    """
    name, names = options.source, table.schema.names
    # A name that stands for two columns stands for none.
    types = {name: table.schema.field(name).type for name, n in Counter(names).items() if n == 1}
    holds = {name: _holds(kind) for name, kind in types.items()}
    with reading(name):
        notes = parse_json((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        features = notes.get("info", {}).get("features", {})
        kinds = {key: value for key, value in features.items() if isinstance(value, dict)}

    def named(option: Option, wanted: str, what: str) -> str | None:
        column: str | None = getattr(options, option)
        if column is not None and column not in types:
            raise ValueError(
                f"{name} has no column '{column}'{suggestion(column, names)}: "
                f"it has {listing(names)}"
            )
        if column is not None and holds[column] != wanted:
            raise ValueError(
                f"{name}: column '{column}' is of type {types[column]}: name one of {what} with "
                f"--data.{option}"
            )
        return column

    images = [column for column, held in holds.items() if held == "images"]
    images.sort(key=lambda column: kinds.get(column, {}).get("_type") != "Image")
    image = named("image_column", "images", "encoded images") or next(iter(images), None)
    if image is None:
        raise ValueError(
            f"{name} has no column of images: it has {listing(names)}, "
            "and images are stored as bytes, or as a struct of bytes and path"
        )
    classes = {c: _class_names(kinds[c]) for c, held in holds.items() if held and c in kinds}
    classes = {column: found for column, found in classes.items() if found}
    labels = [c for c in ("label", "labels", *classes) if holds.get(c) == "labels"]
    label = named("label_column", "labels", "whole numbers or text") or next(iter(labels), None)
    attributes = [
        column
        for column in table.columns
        if column not in (image, label) and holds.get(column) in ("labels", "numbers")
    ]
    return Columns(image, label, attributes, classes)


def _holds(kind: Any) -> str:
    """What a column of a pyarrow type may hold: images, labels, other numbers, or nothing of it."""
    from pyarrow import types

    is_struct = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    content = kind.field(kind.get_field_index("bytes")).type if is_struct else kind
    if types.is_binary(content) or types.is_large_binary(content):
        return "images"
    kind = kind.value_type if types.is_dictionary(kind) else kind
    labels = (types.is_integer, types.is_string, types.is_large_string, types.is_boolean)
    if any(check(kind) for check in labels):
        return "labels"
    return "numbers" if types.is_floating(kind) else ""


def _class_names(notes: dict[str, Any]) -> list[str]:
    """The names of classes in the notes on a column, if they are texts that differ."""
    names: Any = notes.get("names")
    if notes.get("_type") != "ClassLabel" or not isinstance(names, list):
        return []
    return names if {*map(type, names)} == {str} and len({*names}) == len(names) else []


def _part(split: str, table: ArrowTable, columns: Columns) -> Part:
    import pandas

    file = Path(table.name).name
    labels: list[Label] = []
    tables = [pandas.DataFrame(index=range(table.rows))]
    known = [*([columns.label] if columns.label else []), *columns.attributes]
    for batch in table.read(known, ATTRIBUTE_ROWS) if known else ():
        if columns.label:
            labels += to_list(batch.column(columns.label))
        values = {name: _values(batch, name, columns.classes) for name in columns.attributes}
        tables.append(pandas.DataFrame(values, index=range(batch.num_rows)))
    names = [f"{file} row {row + 1}" for row in range(table.rows)]
    attributes = pandas.concat(tables[1:] or tables, ignore_index=True)
    return Part(
        split, names, labels or [None] * len(names), attributes, _contents(table, columns.image)
    )


def _contents(table: ArrowTable, column: str) -> Iterator[Content]:
    for batch in table.read([column], BATCH_ROWS):
        for content in to_list(batch.column(column)):
            yield content or b""


def _values(batch: Any, name: str, classes: dict[str, list[str]]) -> Any:
    """An attribute of some images, of texts no more than it takes to leave them out."""
    import pandas

    column = batch.column(name)
    if name in classes:  # -1 is Hugging Face's "unknown"
        names = dict(enumerate(classes[name]))
        return np.array([names.get(value) for value in to_list(column)], dtype=object)
    values = pandas.Series(to_numpy(column))
    if not pandas.api.types.is_numeric_dtype(values):
        values = values.where(values.isin(values.unique()[: MOST_TEXTS + 1]))
    return values


def open_image_file(path: Path, options: ImageOptions) -> ImageSource:
    """A parquet file with a column of images."""
    table = open_parquet(options.source, path)
    return _from_tables(options, [("train", table)], table.content)


def open_image_folder(folder: Path, options: ImageOptions) -> ImageSource | None:
    """A folder of train*.parquet and perhaps val*.parquet and test*.parquet; None if it is not."""
    files = {path.name: path for path in sorted(folder.glob("*.parquet")) if split_of(path.name)}
    if "train" not in map(split_of, files):
        return None
    tables = [(split_of(name), open_parquet(str(path), path)) for name, path in files.items()]
    return _from_tables(options, tables, lambda: listing_hash(folder, files))


def open_image_hub(options: ImageOptions) -> ImageSource:
    """A dataset of the Hugging Face hub, with its own splits.

    Raises:
        ValueError: the `datasets` package is missing, or a dataset that cannot be loaded.
    """
    found = open_hub(options.source)
    tables = [(split_of(name), table) for name, table in found.items()]
    if "train" not in map(split_of, found):
        tables = [("train", next(iter(found.values())))]
    return _from_tables(options, tables, lambda: repr([table.content() for _, table in tables]))


def _from_tables(
    options: ImageOptions, tables: list[tuple[str | None, ArrowTable]], content: Callable[[], str]
) -> ImageSource:
    """The tables of each split, in the order of splits; what is of no split is left out."""
    chosen = [(split, table) for split in SPLITS for s, table in tables if s == split]
    columns = [find_columns(table, options) for _, table in chosen]

    def parts() -> Iterator[Part]:
        for (split, table), found in zip(chosen, columns, strict=True):
            yield _part(split, table, found)

    label = columns[0].label or "label"
    names = columns[0].classes.get(label)
    return ImageSource(options.source, "rows", parts, content, names, label)

"""What a folder's metadata.csv says of the pictures in it, as Hugging Face's ImageFolder has it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffeo.data.bounds import Text, check_columns
from diffeo.data.files import listing, reading, suggestion
from diffeo.data.images.attributes import Value

METADATA = "metadata.csv"
_KEY = "file_name"


def read_metadata(
    name: str, tables: list[tuple[str, Path]], pictures: set[str]
) -> Callable[[str], dict[str, Value]]:
    """Reads the metadata.csv files of a folder.

    Each has a column file_name, the path of a picture from where the file lies; the others are
    attributes.

    Args:
        name: the folder as the user wrote it, for messages.
        tables: such files, each as its path inside the folder and its path.
        pictures: the paths inside the folder of its pictures.

    Returns:
        What gives the attributes of a picture by its path inside the folder; none if no file names
        it.

    Raises:
        ValueError: a damaged file, one without file_name, or one that names no picture that is
            there, or one twice.
    """
    rows: dict[str, tuple[dict[str, Any], int]] = {}
    for inside, path in tables:
        names, columns = _read(f"{name}: {inside}", path)
        keys = [os.path.normpath(Path(inside).parent / key) for key in names]
        if not pictures.intersection(keys):
            raise ValueError(
                f"{name}: {inside} names no picture that is there, its first is "
                f"{listing(names, 1) or 'missing'}: write paths from its own folder into {_KEY}"
            )
        for row, key in enumerate(keys):
            if key in rows:
                raise ValueError(f"{name}: {inside} names {key} a second time: leave one row of it")
            rows[key] = columns, row

    def attributes(picture: str) -> dict[str, Value]:
        columns, row = rows.get(picture, ({}, 0))
        return {column: _value(values[row]) for column, values in columns.items()}

    return attributes


def _read(name: str, path: Path) -> tuple[list[str], dict[str, Any]]:
    """The paths of pictures, and the other columns as arrays; NaN is what they lack."""
    import pandas

    with reading(name):
        # A file called 007 keeps its zeros. `low_memory=False` gives each column one type.
        with io.BufferedReader(Text(path)) as file:
            table = pandas.read_csv(
                file, dtype={_KEY: str}, index_col=False, encoding="utf-8-sig", low_memory=False
            )
        check_columns(name, len(table.columns))
    if _KEY not in table:
        raise ValueError(
            f"{name} has no column '{_KEY}'{suggestion(_KEY, table.columns)}: "
            f"it has {listing(table.columns)}"
        )
    if table[_KEY].isna().any():
        row = int(table[_KEY].isna().argmax()) + 1
        raise ValueError(f"{name} has no {_KEY} in row {row}: write one, or remove the row")
    columns = {column: table[column].to_numpy() for column in table.columns.drop(_KEY)}
    return table[_KEY].tolist(), columns


def _value(value: Any) -> Value:
    return value if isinstance(value, str) else float(value)

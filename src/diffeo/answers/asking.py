"""Values as they stand in a table, checked and read as those of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffeo.data.tables.cells import Cells
from diffeo.data.tables.frames import encode, encode_column
from diffeo.data.tables.grids import Floats
from diffeo.schema import Column, LeftOutColumn, Schema, TableError
from diffeo.utils.ranges import suggestion


def encode_values(columns: Sequence[Column], values: Mapping[str, Any]) -> list[float]:
    """The number of each column, NaN where there is no value, or an empty cell.

    Raises:
        ValueError: of all values that a column cannot have, a sentence a line.
    """
    import pandas

    found, problems = [], []
    for column in columns:
        number = math.nan
        if column.name in values:
            value = values[column.name]
            cells = Cells.of(pandas.Series([value]))
            numbers, wrong = encode_column(column, cells)
            number = float(numbers[0])
            problems += [sentence.replace(" in row 1", "") for sentence in wrong]
        found.append(number)
    if problems:
        raise TableError(problems)
    return found


def check_names(
    names: Sequence[str], given: Mapping[str, Any], want: Sequence[str] | None, conditions: int
) -> None:
    """Refuse names of columns that are none, or do not go with each other.

    Args:
        names: of all columns, those that the model is conditional on first.
        given: what is known.
        want: what is asked for.
        conditions: how many columns the model is conditional on.

    Raises:
        ValueError: a sentence a line.
    """
    problems = [
        f"there is no column '{name}'{suggestion(name, names)}: name one of {', '.join(names)}."
        for name in dict.fromkeys([*given, *(want or [])])
        if name not in names
    ]
    problems += [
        f"column '{name}' is given and asked for: leave it out of one."
        for name in want or []
        if name in given
    ]
    problems += [
        f"the model is conditional on '{name}': give its value."
        for name in names[:conditions]
        if name not in given
    ]
    if not problems and all(name in given for name in names):
        problems.append("all columns are given: leave one out, which is asked for.")
    if problems:
        raise TableError(problems)


def encode_gaps(schema: Schema, frame: Any) -> Floats:
    """A DataFrame as rows of the model, of which any cells may be empty.

    Raises:
        ValueError: of all cells and columns that the schema does not allow, a sentence a line.
    """
    columns = tuple(
        column if isinstance(column, LeftOutColumn) else replace(column, missing=True)
        for column in schema.columns
    )
    return encode(Schema(columns), frame)

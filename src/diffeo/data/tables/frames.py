"""A DataFrame as the matrix of a model and back, by a schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffeo.data.files import listing
from diffeo.data.tables.cells import Cells, in_seconds, in_units, to_times, write_dates
from diffeo.data.tables.grids import OFF, Floats, snap
from diffeo.schema import (
    AnyColumn,
    CategoryColumn,
    Column,
    DateColumn,
    LeftOutColumn,
    NumberColumn,
    Schema,
    TableError,
)
from diffeo.utils.ranges import suggestion


def encode(schema: Schema, frame: Any, *, strict: bool = True) -> Floats:
    """A DataFrame as numbers `[rows, modelled columns]`, an empty cell as NaN.

    Columns are found by name; others than those of the schema do not matter.

    Args:
        schema: what the columns are.
        frame: a pandas DataFrame, with cells of their types or as text.
        strict: whether cells that the schema gives no probability are refused: values out of
            range, unknown categories (whose place is -1), and gaps where there were none.

    Raises:
        ValueError: of all cells and columns that the schema does not allow, a sentence a line.
    """
    names = [str(name) for name in frame.columns]
    matrix, problems = np.empty((len(frame), len(schema.modelled))), []
    for i, column in enumerate(schema.modelled):
        if names.count(column.name) != 1:
            several = f"two columns are named '{column.name}': give each its own name."
            none = (
                f"there is no column '{column.name}'{suggestion(column.name, names)}: "
                f"the table has {listing(names)}."
            )
            problems.append(several if column.name in names else none)
            continue
        cells = read_cells(frame, column.name)
        if cells is None:
            problems.append(f"column '{column.name}' holds lists: give it plain values.")
            continue
        matrix[:, i], found = encode_column(column, cells, strict)
        problems += found
    if problems:
        raise TableError(problems)
    return matrix


def read_cells(frame: Any, name: str) -> Cells | None:
    """The cells of the first column of a name, or None where there is none, or one of lists."""
    place = next((i for i, found in enumerate(frame.columns) if str(found) == name), None)
    try:
        return None if place is None else Cells.of(frame.iloc[:, place])
    except TypeError:
        return None


def kind_of(column: AnyColumn) -> str:
    """A word for what a column is, as `find_schema` takes it."""
    if isinstance(column, LeftOutColumn):
        return "left out"
    if isinstance(column, CategoryColumn):
        return "category"
    if isinstance(column, DateColumn):
        return "date"
    return "integer" if column.integer else "number"


def encode_column(column: Column, cells: Cells, strict: bool = True) -> tuple[Floats, list[str]]:
    """The cells of one column as numbers `[rows]`, and what is wrong with them."""
    problems = []
    if cells.missing and not column.missing and strict:
        problems.append(
            f"column '{column.name}' has an empty cell in {cells.where()}: "
            "fill it in, or allow empty cells (missing: true)."
        )
    if isinstance(column, CategoryColumn):
        values, found = _places(column, cells)
        found = found if strict else []
    elif isinstance(column, DateColumn):
        values, found = _dates(column, cells, strict)
    else:
        values, found = _numbers(column, cells, strict)
    return cells.rows(values), problems + found


def _places(column: CategoryColumn, cells: Cells) -> tuple[Floats, list[str]]:
    """The place of each value; the last one is that of unknown values if there may be any."""
    known: dict[Any, int] = {value: place for place, value in enumerate(column.values)}
    written = {_written(value): place for value, place in known.items()}
    unknown = len(known) if column.other else -1
    places = np.array([known.get(v, written.get(_written(v), unknown)) for v in cells.values])
    bad = places < 0
    return places.astype(np.float64), _complaints(
        column,
        cells,
        bad,
        lambda value: (
            f"none of its values{suggestion(str(value), map(str, column.values))}: "
            f"correct it to one of {listing(map(str, column.values))}, or ask for other values "
            "(other: true)"
        ),
    )


def _written(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(column: NumberColumn, cells: Cells, strict: bool) -> tuple[Floats, list[str]]:
    values = cells.numbers
    text, infinite = np.isnan(values), np.isinf(values)
    problems = _complaints(column, cells, text, lambda _: "no number: correct it")
    problems += _complaints(column, cells, infinite, lambda _: "not finite: correct or empty it")
    return _on_grid(column, cells, values, ~(text | infinite), problems, strict)


def _dates(column: DateColumn, cells: Cells, strict: bool) -> tuple[Floats, list[str]]:
    # Of columns that hold times, and no text, the file that they are written to has the forms.
    values = in_units(
        cells.seconds(column.form, loosely=column.dtype.startswith(("date", "time"))), column.unit
    )
    bad = np.isnan(values)
    problems = _complaints(
        column, cells, bad, lambda _: f"no date of the form {column.form}: correct it"
    )
    return _on_grid(column, cells, values, ~bad, problems, strict)


def _on_grid(
    column: NumberColumn,
    cells: Cells,
    values: Floats,
    fine: Any,
    problems: list[str],
    strict: bool,
) -> tuple[Floats, list[str]]:
    """Values on the grid of their column, and which are not, or are out of its range."""
    values = np.where(fine, values, 0.0)
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    outside = fine & ((values < low) | (values > high)) & strict
    problems = problems + _complaints(
        column, cells, outside, lambda _: f"not in its range, {range_of(column)}: correct it"
    )
    if column.step or column.integer:
        decimals = 0 if column.integer and not column.step else column.decimals
        points = snap(values, column.step, column.origin, decimals)
        off = np.abs(points - values) > OFF * (column.step or 1.0)
        what = f"not on its grid of step {column.step:.12g}" if column.step else "no whole number"
        bad = fine & off & ~outside & strict
        problems += _complaints(column, cells, bad, lambda _: f"{what}: correct it, or set step: 0")
        values = points
    return np.where(fine, values, np.nan), problems


def range_of(column: NumberColumn) -> str:
    """The possible values of a column in words."""
    low, high = (write_number(column, end) for end in (column.low, column.high))
    if low and high:
        return f"{low} to {high}"
    return f"from {low} on" if low else f"up to {high}" if high else "any"


def write_number(column: NumberColumn, value: float | None) -> str:
    """A number of a column as a person writes it, a date in its form; nothing of None."""
    if value is None:
        return ""
    if isinstance(column, DateColumn):
        return str(write_dates(in_seconds(np.array([value]), column.unit), column.form)[0])
    return f"{value:.12g}"


def _complaints(column: Column, cells: Cells, bad: Any, reason: Callable[[Any], str]) -> list[str]:
    """A sentence about the first of the values that are bad, if there is one."""
    used = bad & (cells.counts > 0)
    if not used.any():
        return []
    value = cells.first(used)
    return [f"column '{column.name}' holds '{value}' in {cells.where(used)}, {reason(value)}."]


def decode(schema: Schema, matrix: Floats) -> Any:
    """A pandas DataFrame of rows `[rows, modelled columns]`, as `encode` takes them.

    Numbers move to the closest points of their grids and into their ranges, and are written with
    their decimals; places of categories are rounded.

    Raises:
        ValueError: another number of columns than the schema has.
    """
    import pandas

    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(schema.modelled):
        raise ValueError(
            f"rows of {len(schema.modelled)} columns are needed, not an array {matrix.shape}."
        )
    columns = {c.name: decode_column(c, x) for c, x in zip(schema.modelled, matrix.T, strict=True)}
    return pandas.DataFrame(columns, index=pandas.RangeIndex(len(matrix)))


def clean(column: Column, values: Floats) -> Floats:
    """Numbers `[rows]` as they may be in a column: on its grid, in its range."""
    if isinstance(column, CategoryColumn):
        return np.clip(np.rint(values), 0, max(column.count - 1, 0))
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    if column.step:
        first = np.ceil((low - column.origin) / column.step - OFF)
        last = np.floor((high - column.origin) / column.step + OFF)
        low, high = (column.origin + place * column.step for place in (first, last))
    return snap(np.clip(values, low, high), column.step, column.origin, column.decimals)


def decode_column(column: Column, values: Floats) -> Any:
    """A pandas Series of numbers `[rows]` of one column."""
    import pandas

    gaps = np.isnan(values)
    values = np.where(gaps, np.nan, clean(column, np.where(gaps, column_start(column), values)))
    if isinstance(column, CategoryColumn):
        return _categories(column, values)
    if isinstance(column, DateColumn):
        return _times(column, values)
    dtype = column.dtype
    if not dtype and column.integer:
        dtype = "Int64" if column.missing or gaps.any() else "int64"
    if column.integer:
        whole = pandas.Series(np.where(gaps, 0, values)).astype("int64")
        return _typed(whole.astype("Int64").mask(gaps) if gaps.any() else whole, dtype)
    return _typed(pandas.Series(values), dtype)


def column_start(column: Column) -> float:
    """A value that a column may have, where there is none."""
    return 0.0 if isinstance(column, CategoryColumn) else column.origin


def _typed(series: Any, dtype: str) -> Any:
    """A Series of a type, unless the type has no gaps and the Series does."""
    try:
        return series.astype(dtype) if dtype else series
    except (TypeError, ValueError):
        return series


def _categories(column: CategoryColumn, values: Floats) -> Any:
    import pandas

    places = np.where(np.isnan(values), -1, values).astype(np.intp)
    known = [*column.values]
    if column.other:
        known.append("other")
    if column.dtype in ("category", "ordered category"):
        ordered = column.dtype.startswith("ordered")
        return pandas.Series(pandas.Categorical.from_codes(places, known, ordered=ordered))
    series = pandas.Series(np.array([*known, None], dtype=object)[places])
    if column.dtype:
        return _typed(series, column.dtype)
    gaps = column.missing or bool((places < 0).any())
    if known and all(isinstance(v, bool) for v in known):
        return series.astype("boolean" if gaps else "bool")
    if known and all(isinstance(v, int) for v in known):
        return series.astype("Int64" if gaps else "int64")
    if known and all(isinstance(v, int | float) for v in known):
        return series.astype("float64")
    return series.infer_objects() if not all(isinstance(v, str) for v in known) else _text(series)


def _text(series: Any) -> Any:
    """Text of the type that pandas gives it by default."""
    import pandas

    return pandas.Series(series.tolist(), dtype=pandas.Series(["a"]).dtype)


def _times(column: DateColumn, values: Floats) -> Any:
    import pandas

    seconds = in_seconds(values, column.unit)
    if column.dtype == "date":
        return to_times(seconds).dt.date
    if column.dtype.startswith(("datetime64", "timestamp", "date32", "date64")):
        times, kind = to_times(seconds), pandas.api.types.pandas_dtype(column.dtype)
        zone = getattr(kind, "tz", None)
        if zone is not None:
            times = times.dt.tz_localize("UTC").dt.tz_convert(zone)
        return times.astype(kind)
    written = write_dates(seconds, column.form)
    if column.dtype:
        return _typed(pandas.to_numeric(written), column.dtype)
    return _text(written)

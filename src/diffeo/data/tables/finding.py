"""What the cells of one column are: numbers, dates, categories, or of no use."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from diffeo.data.tables.cells import DAY, Cells, in_units
from diffeo.data.tables.grids import (
    EXACT,
    Floats,
    counts_rows,
    find_atoms,
    find_decimals,
    find_grid,
)
from diffeo.schema import (
    AnyColumn,
    CategoryColumn,
    DateColumn,
    LeftOutColumn,
    NumberColumn,
    Value,
)

MOST_CATEGORIES = 1_000
FEW_VALUES = 40  # distinct whole numbers that may be all there are
CYCLES = {(0, 59), (1, 52), (1, 53), (1, 365), (1, 366)}  # minutes, weeks and days, which are more
MOST_ALONE = 20  # distinct numbers on no grid that are taken for categories


def find_column(name: str, cells: Cells) -> AnyColumn:
    """What the cells of a column are.

    Raises:
        ValueError: if they are of a type that has no kind.
    """
    used = int((cells.counts > 0).sum())
    if not name:
        return LeftOutColumn(name, "it has no name")
    if not used:
        return LeftOutColumn(name, "every cell is empty")
    if used == 1 and not cells.missing:
        value = _short(cells.values[int(cells.counts.argmax())])
        return LeftOutColumn(name, f"every value is {value}")
    if "category" in cells.dtype or cells.are_truths:
        return _find_category(name, cells)
    if cells.are_dates:
        return make_date(name, cells, None)
    if cells.dtype.startswith("timedelta"):
        raise ValueError(f"column '{name}' holds spans of time: convert it to numbers of hours.")
    numbers = cells.numbers
    if used == 1:
        return make_category(name, cells)
    if not np.isnan(numbers).any() and not cells.are_names:
        return _find_number(name, cells)
    form = cells.form()
    if form is not None:
        return make_date(name, cells, form)
    return _find_category(name, cells)


def _find_category(name: str, cells: Cells) -> AnyColumn:
    used, rows = int((cells.counts > 0).sum()), int(cells.counts.sum())
    if used > MOST_CATEGORIES or (used > rows / 2 and "category" not in cells.dtype and used > 2):
        reason = f"{used:,} of {rows:,} texts are different, as names are"
        if used <= rows / 2:
            reason = f"{used:,} different texts are too many for a category"
        numbers = np.isfinite(cells.numbers)
        if numbers.mean() > 0.5:
            reason = (
                f"it holds '{_short(cells.first(~numbers))}' in {cells.where(~numbers)}, "
                "which is no number"
            )
        return LeftOutColumn(name, reason)
    return make_category(name, cells)


def _find_number(name: str, cells: Cells) -> AnyColumn:
    values, counts = distinct(cells)
    if counts_rows(cells.rows(cells.numbers)):
        return LeftOutColumn(name, "it counts the rows")
    if cells.whole_text and np.abs(values).max() >= EXACT:
        return LeftOutColumn(name, "its whole numbers are too long for floats, as those of keys")
    column = make_number(name, cells, cells.whole_text)
    few = len(values) <= MOST_ALONE and counts.min() >= 5 and np.isfinite(cells.numbers).all()
    if not column.step and few:  # a handful of values, and nothing between them
        return make_category(name, cells)
    return column


def distinct(cells: Cells) -> tuple[Floats, Any]:
    """The distinct finite numbers of a column in rising order, and how many rows have each."""
    fine = np.isfinite(cells.numbers) & (cells.counts > 0)
    values, places = np.unique(cells.numbers[fine], return_inverse=True)
    return values, np.bincount(places, cells.counts[fine], len(values)).astype(np.int64)


def make_number(name: str, cells: Cells, integer: bool) -> NumberColumn:
    """The column of numbers, with its grid, its support and its atoms."""
    values, counts = distinct(cells)
    if not len(values):
        return NumberColumn(name, integer=integer, missing=cells.missing)
    decimals = 0 if integer else find_decimals(values)
    step, origin = find_grid(values, counts, decimals == 0)
    low, high = _support(values, counts, step)
    atoms = () if step else find_atoms(values, counts, (low, high))
    natural = {"int64", "float64", "object", "str", "string", "category"}
    natural |= {"Int64"} if cells.missing else set()
    dtype = "" if cells.dtype in natural or (not integer and "int" in cells.dtype) else cells.dtype
    missing = cells.missing
    return NumberColumn(name, step, origin, low, high, decimals, integer, atoms, missing, dtype)


def _support(values: Floats, counts: Any, step: float) -> tuple[float | None, float | None]:
    """Between which values those of a column must be, as far as they show.

    An end is that of the values where they are few whole numbers, nearly without gaps, or where
    much of them is at the end, as of values that are clipped. Else it is 0, and 1 or 100 where
    enough values come close.
    """
    least, most, rows = float(values[0]), float(values[-1]), counts.sum()
    whole = step >= 1 and float(step).is_integer() and least.is_integer()
    cells = (most - least) / step + 1 if step else np.inf
    few = whole and len(values) <= min(FEW_VALUES, rows / 5) and len(values) >= 0.8 * cells
    few = few or (step == 1 and (least, most) in CYCLES)
    mean = rows / len(values)
    enough = max(0.04 * mean, min(4, 0.5 * mean))  # an end with fewer is that of a tail
    low = high = None
    if (few and counts[0] >= enough) or counts[0] >= max(0.05 * rows, 2 * counts[1:2].sum()):
        low = least
    elif least >= 0:
        low = 0.0
    limit = 1.0 if most <= 1 else 100.0
    close = counts[values >= 0.95 * limit].sum() >= max(3, 0.01 * rows)
    if (few and counts[-1] >= enough) or counts[-1] >= max(0.05 * rows, 2 * counts[-2:-1].sum()):
        high = most
    elif least >= 0 and 0.99 * limit <= most <= limit and close:
        high = limit
    return low, high


def make_category(name: str, cells: Cells) -> CategoryColumn:
    """The column of categories, those of pandas in their order, others sorted."""
    values = [*map(_plain, cells.values)]
    dtype = "" if cells.dtype in _natural(values, cells.missing) else cells.dtype
    if "category" not in cells.dtype:
        values = sorted(values, key=lambda v: (isinstance(v, str), v))
    return CategoryColumn(name, tuple(values), cells.missing, dtype=dtype)


def _natural(values: list[Value], missing: bool) -> set[str]:
    """The types that `decode` gives to values by itself."""
    import pandas

    if all(isinstance(value, str) for value in values):
        return {str(pandas.Series(["a"]).dtype)}
    return {"boolean", "Int64", "float64"} if missing else {"bool", "int64", "float64"}


def _plain(value: Any) -> Value:
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, bool | int | float | str) else str(value)


def _short(value: Any) -> str:
    return str(value)[:40]


def make_date(name: str, cells: Cells, form: str | None) -> DateColumn:
    """The column of dates, of text by its form; without limits, since later ones may come.

    Raises:
        ValueError: if there is no date.
    """
    chosen = form or "%Y-%m-%d"
    seconds = cells.seconds(chosen)
    values = np.unique(seconds[np.isfinite(seconds) & (cells.counts > 0)])
    if not len(values):
        raise ValueError(f"column '{name}' holds no date of a form that is known: name its form.")
    days = bool((values % DAY == 0).all()) and not (form and _has_time(form))
    if form is None and not days:
        chosen = "%Y-%m-%d %H:%M:%S"
    months = in_units(values, "month")
    firsts = days and len(values) > 2 and bool((months % 1 == 0).all())
    unit: Literal["second", "day", "month"] = "month" if firsts else "day" if days else "second"
    values = in_units(values, unit)
    gaps = np.rint(np.diff(values)).astype(np.int64).tolist()
    if (values % 1 != 0).any():  # fractions of seconds
        step = 0.0
    elif unit == "day":  # once a week, or on any day
        step = 7.0 if len(gaps) > 2 and not np.remainder(gaps, 7).any() else 1.0
    else:
        step = float(np.gcd.reduce([*gaps, 12 if firsts else DAY]))
    text = cells.dtype in ("str", "string", "object") and not cells.are_dates
    dtype = "" if text else "date" if cells.dtype == "object" else cells.dtype
    return DateColumn(
        name,
        step,
        float(values[0] % step) if step else 0.0,
        missing=cells.missing,
        dtype=dtype,
        unit=unit,
        form=chosen,
    )


def _has_time(form: str) -> bool:
    return "%H" in form or "%I" in form or "%-H" in form

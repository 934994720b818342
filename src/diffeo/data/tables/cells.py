"""The cells of a column of a DataFrame, each distinct value once, and what they may be read as."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffeo.data.tables.grids import Floats

# What pandas takes for an empty cell of a file of text.
EMPTY = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
EMPTY |= {"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}

# How dates are written; of two that fit, the first is taken.
DATES = ["%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%-m/%-d/%Y", "%-d/%-m/%Y", "%d.%m.%Y"]
DATES += ["%-d.%-m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y.%m.%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y"]
DATES += ["%B %d, %Y", "%d-%b-%Y", "%d-%b-%y", "%m/%d/%y", "%-m/%-d/%y", "%d.%m.%y"]
TIMES = ["%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%-H:%M", "%-H:%M:%S", "%I:%M %p", "%I:%M:%S %p"]
ZONES = ["", "Z", "+00:00", " UTC", "+0000"]
FORMS = [*DATES, *(f"{d}{s}{t}{z}" for d in DATES for s in "T " for t in TIMES for z in ZONES)]
FORMS += [*TIMES[:5], "%Y-%m"]
DAY = 86_400


@dataclass(frozen=True)
class Cells:
    """The cells of a column.

    Args:
        places: for each row the place of its value, -1 for an empty cell.
        values: the distinct values that are not empty.
        dtype: pandas' name of their type.
    """

    places: NDArray[np.intp]
    values: Sequence[Any]
    dtype: str

    @classmethod
    def of(cls, column: Any) -> Cells:
        """The cells of a pandas Series.

        Raises:
            TypeError: if a cell is a list or another container.
        """
        import pandas

        dtype = str(column.dtype)
        if isinstance(column.dtype, pandas.CategoricalDtype):
            dtype = "ordered category" if column.dtype.ordered else "category"
            return cls(column.cat.codes.to_numpy().astype(np.intp), [*column.cat.categories], dtype)
        places, index = pandas.factorize(column)
        if dtype == "float32":  # whose texts are the numbers that are meant
            index = np.array([*map(float, map(str, index))])
        if dtype.startswith("datetime64"):  # a million of Python's times would take seconds
            return cls(places.astype(np.intp), index, dtype)
        values = index.tolist() if hasattr(index, "tolist") else [*index]
        if any(isinstance(value, str) for value in values[:100]) or dtype == "object":
            empty = [isinstance(v, str) and v.strip() in EMPTY for v in values]
            if any(empty):
                moved = np.cumsum(~np.array(empty)) - 1
                moved[empty] = -1
                places = np.append(moved, -1)[places]
                values = [v for v, gap in zip(values, empty, strict=True) if not gap]
        return cls(places.astype(np.intp), values, dtype)

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many rows have each value."""
        counts = np.bincount(self.places[self.places >= 0], minlength=len(self.values))
        return counts.astype(np.int64)

    @property
    def missing(self) -> bool:
        """Whether there are empty cells."""
        return bool((self.places < 0).any())

    def rows(self, values: Floats) -> Floats:
        """A number for each row, from one for each value; NaN for an empty cell."""
        return np.append(values, np.nan)[self.places]

    def where(self, bad: NDArray[np.bool_] | None = None) -> str:
        """The first row with one of some values, or empty, and how many more there are."""
        rows = np.flatnonzero(
            self.places < 0 if bad is None else np.append(bad, False)[self.places]
        )
        more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
        return f"row {rows[0] + 1:,}{more}"

    def first(self, bad: NDArray[np.bool_]) -> Any:
        """The value in that row."""
        rows = np.flatnonzero(np.append(bad, False)[self.places])
        return self.values[self.places[rows[0]]]

    @cached_property
    def are_truths(self) -> bool:
        """Whether all are true or false."""
        return all(isinstance(value, bool | np.bool_) for value in self.values)

    @cached_property
    def numbers(self) -> Floats:
        """Each value as a number, NaN where it is none."""
        numeric = self.dtype.lower().startswith(("int", "uint", "float"))
        found = self.values if numeric else [*map(_number, self.values)]
        return np.array(found, dtype=np.float64).reshape(-1)

    @cached_property
    def whole_text(self) -> bool:
        """Whether they are whole numbers by their type, or as they are written."""
        if "int" in self.dtype.lower():
            return True
        return all(
            isinstance(v, int) or (isinstance(v, str) and v.strip().lstrip("+-").isdecimal())
            for v in self.values
        )

    @cached_property
    def are_names(self) -> bool:
        """Whether some are written as numbers are not, such as 00501."""
        texts = (v.strip() for v in self.values if isinstance(v, str))
        return any(len(t) > 1 and t[0] == "0" and t[1].isdigit() for t in texts)

    @cached_property
    def are_dates(self) -> bool:
        """Whether they are dates by their type."""
        import pandas

        if self.dtype.startswith(("datetime64", "timestamp", "date32", "date64")):
            return True
        kind = pandas.api.types.infer_dtype(self.values, skipna=True)
        return kind in ("date", "datetime", "datetime64")

    def form(self) -> str | None:
        """The form in which all are written as dates, of `FORMS`, or None."""
        if not len(self.values) or not all(isinstance(v, str) for v in self.values):
            return None
        some = [*self.values[:20]]
        likely = (form for form in FORMS if _pattern(form).fullmatch(some[0]))
        fits = (f for f in likely if _reproduces(some, f) and _reproduces([*self.values], f))
        return next(fits, None)

    def seconds(self, form: str, loosely: bool = False) -> Floats:
        """Each value as seconds since 1970, NaN where it is no date; text by its form, or ISO's."""
        import pandas

        if self.are_dates:
            return _since_1970(pandas.to_datetime(pandas.Series(self.values), utc=True))
        texts = [_text(value) for value in self.values]
        if loosely:
            iso = pandas.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
            return _since_1970(pandas.Series(iso))
        return parse_dates(texts, form)


@cache
def _pattern(form: str) -> re.Pattern[str]:
    """What a date in a form looks like."""
    digits = {"%Y": r"\d{4}", "%f": r"\d{6}", "%b": "[A-Za-z]{3}", "%B": "[A-Za-z]+", "%p": "[AP]M"}
    parts = re.split(r"(%-?[A-Za-z])", form)
    found = [
        digits.get(p, r"\d{1,2}" if "-" in p else r"\d{2}") if p.startswith("%") else re.escape(p)
        for p in parts
    ]
    return re.compile("".join(found))


def _number(value: Any) -> float:
    try:
        return float("nan" if isinstance(value, str) and "_" in value else value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _text(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _since_1970(times: Any) -> Floats:
    if times.dt.tz is not None:
        times = times.dt.tz_convert("UTC").dt.tz_localize(None)
    gaps = times.isna().to_numpy()
    whole = times.astype("datetime64[us]").astype(np.int64).to_numpy()
    return np.where(gaps, np.nan, whole / 1e6)


def parse_dates(texts: list[str], form: str) -> Floats:
    """Seconds since 1970, or since midnight for a form without a date; NaN for another form."""
    import pandas

    plain = form.replace("%-", "%")
    seconds = _since_1970(pandas.to_datetime(pandas.Series(texts), format=plain, errors="coerce"))
    return seconds if "%Y" in form or "%y" in form else seconds % DAY


def in_units(seconds: Floats, unit: str) -> Floats:
    """Seconds since 1970 as days or months; a month's fraction is that of 31 days."""
    if unit == "month":
        whole = np.where(np.isnan(seconds), 0.0, np.floor(seconds)).astype("datetime64[s]")
        months = whole.astype("datetime64[M]")
        rest = seconds - months.astype("datetime64[s]").astype(np.float64)
        return months.astype(np.float64) + rest / (31 * DAY)
    return seconds / DAY if unit == "day" else seconds


def in_seconds(values: Floats, unit: str) -> Floats:
    """Seconds since 1970 of whole days or months, or of seconds; NaN stays."""
    if unit == "month":
        gaps = np.isnan(values)
        months = np.where(gaps, 0.0, np.rint(values)).astype(np.int64).astype("datetime64[M]")
        return np.where(gaps, np.nan, months.astype("datetime64[s]").astype(np.float64))
    return values * DAY if unit == "day" else values


def write_dates(seconds: Floats, form: str) -> Any:
    """A pandas Series of text, in a form; NaN is a gap."""
    return to_times(seconds).dt.strftime(form)


def to_times(seconds: Floats) -> Any:
    """A pandas Series of times."""
    import pandas

    gaps = ~np.isfinite(seconds)
    whole = np.where(gaps, 0, np.rint(np.where(gaps, 0.0, seconds) * 1e6)).astype("int64")
    return pandas.Series(whole.astype("datetime64[us]")).mask(gaps)


def _reproduces(texts: list[str], form: str) -> bool:
    """Whether a form reads texts and writes the same."""
    seconds = parse_dates(texts, form)
    if np.isnan(seconds).any():
        return False
    some = slice(0, 10_000)
    return bool((write_dates(seconds[some], form) == np.array(texts[some], dtype=object)).all())

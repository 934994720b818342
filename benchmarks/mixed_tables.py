"""Real tables with text, counts and gaps: one treatment of their columns for all methods.

A column is a category (text, truth values, or at most 20 different numbers) or a number, spread
over the cells of its grid for densities. A gap of a category is one more value. A gap of a number
stays a gap: its probability is that of an indicator, and nothing else counts in such a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.real import DATA, grid_step, read, spread

# Small ones first.
MIXED = (
    *("penguins", "cars", "seattle-weather", "wage", "nyc-weather", "nyc-flights"),
    *("credit_cards", "restaurant_inspections"),
)
ROWS, FEW_VALUES, MOST_LEVELS, RARE = 10_000, 20, 120, 10
GAP, OTHER = "no value", "other"
# Names, and functions of other columns.
DROPPED = {
    "cars": ["Name"],
    "wage": ["wage"],
    "nyc-weather": ["time_hour"],
    "nyc-flights": ["time_hour", "hour", "minute"],
}


@dataclass(frozen=True)
class MixedTable:
    """A table whose columns are texts (categories) or floats (numbers).

    Args:
        name: of the table.
        exact: the rows as they are written; gaps of numbers are NaN.
        jittered: the same, numbers spread over their cells.
        steps: of the grid of each number, 0 for none.
        dropped: the columns that are left out, each with the reason.
        dates: the numbers that are dates, in days since 1970.
    """

    name: str
    exact: pd.DataFrame
    jittered: pd.DataFrame
    steps: dict[str, float]
    dropped: dict[str, str]
    dates: tuple[str, ...] = ()

    @property
    def numbers(self) -> list[str]:
        """The columns of numbers."""
        return [*self.steps]

    @property
    def categories(self) -> list[str]:
        """The columns of categories."""
        return [c for c in self.exact if c not in self.steps]


def mixed(name: str, folder: Path = DATA, rows: int = ROWS) -> MixedTable:
    """A table, at most so many random rows of it.

    Raises:
        ValueError: if there is no such file.
    """
    frame = read(name, folder)
    if len(frame) > rows:
        frame = frame.iloc[np.random.default_rng(0).permutation(len(frame))[:rows]]
    frame = frame.reset_index(drop=True)
    dropped = dict.fromkeys(DROPPED.get(name, ()), "a name, or a function of others")
    exact, jittered, steps, days = {}, {}, {}, []
    random = np.random.default_rng(0)
    for column in frame:
        values = frame[column]
        if column in dropped:
            continue
        if values.nunique() < 2:
            dropped[column] = "constant"
            continue
        if not pd.api.types.is_numeric_dtype(values) and values.nunique() > MOST_LEVELS:
            dates = pd.to_datetime(values, errors="coerce", format="mixed")
            if dates.isna().any():
                dropped[column] = f"{values.nunique()} different texts"
                continue
            values = (dates - pd.Timestamp("1970-01-01")).dt.days
            days.append(column)
        number = pd.api.types.is_numeric_dtype(values) and values.dtype != bool
        if number and values.nunique() > FEW_VALUES:
            exact[column] = values.astype(np.float64).round(9)
            known = exact[column].notna().to_numpy()
            x = exact[column].to_numpy()[known]
            steps[column] = grid_step(x)
            spread_values = np.full(len(known), np.nan)
            spread_values[known] = spread(x, steps[column], random.random(len(x)))
            jittered[column] = spread_values
        else:
            exact[column] = jittered[column] = as_text(values)
    return MixedTable(
        name, pd.DataFrame(exact), pd.DataFrame(jittered), steps, dropped, tuple(days)
    )


def as_text(values: pd.Series) -> pd.Series:
    """Categories as texts, gaps and rare ones by a name of their own."""
    text = values.map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
    text = text.where(values.notna(), GAP)
    rare = text.map(text.value_counts()) < RARE
    return text.where(~rare, OTHER).astype(object)

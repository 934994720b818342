"""Rows of a mixed table as the members of a model read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeo.mixed.marginals import Marginals, has_cells
from diffeo.mixed.scores import Scores
from diffeo.schema import CategoryColumn, Column, DateColumn, NumberColumn

# What repeats in dates, in each of their units: days, weeks and years.
PERIODS: dict[str, tuple[float, ...]] = {
    "second": (86_400.0, 604_800.0, 365.2425 * 86_400),
    "day": (7.0, 365.2425),
    "month": (12.0,),
}


class Rows(NamedTuple):
    """Rows of C columns of numbers and G of categories.

    Attributes:
        scores: of the numbers, each `(n, C)`.
        empty: which numbers are missing `(n, C)`.
        places: of the values of categories `(n, G)`, whole numbers; an empty cell is the last.
        waves: sine and cosine of each cycle of dates `(n, 2 * cycles)`; 0 where a cell is empty.
        expected: normal scores of the values that `Regressors` expect `(n, targets)`.
    """

    scores: Scores
    empty: Tensor
    places: Tensor
    waves: Tensor
    expected: Tensor

    def __len__(self) -> int:
        return len(self.empty)

    def having(self, **parts: Any) -> Rows:
        """With other parts."""
        return Rows(**(self._asdict() | parts))

    def take(self, which: Tensor | slice) -> Rows:
        """Some of the rows."""
        scores = Scores(*(part[which] for part in self.scores))
        return Rows(scores, *(part[which] for part in self[1:]))

    def to(self, dtype: torch.dtype) -> Rows:
        """With scores of another dtype."""
        waves, expected = self.waves.to(dtype), self.expected.to(dtype)
        return Rows(self.scores.to(dtype), self.empty, self.places, waves, expected)


class Layout:
    """Which columns are numbers and which are categories, and in which order they are predicted.

    Args:
        columns: in the order of the table.
        first: the columns that come first, such as those that are conditions.

    Categories come before numbers, those of fewer values first: what is known of them decides
    among the modes of the numbers.

    Attributes:
        numbers: the columns of numbers, by their place in the table.
        kinds: what they are.
        gaps: whether they may be empty.
        cells: whether their values are cells of noise, and no points.
        categories: those of categories.
        sizes: how many values each category has, an empty cell included.
        cycles: of dates: their place among the numbers, and a period.
        order: for each column, in the order of prediction, whether it is a number, and its place
            among the numbers or the categories.
        owners: of each of the `features`, the column that it is of, by its place in the table.
    """

    def __init__(self, columns: Sequence[Column], first: Sequence[int] = ()) -> None:
        self.columns: list[Column] = list(columns)
        self.numbers: list[int] = [i for i, c in enumerate(columns) if isinstance(c, NumberColumn)]
        self.categories: list[int] = [
            i for i, c in enumerate(columns) if isinstance(c, CategoryColumn)
        ]
        self.sizes: list[int] = [
            c.count + c.missing for c in columns if isinstance(c, CategoryColumn)
        ]
        self.kinds: list[NumberColumn] = [c for c in columns if isinstance(c, NumberColumn)]
        self.gaps: list[bool] = [columns[i].missing for i in self.numbers]
        self.cells: list[bool] = [has_cells(column) for column in self.kinds]
        self.cycles: list[tuple[int, float]] = [
            (place, period)
            for place, column in enumerate(self.kinds)
            if isinstance(column, DateColumn)
            for period in PERIODS[column.unit]
            if period > 2 * column.step
        ]

        def rank(i: int) -> tuple[bool, bool, int, int]:
            column = columns[i]
            count = column.count if isinstance(column, CategoryColumn) else 0
            return i not in first, count == 0, count, i

        self.table_order: list[int] = sorted(range(len(columns)), key=rank)
        self.order: list[tuple[bool, int]] = [
            (True, self.numbers.index(i))
            if i in self.numbers
            else (False, self.categories.index(i))
            for i in self.table_order
        ]
        self.owners: list[int] = [
            *self.numbers,
            *(i for i, gap in zip(self.numbers, self.gaps, strict=True) if gap),
            *(i for i, n in zip(self.categories, self.sizes, strict=True) for _ in range(n)),
            *(2 * [self.numbers[date] for date, _ in self.cycles]),
        ]

    def impossible(self, marginals: Marginals, x: Tensor) -> Tensor:
        """Which cells `(n, D)` of a table have no probability.

        They are values out of range or of no category, and gaps in columns that have none.
        """
        wrong = x.isnan() & ~torch.tensor([c.missing for c in self.columns], device=x.device)
        wrong[:, self.numbers] |= marginals.some().outside(x[:, self.numbers])
        counts = [c.count for c in self.columns if isinstance(c, CategoryColumn)]
        places = x[:, self.categories]
        beyond = places > torch.tensor(counts, dtype=x.dtype, device=x.device) - 1
        wrong[:, self.categories] |= (places < 0) | beyond
        return wrong

    def waves(self, numbers: Tensor) -> Tensor:
        """The waves of the dates among numbers `(n, C)` (see `Rows`)."""
        periods = numbers.new_tensor([period for _, period in self.cycles])
        angles = numbers[:, [place for place, _ in self.cycles]] / periods * (2 * math.pi)
        return torch.cat((angles.sin(), angles.cos()), 1).nan_to_num()

    def rows(self, marginals: Marginals, x: Tensor) -> Rows:
        """The rows of a table `(n, D)`, with the scores that their numbers have by themselves."""
        numbers = x[:, self.numbers]
        _, scores = marginals(numbers)
        none = x.new_zeros(len(x), 0)
        return Rows(scores, numbers.isnan(), self.places(x), self.waves(numbers), none)

    def features(self, numbers: Tensor, empty: Tensor, places: Tensor, waves: Tensor) -> Tensor:
        """What networks see of rows `(n, features)`: numbers, gaps, categories and waves.

        Args:
            numbers: on a scale of their own `(n, C)`, finite where cells are empty too.
            empty: which of them are (see `Rows`), as are the others.
            places: of values of categories.
            waves: of dates.
        """
        # By slices, since a list of places is copied to the device again and again.
        parts = [numbers, *(empty[:, c : c + 1] for c, gap in enumerate(self.gaps) if gap)]
        parts += [F.one_hot(places[:, g], size) for g, size in enumerate(self.sizes)]
        return torch.cat([part.to(numbers) for part in (*parts, waves)], 1)

    def category(self, g: int, places: Tensor) -> Tensor:
        """The values in a table of places of a category; NaN for an empty cell."""
        column = self.columns[self.categories[g]]
        assert isinstance(column, CategoryColumn)
        return torch.where(places == column.count, math.nan, places.double())

    def places(self, x: Tensor) -> Tensor:
        """The places of the values of categories of a table (see `Rows`)."""
        places = []
        for i in self.categories:
            column = self.columns[i]
            assert isinstance(column, CategoryColumn)
            place = x[:, i].nan_to_num(float(column.count)).long()
            places.append(place.clamp(0, column.count + column.missing - 1))
        return torch.stack(places, 1) if places else x.new_zeros(len(x), 0, dtype=torch.long)

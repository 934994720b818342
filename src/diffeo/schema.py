"""What the columns of a table are: numbers, dates and categories, with their limits and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Finite, NonNegative, Range, Whole


class TableError(ValueError):
    """All that is wrong with a table, a sentence a line.

    Attributes:
        sentences: one for each problem.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences: tuple[str, ...] = tuple(sentences)


Value: TypeAlias = str | bool | Annotated[int, Range()] | Finite


@dataclass(frozen=True)
class NumberColumn(Configurable):
    """A column of numbers.

    Args:
        name: of the column.
        step: of the grid on which all values lie; 0 for a continuous column.
        origin: a value on that grid.
        low: the smallest value that is possible, or None.
        high: the largest, or None.
        decimals: how many are written, or None for as many as a float has.
        integer: whether values are whole numbers.
        atoms: values of a continuous column that have a mass of their own, such as 0.
        missing: whether cells may be empty.
        dtype: pandas' type of a DataFrame's column; empty for `int64`, `Int64` or `float64`.
    """

    name: str
    step: NonNegative = 0.0
    origin: Finite = 0.0
    low: Finite | None = None
    high: Finite | None = None
    decimals: Whole | None = None
    integer: bool = False
    atoms: tuple[Finite, ...] = ()
    missing: bool = False
    dtype: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", tuple(self.atoms))


@dataclass(frozen=True)
class DateColumn(NumberColumn):
    """A column of dates or times: a number of seconds, days or months since 1970.

    Args:
        unit: in which they are counted; months where all dates are the first of one.
        form: how they are written, as by `datetime.strftime`; `%-d` is a day without a zero.
    """

    unit: Literal["second", "day", "month"] = "day"
    form: str = "%Y-%m-%d"


@dataclass(frozen=True)
class CategoryColumn(Configurable):
    """A column of text or truth values, or of numbers that are names.

    Args:
        name: of the column.
        values: those there are; a cell is encoded as the place of its value.
        missing: whether cells may be empty.
        other: whether a value that is not known is encoded as one more, the last.
        dtype: pandas' type of a DataFrame's column; empty for that of the values.
    """

    name: str
    values: tuple[Value, ...] = ()
    missing: bool = False
    other: bool = False
    dtype: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))

    @property
    def count(self) -> int:
        """How many values there are, that for unknown ones included."""
        return len(self.values) + self.other


@dataclass(frozen=True)
class LeftOutColumn(Configurable):
    """A column that is not modelled.

    Args:
        name: of the column.
        reason: such as "every value is 2013".
    """

    name: str
    reason: str = ""


Column: TypeAlias = NumberColumn | CategoryColumn
AnyColumn: TypeAlias = Column | LeftOutColumn


@dataclass(frozen=True)
class Schema(Configurable):
    """The columns of a table, in its order.

    A row is a tensor `(modelled columns,)`: a number as it is, a date as days or the like, a
    category as the place of its value, and an empty cell as NaN.

    Args:
        columns: all of them.
    """

    columns: tuple[AnyColumn, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns that are not left out."""
        return tuple(c for c in self.columns if not isinstance(c, LeftOutColumn))

"""What a density is conditional on: named numbers and categories, and how they become a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Self, TypeAlias

import torch
from torch import Tensor

from diffeo.utils.config import Configurable
from diffeo.utils.modules import check_tensor
from diffeo.utils.ranges import Range

MOST_COLUMNS = 100_000  # of a table, and so of a context
Width = Annotated[int, Range(0, MOST_COLUMNS)]


@dataclass(frozen=True)
class Number(Configurable):
    """A number of the context: one column, as it is.

    Args:
        name: of the column; any text, `temp=C` included.
    """

    name: str

    @property
    def columns(self) -> list[str]:
        """What its column is called."""
        return [self.name]


@dataclass(frozen=True)
class Category(Configurable):
    """One of several values: a column of 0 and 1 for each of them.

    Args:
        name: of the category.
        values: what the values are called, in the order of their columns.

    Raises:
        ValueError: if there are no values, or a value appears twice.
    """

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values or len({*self.values}) < len(self.values):
            raise ValueError(f"the values of {self.name} must be different, and at least one.")

    @property
    def columns(self) -> list[str]:
        """What its columns are called, NAME=VALUE."""
        return [f"{self.name}={value}" for value in self.values]


Variable: TypeAlias = Number | Category


@dataclass(frozen=True)
class ContextSpec(Configurable):
    """The context of a conditional density: its variables in the order of their columns.

    Args:
        variables: numbers and categories; none for a density without context.

    It is false where there are no variables. Data make it (a CSV file's numbers, an image's label),
    the flow keeps it, and whoever asks for a context looks here: nobody reads a column's name to
    find out what it means.

    Raises:
        ValueError: if two variables have one name.
    """

    variables: tuple[Variable, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", tuple(self.variables))
        names = [variable.name for variable in self.variables]
        if len({*names}) < len(names):
            raise ValueError(f"two variables of a context have one name: {', '.join(names)}.")

    @classmethod
    def of(cls, context: ContextSpec | int | None) -> Self:
        """A context as constructors take it: a spec, a number of unnamed numbers, or None.

        Raises:
            ValueError: if the number is negative.
        """
        if isinstance(context, cls):
            return context
        count = context or 0
        if not isinstance(count, int) or not 0 <= count <= MOST_COLUMNS:
            raise ValueError(
                f"the context is {context!r}: give a ContextSpec, or how many numbers it has, at "
                f"most {MOST_COLUMNS:,}."
            )
        return cls(tuple(Number(f"c{i}") for i in range(count)))

    @classmethod
    def classes(cls, values: int | Sequence[str], name: str = "label") -> Self:
        """That of a class-conditional density: one category of some values, or of so many."""
        names = [str(i) for i in range(values)] if isinstance(values, int) else values
        return cls((Category(name, tuple(names)),))

    def __bool__(self) -> bool:
        return bool(self.variables)

    @property
    def width(self) -> int:
        """How many columns there are."""
        return len(self.columns)

    @property
    def event_shape(self) -> tuple[int | None, ...]:
        """The shape of the context of one event; None is any length."""
        return (self.width,)

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether the context of one event may have this shape."""
        known = self.event_shape
        return len(shape) == len(known) and all(
            wanted in (None, size) for size, wanted in zip(shape, known, strict=True)
        )

    def shape_text(self, batch: int | str) -> str:
        """The shape of the contexts of a batch, as sentences have it."""
        lengths = ["any" if size is None else str(size) for size in self.event_shape]
        return f"({', '.join([str(batch), *lengths])})"

    @property
    def columns(self) -> list[str]:
        """The names of the columns: NAME of a number, NAME=VALUE for each value of a category."""
        return [column for variable in self.variables for column in variable.columns]

    @property
    def category(self) -> Category | None:
        """The one category, where the context is nothing else: a class-conditional density."""
        only = self.variables[0] if len(self.variables) == 1 else None
        return only if isinstance(only, Category) else None

    def parts(self) -> Iterator[tuple[Variable, slice]]:
        """Each variable, and which columns it has."""
        start = 0
        for variable in self.variables:
            stop = start + len(variable.columns)
            yield variable, slice(start, stop)
            start = stop

    def checked(self, context: Tensor | None, rows: int, like: Tensor) -> Tensor | None:
        """A context as rows of numbers, if it fits so many events of a flow with such weights.

        Raises:
            ValueError: if it does not, or is missing.
        """
        if not self:
            if context is not None:
                raise ValueError("this flow takes no context: leave it out.")
            return None
        if context is not None:
            classes = getattr(context, "dtype", None) if self.category else None
            check_tensor("context", context, like, classes)
            context = self.as_rows(context, like)
        shape = None if context is None else tuple(context.shape)
        if shape is None or shape[:1] != (rows,) or not self.takes(shape[1:]):
            wanted = self.shape_text(rows)
            raise ValueError(f"this flow needs a context of shape {wanted}, got {shape}.")
        return context

    def as_rows(self, context: Tensor, like: Tensor) -> Tensor:
        """A context `(*batch, width)` as the flow takes it; classes `(*batch)` become 0s and a 1.

        Args:
            context: rows, or whole numbers of a class-conditional density.
            like: has the dtype and the device that rows of classes get.

        Raises:
            ValueError: if a class on the CPU is not one of those there are. On other devices, where
                the host would have to wait to learn of it, its row is NaN instead.
        """
        if self.category is None or context.is_floating_point():
            return context
        count = len(self.category.values)
        unknown = (context < 0) | (context >= count)
        rows = (context[..., None] == torch.arange(count, device=context.device)).to(like)
        if context.device.type != "cpu":
            return rows.masked_fill(unknown[..., None], math.nan)
        if unknown.any():
            raise ValueError(f"classes must be whole numbers from 0 to {count - 1}.")
        return rows

    def one_of_each(self, like: Tensor) -> Tensor:
        """A row for each class of a class-conditional density `(classes, width)`."""
        return torch.eye(self.width, dtype=like.dtype, device=like.device)


def repeat_context(context: Tensor | int | None, n: int, device: torch.device) -> Tensor | None:
    """The context of n events `(n, ...)`, on a device; one row, or one class, is that of all."""
    if context is None:
        return None
    context = torch.as_tensor(context, device=device)
    context = context[None] if context.ndim == 0 else context
    return context.expand(n, *context.shape[1:]) if len(context) == 1 else context

"""The context of a model as controls, and contexts where none is given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from diffeo.context import Category, ContextSpec, Number, Variable
from diffeo.flow import Flow

ANY = "any"
MOST = 64  # contexts over which the density of an event of unknown context is averaged


@dataclass(frozen=True)
class Control:
    """A variable of the context, its columns, and of a number the range and a usual value."""

    variable: Variable
    columns: slice
    low: float = 0.0
    high: float = 1.0
    usual: float | None = None

    @property
    def name(self) -> str:
        """Of the variable."""
        return self.variable.name

    @property
    def values(self) -> tuple[str, ...]:
        """Of a category; none of a number."""
        return self.variable.values if isinstance(self.variable, Category) else ()

    @property
    def first(self) -> Any:
        """The value at first: the first class, a usual number, or the middle of the range."""
        if self.values:
            return self.values[0]
        return self.rounded((self.low + self.high) / 2 if self.usual is None else self.usual)

    def rounded(self, number: float) -> float:
        """A number as few digits say it, a thousandth of the range apart."""
        return round(number, _decimals(self.high - self.low))

    def read(self, context: Tensor) -> Any:
        """Its value in a context `(1, width)`."""
        columns = context[0, self.columns]
        if self.values:
            return self.values[int(columns.argmax())]
        return self.rounded(float(columns[0]))

    def write(self, context: Tensor, value: Any) -> None:
        """Set its value in all rows of a context `(n, width)`.

        Raises:
            ValueError: if it is no value of the category.
        """
        if not self.values:
            context[:, self.columns] = min(max(float(value), self.low), self.high)
            return
        if value not in self.values:
            raise ValueError(f"there is no {self.name} {value}: choose {', '.join(self.values)}.")
        context[:, self.columns] = 0.0
        context[:, self.columns.start + self.values.index(value)] = 1.0


@dataclass(frozen=True, eq=False)
class Conditions:
    """The context of a model as controls, and known contexts.

    Args:
        controls: one for each variable.
        known: contexts of the training data `(n, width)`, or None where they are not available.
    """

    controls: list[Control]
    known: Tensor | None = None

    @classmethod
    def of(cls, flow: Flow, known: Tensor | None) -> Conditions:
        """Those of a flow; without data, numbers go two standard deviations up and down."""
        if known is None:
            return cls(make_controls(flow.context, *_usual_range(flow)))
        controls = make_controls(flow.context, known.amin(0), known.amax(0))
        # The median, since the mean of truth values is none.
        usual = known.median(0).values
        controls = [
            part if part.values else replace(part, usual=float(usual[part.columns.start]))
            for part in controls
        ]
        return cls(controls, known)

    def __bool__(self) -> bool:
        return bool(self.controls)

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.controls[-1].columns.stop if self.controls else 0

    @property
    def has_numbers(self) -> bool:
        """Whether some variable is a number."""
        return any(isinstance(control.variable, Number) for control in self.controls)

    def row(self, values: Sequence[Any]) -> Tensor:
        """The context `(1, width)` of one value for each control: a class's name, or a number."""
        context = torch.zeros(1, self.width)
        for control, value in zip(self.controls, values, strict=True):
            control.write(context, value)
        return context

    def values(self, context: Tensor) -> list[Any]:
        """The values of the controls for a context `(1, width)`."""
        return [control.read(context) for control in self.controls]

    def draw(self, n: int, seed: int, values: Sequence[Any] | None = None) -> Tensor | None:
        """Contexts `(n, width)`; where a value is ANY, as in the data, or else equally likely.

        None for a model without context.
        """
        if not self:
            return None
        generator = Generator().manual_seed(seed + 1)
        if self.known is not None:
            rows = self.known[torch.randint(len(self.known), (n,), generator=generator)].clone()
        else:
            rows = torch.zeros(n, self.width)
            for control in self.controls:
                start = control.columns.start
                if control.values:
                    drawn = torch.randint(len(control.values), (n,), generator=generator)
                    rows[torch.arange(n), start + drawn] = 1.0
                else:
                    share = torch.rand(n, generator=generator)
                    rows[:, start] = control.low + share * (control.high - control.low)
        for control, value in zip(self.controls, values or [ANY] * len(self.controls), strict=True):
            if value != ANY:
                control.write(rows, value)
        return rows

    def candidates(self) -> Tensor:
        """Contexts `(k, width)` that represent all: each combination of classes, or some rows.

        The mean of p(x | c) over them is p(x), if classes are equally likely; with more than MOST
        combinations, or numbers, they are drawn from the data, and the mean is an estimate.
        """
        if self.has_numbers or math.prod(len(control.values) for control in self.controls) > MOST:
            drawn = self.draw(MOST, seed=0)
            assert drawn is not None
            return drawn
        combinations = itertools.product(*(control.values for control in self.controls))
        return torch.cat([self.row(values) for values in combinations])

    def describe(self, context: Tensor) -> str:
        """A context `(1, width)` in words: "label 3, size 0.4"."""
        shown = zip(self.controls, self.values(context), strict=True)
        return ", ".join(
            f"{control.name} {value if isinstance(value, str) else f'{value:.3g}'}"
            for control, value in shown
        )


def make_controls(context: ContextSpec, low: Tensor, high: Tensor) -> list[Control]:
    """A control for each variable; `low` and `high` are the ranges of the columns `(width,)`."""
    return [
        Control(variable, columns)
        if isinstance(variable, Category)
        else _number(variable, columns, low, high)
        for variable, columns in context.parts()
    ]


def _decimals(span: float) -> int:
    """Digits behind the point of a thousandth of a range; below 0 for large ones."""
    return math.ceil(3 - math.log10(span)) if 0 < span < math.inf else 15


def _number(variable: Variable, columns: slice, low: Tensor, high: Tensor) -> Control:
    """The control of a number, whose range has ends of few digits."""
    first, last = float(low[columns.start]), float(high[columns.start])
    digits = _decimals(last - first)
    return Control(variable, columns, round(first, digits), round(last, digits))


def _usual_range(flow: Flow) -> tuple[Tensor, Tensor]:
    """Two standard deviations above and below the mean, as the context's encoder knows them."""
    ends = torch.tensor([[-2.0], [2.0]]).expand(2, flow.context.width)
    if flow.context_encoder is None or not flow.context:
        return ends[0], ends[1]
    with torch.no_grad():
        low, high = flow.context_encoder.inverse(ends.to(flow.device))[0].cpu()
    return torch.minimum(low, high), torch.maximum(low, high)

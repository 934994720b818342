"""What a model is conditional on, as the controls that a person moves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from diffeo.flow import Flow
from diffeo.run import Run

ANY = "any"
MOST = 64  # contexts under which an image of unknown context is tried


@dataclass(frozen=True)
class Choice:
    """One of several classes, a column of 0 and 1 for each."""

    name: str
    columns: list[int]
    values: list[str]


@dataclass(frozen=True)
class Number:
    """A column of numbers, from low to high."""

    name: str
    column: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Conditions:
    """The context of a model, column by column, and the contexts that are known.

    Args:
        parts: a control each.
        width: how many columns there are.
        known: contexts of the training data `(n, width)`, or None where these are not at hand.
    """

    parts: list[Choice | Number]
    width: int
    known: Tensor | None = None

    @classmethod
    def of(cls, run: Run, known: Tensor | None) -> Conditions:
        """Those of a run; without data, numbers go two standard deviations either way."""
        flow = run.flow
        names = run.context_columns or _class_names(flow)
        if known is None:
            low, high = _usual_range(flow)
        else:
            low, high = known.amin(0), known.amax(0)
        groups: dict[str, list[int]] = {}
        parts: list[Choice | Number] = []
        for i, name in enumerate(names):
            if "=" not in name:
                parts.append(Number(name, i, float(low[i]), float(high[i])))
                continue
            group = name.partition("=")[0]
            if group not in groups:
                groups[group] = []
                parts.append(Choice(group, groups[group], []))
            groups[group].append(i)
            choice = next(part for part in parts if part.name == group)
            assert isinstance(choice, Choice)
            choice.values.append(name.partition("=")[2])
        return cls(parts, len(names), known)

    def __bool__(self) -> bool:
        return self.width > 0

    @property
    def has_numbers(self) -> bool:
        """Whether some part is a number."""
        return any(isinstance(part, Number) for part in self.parts)

    def row(self, values: Sequence[Any]) -> Tensor:
        """The context `(1, width)` of one value for each part: a class's name, or a number."""
        context = torch.zeros(1, self.width)
        for part, value in zip(self.parts, values, strict=True):
            _set(context, part, value)
        return context

    def values(self, context: Tensor) -> list[Any]:
        """What the controls show of a context `(1, width)`."""
        shown: list[Any] = []
        for part in self.parts:
            if isinstance(part, Choice):
                shown.append(part.values[int(context[0, part.columns].argmax())])
            else:
                shown.append(float(context[0, part.column]))
        return shown

    def middle(self) -> list[Any]:
        """What the controls show at first: the first class, and the middle of each number."""
        return [
            part.values[0] if isinstance(part, Choice) else (part.low + part.high) / 2
            for part in self.parts
        ]

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
            for part in self.parts:
                if isinstance(part, Choice):
                    drawn = torch.randint(len(part.columns), (n,), generator=generator)
                    rows[torch.arange(n), torch.tensor(part.columns)[drawn]] = 1.0
                else:
                    share = torch.rand(n, generator=generator)
                    rows[:, part.column] = part.low + share * (part.high - part.low)
        for part, value in zip(self.parts, values or [ANY] * len(self.parts), strict=True):
            if value != ANY:
                _set(rows, part, value)
        return rows

    def candidates(self) -> Tensor:
        """Contexts `(k, width)` that stand for all: each combination of classes, or some rows.

        The mean of p(x | c) over them is p(x), if classes are equally likely; with more than MOST
        combinations, or numbers, they are drawn from the data, and the mean is an estimate.
        """
        choices = [part for part in self.parts if isinstance(part, Choice)]
        count = 1
        for choice in choices:
            count *= len(choice.columns)
        if not self.has_numbers and count <= MOST:
            rows = torch.zeros(count, self.width)
            for i, columns in enumerate(itertools.product(*(part.columns for part in choices))):
                rows[i, list(columns)] = 1.0
            return rows
        drawn = self.draw(MOST, seed=0)
        assert drawn is not None
        return drawn

    def describe(self, context: Tensor) -> str:
        """A context `(1, width)` in words: "label 3, size 0.4"."""
        shown = zip(self.parts, self.values(context), strict=True)
        return ", ".join(
            f"{part.name} {value if isinstance(value, str) else f'{value:.3g}'}"
            for part, value in shown
        )


def _set(context: Tensor, part: Choice | Number, value: Any) -> None:
    if isinstance(part, Number):
        context[:, part.column] = min(max(float(value), part.low), part.high)
        return
    if value not in part.values:
        raise ValueError(f"there is no {part.name} {value}: choose {', '.join(part.values)}.")
    context[:, part.columns] = 0.0
    context[:, part.columns[part.values.index(value)]] = 1.0


def _class_names(flow: Flow) -> list[str]:
    return flow.context.columns


def _usual_range(flow: Flow) -> tuple[Tensor, Tensor]:
    """Two standard deviations either side of the mean, as the context's own scaling knows them."""
    ends = torch.tensor([[-2.0], [2.0]]).expand(2, max(flow.context_features, 1))
    if flow.context_encoder is None or not flow.context_features:
        return ends[0], ends[1]
    with torch.no_grad():
        low, high = flow.context_encoder.inverse(ends.to(flow.device))[0].cpu()
    return torch.minimum(low, high), torch.maximum(low, high)

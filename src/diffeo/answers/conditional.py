"""The distribution of some columns of a table given others, everything else integrated out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from diffeo.answers.asking import check_names, encode_values
from diffeo.answers.particles import Particles, by_mixtures, by_order
from diffeo.answers.spread import Spread, category_spread, given_all_others, parts_spread
from diffeo.data.tables.frames import decode, decode_column, write_number
from diffeo.data.tables.grids import Floats
from diffeo.mixed.posterior import MixturePosterior
from diffeo.mixed.tools import Tools
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, Column, DateColumn, NumberColumn, TableError
from diffeo.utils.ranges import Count, Proportion, Seed, checked, suggestion

NEVER = 1e-9  # weight of networks that do not matter
FEW = 30  # values of a number whose probabilities are listed


@dataclass(frozen=True)
class Answer:
    """A number that a model says of a column, or several, and how sure it is of it.

    Attributes:
        value: a number, text, or a mapping of probabilities, in the units of the table.
        exact: whether it is the model's own, up to rounding; otherwise an estimate.
        standard_error: of the estimate, 0 for an exact answer; NaN for text.
    """

    value: Any
    exact: bool
    standard_error: Any = 0.0


@checked
def conditional(
    flow: MixedFlow,
    given: Mapping[str, Any] | None = None,
    want: Sequence[str] | None = None,
    *,
    draws: Count = 4_096,
    seed: Seed = 0,
    smooth: bool = True,
) -> Conditional:
    """The distribution of columns given the values of others.

        p(A | B) = int p(A, B, rest) d rest / p(B)

    Args:
        flow: the model of the table.
        given: names of columns and their values, as they stand in the table; None or NaN for an
            empty cell.
        want: the columns that are asked for; by default all others.
        draws: how many particles an estimate takes.
        seed: of the particles.
        smooth: whether an estimate averages distributions of particles where it can. Their values
            alone are less exact, and many times as fast.

    Raises:
        ValueError: of all names and values that do not fit the table, a sentence a line.
    """
    return Conditional(flow, given or {}, want, draws, seed, smooth)


class Conditional:
    """The distribution of columns given others (see `conditional`).

    Attributes:
        exact: whether answers about single columns are exact.
        want: the names of the columns that are asked for.
    """

    def __init__(
        self,
        flow: MixedFlow,
        given: Mapping[str, Any],
        want: Sequence[str] | None,
        draws: int,
        seed: int,
        smooth: bool = True,
    ) -> None:
        self.flow = flow
        self.draws = draws
        self.seed = seed
        self.smooth = smooth
        conditions = () if flow.conditions is None else flow.conditions.modelled
        self.columns: list[Column] = [*conditions, *flow.schema.modelled]
        names = [column.name for column in self.columns]
        check_names(names, given, want, len(conditions))
        values = encode_values(self.columns, given)
        self.row: Tensor = torch.tensor([values], dtype=torch.float64, device=flow.device)
        self.known: Tensor = torch.tensor([[name in given for name in names]], device=flow.device)
        unknown = [name for name in names if name not in given]
        self.want: list[str] = unknown if want is None else [*want]
        self.tools: Tools = Tools(flow.stack)
        self.unknown: list[int] = [names.index(name) for name in unknown]
        self.exact: bool = len(self.unknown) == 1 or self._closed
        self._spreads: dict[str, tuple[Spread, list[Spread]]] = {}

    @property
    def _closed(self) -> bool:
        """Whether all conditionals have a closed form: mixtures of continuous columns alone."""
        stack = self.flow.stack
        weight = stack.log_w.exp()[self.tools.networks].sum() if stack.networks else 0.0
        smooth = all(
            not column.step and not column.atoms and not column.missing
            for column in self.columns
            if isinstance(column, NumberColumn)
        )
        return smooth and float(weight) < NEVER and not stack.conditions

    @cached_property
    def posterior(self) -> MixturePosterior:
        """What the mixtures of the model expect."""
        return MixturePosterior(self.tools, self.row, self.known)

    @cached_property
    def particles(self) -> Particles:
        """Weighted rows: of the order of prediction or of the mixtures, whichever are more."""
        ordered = by_order(
            self.tools, self.row, self.known, self.draws, self._source(1), smooth=self.smooth
        )
        if ordered.effective > 0.5 * self.draws:
            return ordered
        mixtures = by_mixtures(self.posterior, self.draws, self._source(2))
        return mixtures if mixtures.effective > ordered.effective else ordered

    def _source(self, number: int) -> Generator:
        return Generator().manual_seed(self.seed * 4 + number)

    def _place(self, column: str) -> int:
        if column not in self.want:
            raise ValueError(
                f"column '{column}' is not asked for{suggestion(column, self.want)}: "
                f"name one of {', '.join(self.want)}."
            )
        return [c.name for c in self.columns].index(column)

    @torch.no_grad()
    def spread(self, column: str) -> tuple[Spread, list[Spread]]:
        """The distribution of a column, and those of independent parts of the particles."""
        if column not in self._spreads:
            place = self._place(column)
            if len(self.unknown) == 1:
                self._spreads[column] = given_all_others(self.tools, self.row, place), []
            elif self.exact:
                self._spreads[column] = self._closed_spread(place), []
            else:
                self._spreads[column] = self.particles.spread(place)
        return self._spreads[column]

    def _closed_spread(self, place: int) -> Spread:
        layout, column = self.flow.stack.layout, self.columns[place]
        if isinstance(column, CategoryColumn):
            log_p = self.posterior.log_probabilities(layout.categories.index(place))
            return category_spread(log_p, column.missing)
        c = layout.numbers.index(place)
        return parts_spread(self.tools, c, self.posterior.parts(c))

    def _answer(self, column: str, ask: Callable[[Spread], Any]) -> Answer:
        spread, parts = self.spread(column)
        value = ask(spread)
        if not parts:
            return Answer(value, True)
        shares = self.particles.shares
        each = np.array([ask(part) for part in parts], dtype=np.float64)
        gap = each - np.asarray(value, dtype=np.float64)
        error = np.sqrt(np.tensordot(shares**2, gap**2, 1) * len(each) / (len(each) - 1))
        return Answer(value, False, float(error) if error.ndim == 0 else error)

    def _number(self, column: str) -> None:
        kind = self.columns[self._place(column)]
        if isinstance(kind, CategoryColumn):
            raise ValueError(
                f"column '{column}' is a category, which has no such number: ask for its "
                "probabilities."
            )

    def number(self, column: str, ask: Callable[[Spread], Floats]) -> Answer:
        """An answer about a column of numbers as a number, of dates too."""
        self._number(column)
        return self._answer(column, lambda spread: float(ask(spread)[0]))

    def _written(self, column: str, answer: Answer) -> Answer:
        """A date as it stands in the table; its standard error is in its unit, such as days."""
        kind = self.columns[self._place(column)]
        if not isinstance(kind, DateColumn):
            return answer
        return replace(answer, value=write_number(kind, answer.value))

    # Questions ----------------------------------------------------------------------------------

    def mean(self, column: str) -> Answer:
        """The mean of a column of numbers, given that it is not empty."""
        return self._written(column, self.number(column, lambda spread: spread.mean))

    def quantile(self, column: str, q: Proportion) -> Answer:
        """The q-quantile of a column of numbers."""
        return self._written(column, self.number(column, lambda spread: spread.quantile(q)))

    def cdf(self, column: str, value: Any) -> Answer:
        """P(column <= value) of a column of numbers."""
        self._number(column)
        kind = self.columns[self._place(column)]
        x = (
            float(value)
            if isinstance(value, int | float)
            else encode_values([kind], {column: value})[0]
        )
        return self._answer(column, lambda spread: float(spread.cdf(x)[0]))

    def interval(self, column: str, level: Proportion = 0.9) -> tuple[Answer, Answer]:
        """The ends of the interval that leaves (1 - level) / 2 on each side."""
        tail = (1 - level) / 2
        return self.quantile(column, tail), self.quantile(column, 1 - tail)

    def empty(self, column: str) -> Answer:
        """The probability that the cell is empty."""
        return self._answer(
            column, lambda spread: 0.0 if spread.empty is None else float(spread.empty[0])
        )

    def probabilities(self, column: str) -> Answer:
        """The probability of each value of a category, or of a number with few values.

        They are those of a cell that is not empty. The value and the standard error of the answer
        are mappings by the values of the table.
        """
        place = self._place(column)
        kind, spread = self.columns[place], self.spread(column)[0]
        values = np.unique(spread.x[0].cpu().numpy())
        if not isinstance(kind, CategoryColumn):
            few = isinstance(kind, NumberColumn) and kind.step > 0
            if not few or len(values) > FEW:
                raise ValueError(
                    f"column '{column}' has many values: ask for quantiles, or for cdf."
                )
        middles = (values[1:] + values[:-1]) / 2
        labels = [*decode_column(kind, values)]

        def masses(spread: Spread) -> Floats:
            """Of all values; a part of the particles may lack some of them."""
            places = np.searchsorted(middles, spread.x[0].cpu().numpy())
            found = np.zeros(len(values))
            np.add.at(found, places, spread.mass[0].cpu().numpy())
            return found

        found = self._answer(column, masses)
        errors = np.broadcast_to(found.standard_error, len(labels))
        return Answer(
            dict(zip(labels, found.value.tolist(), strict=True)),
            found.exact,
            dict(zip(labels, errors.tolist(), strict=True)),
        )

    @torch.no_grad()
    def sample(self, n: Count) -> Any:
        """Rows of the columns that are asked for, as a DataFrame."""
        x = self.row.repeat(n, 1)
        source = self._source(3)
        if len(self.unknown) == 1:
            place = self.unknown[0]
            spread = self.spread(self.columns[place].name)[0]
            u = torch.rand(2, n, generator=source, dtype=torch.float64).numpy()
            values = np.array([spread.quantile(level)[0] for level in u[0]])
            if spread.empty is not None:
                values = np.where(u[1] < float(spread.empty[0]), np.nan, values)
            x[:, place] = torch.from_numpy(values).to(x)
        elif self.exact:
            x = self.posterior.draw(n, source)[0][0]
        else:
            x = self.particles.draw(n, source)
        count = self.flow.stack.conditions
        frame = decode(self.flow.schema, x[:, count:].cpu().numpy())
        return frame[self.want]

    @torch.no_grad()
    def log_prob(self, values: Mapping[str, Any]) -> Answer:
        """Log p(A | B) of values of all columns that are asked for, in nats."""
        lacking = [name for name in self.want if name not in values]
        if lacking:
            raise TableError([f"column '{name}' is asked for: give its value." for name in lacking])
        both = dict(values)
        names = [column.name for column in self.columns]
        row, known = self.row.clone(), self.known.clone()
        encoded = encode_values(self.columns, both)
        for name in both:
            place = names.index(name)
            row[0, place], known[0, place] = encoded[place], True
        return self._log_ratio(row, known)

    def _log_ratio(self, row: Tensor, known: Tensor) -> Answer:
        above, below = self._log_evidence(row, known), self._log_evidence(self.row, self.known)
        steps = sum(
            math.log(column.step)
            for i, column in enumerate(self.columns)
            if isinstance(column, NumberColumn) and column.step
            if bool(known[0, i] & ~self.known[0, i] & ~row[0, i].isnan())
        )
        error = math.hypot(above[1], below[1])
        return Answer(above[0] - below[0] - steps, error == 0.0, error)

    def _log_evidence(self, row: Tensor, known: Tensor) -> tuple[float, float]:
        """The log-density of what is known, and its standard error; without steps of grids."""
        stack = self.flow.stack
        unknown = (~known[0]).nonzero()[:, 0].tolist()
        if not unknown:
            return float(stack.log_joint(row)), 0.0
        if not bool(known[0, stack.conditions :].any()):
            return 0.0, 0.0
        if len(unknown) == 1:
            return float(given_all_others(self.tools, row, unknown[0]).log_total), 0.0
        if self._closed:
            return float(MixturePosterior(self.tools, row, known).log_evidence), 0.0
        value, error = by_order(self.tools, row, known, self.draws, self._source(1)).log_evidence
        mixtures = MixturePosterior(self.tools, row, known)
        other = by_mixtures(mixtures, self.draws, self._source(2)).log_evidence
        return (value, error) if error < other[1] else other

"""The model of tables of mixed columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from diffeo.context import Category, ContextSpec, Number, repeat_context
from diffeo.flow import Flow
from diffeo.mixed.members import Sizes
from diffeo.mixed.sampling import draw
from diffeo.mixed.stack import MixedStack
from diffeo.schema import CategoryColumn, Schema
from diffeo.utils.ranges import NonNegative, Whole, checked


class MixedFlow(Flow):
    """The density of a table of numbers, counts, dates, categories and empty cells.

        p(row) = sum_m w_m prod_i p_m(x_i | x_j before i)

    Members m are mixtures of normal distributions and masked networks (see `MixedStack`).
    `log_prob` is exact: the probability of what is discrete times the density of what is not, in
    the units of the columns. x `(batch, columns)` are the columns of `schema.modelled`: numbers as
    they are, places of categories, NaN for empty cells. It is in float64.

    `diffeo.training.mixed.fit_mixed` learns one.

    Args:
        schema: of the columns that are modelled.
        sizes: of the members.
        conditions: of the columns that they are conditional on, if any; a context has their
            numbers, and a row of zeros and a one for each category.
    """

    def __init__(
        self, schema: Schema, sizes: Sizes | None = None, *, conditions: Schema | None = None
    ) -> None:
        given = () if conditions is None else conditions.modelled
        sizes = sizes or Sizes()
        stack = MixedStack([*given, *schema.modelled], len(given), sizes)
        spec = None if conditions is None else context_spec(conditions)
        super().__init__(stack, len(schema.modelled), context=spec)
        self._record(sizes=sizes)
        self.schema, self.conditions = schema, conditions

    @property
    def stack(self) -> MixedStack:
        """The bijection."""
        found: Any = self.bijection
        return found

    @property
    def chunk(self) -> int:
        """How many rows to pass at once: as many as stay near the processor, with their parts."""
        return max(64, min(super().chunk, 2**19 // max(1, self.stack.width)))

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """Log-probability of each row `(batch,)`, in nats; it takes no noise."""
        given = self._encode_context(self._check(x, context))
        return self.stack.log_prob(x, given)

    @checked
    def sample(
        self,
        n: Whole,
        context: Tensor | int | None = None,
        *,
        temperature: NonNegative = 1.0,
        generator: Generator | None = None,
    ) -> Tensor:
        """Draw n rows (see `Flow.sample`), column by column where the temperature is 1."""
        if temperature != 1:
            return super().sample(n, context, temperature=temperature, generator=generator)
        rows = self._check_context(n, repeat_context(context, n, self.device))
        return draw(self.stack, n, self._encode_context(rows), generator)

    def _reference(self) -> Tensor:
        return self.stack.marginals.log_w

    def as_context(self, conditions: Tensor) -> Tensor:
        """The context of conditions `(batch, columns)` in the form of x."""
        assert self.conditions is not None
        parts = []
        for column, values in zip(self.conditions.modelled, conditions.T, strict=True):
            if isinstance(column, CategoryColumn):
                known = torch.arange(column.count, device=values.device)
                parts.append((values[:, None] == known).to(values))
            else:
                parts.append(values[:, None])
        return torch.cat(parts, 1)

    def _encode_context(self, context: Tensor | None) -> Tensor | None:
        """The columns that are conditions, in the form of x."""
        if context is None:
            return None
        assert self.conditions is not None
        parts = []
        for variable, which in self.context.parts():
            values = context[:, which]
            if isinstance(variable, Category):
                known = values.sum(1, keepdim=True) > 0
                values = torch.where(known, values.argmax(1, keepdim=True).to(values), torch.nan)
            parts.append(values)
        return torch.cat(parts, 1)


def context_spec(conditions: Schema) -> ContextSpec:
    """The context of columns that are conditions."""
    variables: list[Number | Category] = []
    for column in conditions.modelled:
        if isinstance(column, CategoryColumn):
            values = [str(value) for value in column.values] + ["other"] * column.other
            variables.append(Category(column.name, tuple(values)))
        else:
            variables.append(Number(column.name))
    return ContextSpec(tuple(variables))

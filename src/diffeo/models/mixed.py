"""The model of tables of mixed columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from diffeo.context import repeat_context
from diffeo.data.tables.frames import decode
from diffeo.data.tables.mixed import as_conditions, as_context, context_spec
from diffeo.flow import Flow
from diffeo.mixed.members import Sizes
from diffeo.mixed.sampling import draw
from diffeo.mixed.stack import MixedStack
from diffeo.schema import Schema
from diffeo.utils.ranges import NonNegative, Whole, checked


class MixedFlow(Flow):
    """The density of a table of numbers, counts, dates, categories and empty cells.

        p(row) = sum_m w_m prod_i p_m(x_i | x_j before i)

    Members m are mixtures of normal distributions and masked networks (see `MixedStack`). Columns
    that others nearly determine are learned as such (see `rules`).
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
        self.schema = schema
        self.conditions = conditions

    @property
    def stack(self) -> MixedStack:
        """The bijection."""
        found: Any = self.bijection
        return found

    @property
    def rules(self) -> dict[str, list[str]]:
        """The columns that others nearly determine, each with the names of these others."""
        regressors, layout = self.stack.regressors, self.stack.layout
        if regressors is None:
            return {}
        pairs = zip(regressors.targets, regressors.inputs, strict=True)
        names = [column.name for column in layout.columns]
        return {names[layout.numbers[c]]: [names[i] for i in inputs] for c, inputs in pairs}

    @property
    def chunk(self) -> int:
        """How many rows to pass at once: as many as stay near the processor, with their parts."""
        return max(64, min(super().chunk, 2**19 // max(1, self.stack.width)))

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """Log-probability of each row `(batch,)`, in nats; it takes no noise."""
        given = self.as_conditions(self._check(x, context))
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
        return draw(self.stack, n, self.as_conditions(rows), generator)

    def _reference(self) -> Tensor:
        return self.stack.marginals.log_w

    def as_context(self, conditions: Tensor) -> Tensor:
        """The context of conditions `(batch, columns)` in the form of x."""
        assert self.conditions is not None
        return as_context(self.conditions, conditions)

    def impossible(self, x: Tensor) -> Tensor:
        """Which cells of rows `(batch, columns)` have no probability, `(batch, columns)`.

        Numbers out of range, places of no category, and empty cells of columns that have none.
        """
        stack = self.stack
        table = torch.cat((x.new_zeros(len(x), stack.conditions), x), 1)
        return stack.layout.impossible(stack.marginals, table)[:, stack.conditions :]

    def to_frame(self, x: Tensor, context: Tensor | None = None) -> Any:
        """Rows `(batch, columns)` as a pandas DataFrame: the values, types and decimals of a table.

        Columns of the context, if there is one, come last.
        """
        frame = decode(self.schema, x.numpy(force=True))
        if context is not None:
            assert self.conditions is not None
            given = self.as_conditions(context.to(x).expand(len(x), -1))
            assert given is not None
            conditions = decode(self.conditions, given.numpy(force=True))
            for name in conditions.columns:
                frame[name] = conditions[name]
        return frame

    def as_conditions(self, context: Tensor | None) -> Tensor | None:
        """The columns that are conditions, in the form of x: the inverse of `as_context`."""
        if context is None:
            return None
        assert self.conditions is not None
        return as_conditions(self.conditions, context)

    def _encode_context(self, context: Tensor | None) -> Tensor | None:
        return self.as_conditions(context)

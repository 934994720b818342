"""Change the context of events while their noise stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diffeo.context import Category, Context, ContextSpec
from diffeo.flow import Flow
from diffeo.latent.coding import decode, encode, repeat_row


@dataclass(frozen=True, eq=False)
class Conditions:
    """The range of each column of a context, and the step by which it is changed.

    Args:
        spec: the context, of m columns.
        low: the smallest value of each column.
        high: the largest.
        step: what strength 1 adds. For a column of two values it is their distance, for one of more
            values two standard deviations, which is the same for two equally likely values.
    """

    spec: ContextSpec
    low: Float[Tensor, " m"]
    high: Float[Tensor, " m"]
    step: Float[Tensor, " m"]

    @classmethod
    def of(cls, spec: ContextSpec, contexts: Float[Tensor, "n m"]) -> Conditions:
        """Measure the contexts of some events.

        Raises:
            ValueError: if there are no events.
        """
        if not len(contexts):
            raise ValueError("there are no events to learn conditions from: pass some.")
        low, high = contexts.amin(0), contexts.amax(0)
        two_valued = ((contexts == low) | (contexts == high)).all(0)
        deviation = contexts.double().std(0, correction=0).to(contexts.dtype)
        return cls(spec, low, high, torch.where(two_valued, high - low, 2 * deviation))

    def moved(self, context: Context, strengths: Mapping[str, float]) -> Context:
        """The context with more or less of some columns, `(n, m)`, clamped to their ranges.

            c' = clamp(c + strength * step, low, high)

        For a value of a category, NAME=VALUE, the step leads from the present value to that one: at
        strength 1 the event has that value, and an event that has it already does not change.

        Raises:
            ValueError: if a name is no column.
        """
        moved = context.clone()
        for name, strength in strengths.items():
            if name not in self.spec.columns:
                raise ValueError(
                    f"the model is not conditional on '{name}': choose from "
                    f"{', '.join(self.spec.columns)}."
                )
            for variable, part in self.spec.parts():
                if name not in variable.columns:
                    continue
                step = self.step[part].to(context)
                if isinstance(variable, Category):
                    step = -context[:, part]
                    step[:, variable.columns.index(name)] += 1.0
                moved[:, part] += strength * step
        return moved.clamp(self.low.to(context), self.high.to(context))


def recondition(
    flow: Flow,
    x: Shaped[Tensor, "n *shape"],
    context: Float[Tensor, "rows context_features"],
    other: Float[Tensor, "others context_features"],
) -> Shaped[Tensor, "n *shape"]:
    """Events as they would be under another context, `(n, *shape)`.

        x' = decode(encode(x; context); other)

    The noise, which holds everything that the context does not, stays the same. Under the same
    context the event comes back unchanged: an image bit for bit, in the bits that the flow models.
    Each context has one row for each event, or one row for all.

    Raises:
        ValueError: if a context does not fit the flow.
    """
    return decode(flow, encode(flow, x, context), repeat_row(other, len(x)))

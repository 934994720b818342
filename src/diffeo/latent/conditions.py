"""Another context for the same noise: how a conditional flow edits what it is conditional on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diffeo.context import Context
from diffeo.flow import Flow
from diffeo.latent.coding import decode, encode, spread


@dataclass(frozen=True, eq=False)
class Conditions:
    """How far each column of a context goes, and in what steps.

    Args:
        names: of the columns; those of one choice among classes are called NAME=CLASS.
        low: the smallest value of each `(m,)`.
        high: the largest `(m,)`.
        step: what strength 1 adds `(m,)`: for two values their distance, for a number of more
            values two standard deviations, which for two equally likely values is the same.
    """

    names: list[str]
    low: Float[Tensor, " m"]
    high: Float[Tensor, " m"]
    step: Float[Tensor, " m"]

    @classmethod
    def of(cls, names: list[str], contexts: Float[Tensor, "n m"]) -> Conditions:
        """Those of some events with contexts `(n, m)`.

        Raises:
            ValueError: if there are no events.
        """
        if not len(contexts):
            raise ValueError("there are no events to learn conditions from: pass some.")
        low, high = contexts.amin(0), contexts.amax(0)
        two_valued = ((contexts == low) | (contexts == high)).all(0)
        spread = 2 * contexts.double().std(0, correction=0).to(contexts.dtype)
        return cls(names, low, high, torch.where(two_valued, high - low, spread))

    def moved(self, context: Context, strengths: Mapping[str, float]) -> Context:
        """The context with more or less of some columns, `(n, m)`, never outside of their range.

            c' = clamp(c + strength * step, low, high)

        For a class, NAME=CLASS, the step leads from the class at hand to that one: at strength 1
        it is that class, and of a picture that is of it already nothing changes.

        Raises:
            ValueError: if a name is no column.
        """
        start, context = context, context.clone()
        for name, strength in strengths.items():
            if name not in self.names:
                raise ValueError(
                    f"the model is not conditional on '{name}': choose from "
                    f"{', '.join(self.names)}."
                )
            column = self.names.index(name)
            if "=" not in name:
                context[:, column] += strength * self.step[column].to(context)
                continue
            choice = name.partition("=")[0]
            group = [i for i, other in enumerate(self.names) if other.startswith(f"{choice}=")]
            target = torch.zeros_like(start)
            target[:, column] = 1.0
            context[:, group] += strength * (target - start)[:, group]
        return context.clamp(self.low.to(context), self.high.to(context))


def recondition(
    flow: Flow,
    x: Shaped[Tensor, "n *shape"],
    context: Float[Tensor, "rows context_features"],
    other: Float[Tensor, "others context_features"],
) -> Shaped[Tensor, "n *shape"]:
    """Events as they would be under another context, `(n, *shape)`.

        x' = decode(encode(x; context); other)

    The noise, which holds all that the context does not say, stays as it is. Under the same
    context the event comes back as it was, a picture bit for bit in the bits that the flow models.

    Args:
        flow: a conditional model.
        x: events `(n, *shape)`.
        context: theirs, `(n, context_features)` or one row.
        other: the one instead, likewise.

    Raises:
        ValueError: if a context does not fit the flow.
    """
    return decode(flow, encode(flow, x, context), spread(other, len(x)))

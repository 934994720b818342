"""How far a context can be changed, and by which steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffeo.context import Category, ContextSpec
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Finite, checked


@dataclass(frozen=True, eq=False)
class Conditions:
    """The range of each of m columns of a context, and the step that strength 1 adds: `(m,)`.

    For a column of two values the step is their distance, for one of more values two standard
    deviations, which is the same for two equally likely values.
    """

    spec: ContextSpec
    low: Tensor
    high: Tensor
    step: Tensor

    @classmethod
    def of(cls, spec: ContextSpec, contexts: Tensor) -> Conditions:
        """Measure the contexts `(n, m)` of some events: a ValueError if there are none."""
        if not len(contexts):
            raise ValueError("there are no events to learn conditions from: pass some.")
        low, high = contexts.amin(0), contexts.amax(0)
        two_valued = ((contexts == low) | (contexts == high)).all(0)
        wide = contexts.to(widest(contexts.device))
        deviation = wide.std(0, correction=0).to(contexts.dtype)
        return cls(spec, low, high, torch.where(two_valued, high - low, 2 * deviation))

    @checked
    def moved(self, context: Tensor, strengths: Mapping[str, Finite]) -> Tensor:
        """The context `(n, m)` with more or less of some columns, clamped to their ranges.

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

"""Between positive numbers and the real line: for the data end of a flow."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.chain import Inverse


class Log(Bijection):
    """From positive numbers, such as incomes or durations, to the real line.

        y = log x,   log|det dy/dx| = -sum(log x)

    A flow that begins with it draws positive numbers alone, and has the density 0 elsewhere.

    Raises:
        ValueError: by `initialize`, if a number is not positive.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = x.log()
        return y, -y.flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y.exp(), y.flatten(1).sum(1)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        few = x.flatten(1).amin(0) if len(x) else x.new_ones(1)
        if not (few > 0).all():
            first = int((~(few > 0)).nonzero()[0])
            raise ValueError(
                f"feature {first} has the value {float(few[first]):g}, which has no logarithm: "
                "shift it, or leave it out."
            )
        return self(x)[0]

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(), (2, 3), interval=(0.1, 5.0))


class Softplus(Bijection):
    """From the real line onto the positive numbers; `Inverse(Softplus())` is for positive data.

        y = log(1 + e^x),   log|det dy/dx| = -sum(log(1 + e^-x))

    It is e^x below 0 and x far above, so that tails of large values stay as they are, where `Log`
    would compress them.

    (Dugas et al. 2001)
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # `F.softplus` is x from 20 on, which float64 can tell from it.
        return -F.logsigmoid(-x), F.logsigmoid(x).flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_slope = (-torch.expm1(-y)).log()
        return y + log_slope, -log_slope.flatten(1).sum(1)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: Inverse(cls()), (2, 3), interval=(0.1, 5.0))

"""The network of what nothing conditions: learned constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffeo.utils.ranges import Count, Whole


class Constant(nn.Module):
    """The same learned parameters for each row: those of a map that nothing conditions.

    Args:
        inputs: number of inputs, which are ignored.
        outputs: number of parameters; they start at zero.
        hidden: ignored: there are no hidden layers.
        context_features: width of the context, which is ignored.
    """

    def __init__(
        self, inputs: Whole, outputs: Count, hidden: Any = (), context_features: Whole = 0
    ) -> None:
        super().__init__()
        self.value: nn.Parameter = nn.Parameter(torch.zeros(outputs))
        self.started: Tensor = nn.Buffer(torch.tensor(False))

    @torch.no_grad()
    def start(self, value: Tensor) -> None:
        """Set the parameters `(outputs,)`, once: a loaded or trained network has its own."""
        self.value.copy_(torch.where(self.started, self.value, value))
        self.started.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`(batch, outputs)` for x `(batch, inputs)`."""
        return self.value.expand(x.shape[0], -1)

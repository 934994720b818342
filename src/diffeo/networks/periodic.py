"""A network of angles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffeo.networks.mlp import MLP
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole


class Periodic(Configurable, nn.Module):
    """Another network, which sees the cosines and the sines of angles in place of them.

        out(x) = network([cos x, sin x], context)

    So its outputs have no jump where an angle comes round.

    Args:
        inputs: number of angles of x `(batch, inputs)`, in radians.
        outputs: number of outputs `(batch, outputs)`.
        hidden: of the network.
        context_features: width of the context `(batch, context_features)`; 0 for none.
        network: its class, which is made for twice as many inputs.
    """

    def __init__(
        self,
        inputs: Whole,
        outputs: Count,
        hidden: Any = (64, 64),
        context_features: Whole = 0,
        network: Callable[..., nn.Module] = MLP,
    ) -> None:
        super().__init__()
        self.network: nn.Module = network(2 * inputs, outputs, hidden, context_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs)` for angles x `(batch, inputs)`."""
        return self.network(torch.cat((x.cos(), x.sin()), dim=1), context)

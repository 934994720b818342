"""The masked multilayer perceptron (MADE), the network of autoregressive maps of tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.networks.mlp import Layers, start_at_zero
from diffeo.utils.ranges import Count, Whole


class MaskedLinear(nn.Linear):
    """A linear layer whose weight is multiplied by a mask of zeros and ones.

        out = (W * mask) x + b

    Args:
        mask: `(outputs, inputs)`; where it is all zeros, the layer has a bias alone.

    Hidden weights are drawn as N(0, 2 / fan_in), where fan_in counts the inputs that a unit sees.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        # Not saved: it follows from what the network is made with.
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)
        if not mask.any():
            self.weight: Tensor = None  # type: ignore[assignment]
            return
        seen = self.mask.sum(1, keepdim=True).clamp(min=1)
        with torch.no_grad():
            self.weight.normal_().mul_((2 / seen).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return self.bias.expand(x.shape[0], -1)
        return F.linear(x, self.weight * self.mask, self.bias)


class MaskedMLP(Layers):
    """A network whose outputs for a feature depend on the features before it, and on the context.

        out_i = g_i(x_j for all j before i, context)

    It has linear layers with ReLU between them, as `MLP`. Each hidden unit has a degree, which is
    how many features it may see, and passes on what it knows to units of its degree or more.

    Args:
        inputs: number of features D of x `(batch, D)`.
        outputs: number of outputs; a multiple of D, since each feature has as many. The first
            output of all features comes first, then the second, as a `Univariate` takes them.
        hidden: width of each hidden layer.
        context_features: width of the context `(batch, context_features)`, which all units see.
        order: the features, 0 to D - 1, from the first, which depends on the context alone, to the
            last, which no other depends on; by default as they are.

    The last layer starts at zero, so that a map starts as the identity.

    Raises:
        ValueError: if `outputs` is no multiple of D, or `order` is no permutation.

    (Germain et al. 2015)
    """

    kind: ClassVar[type[nn.Linear]] = MaskedLinear

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        hidden: Sequence[Count] = (64, 64),
        context_features: Whole = 0,
        order: Sequence[Whole] | None = None,
    ) -> None:
        super().__init__()
        if outputs % inputs:
            raise ValueError(
                f"outputs is {outputs}, which {inputs} features cannot share: choose a multiple."
            )
        degrees = _degrees(inputs, hidden, context_features, order)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(degrees):
            layers += [MaskedLinear(after[:, None] >= before), nn.ReLU()]
        ranks = degrees[0][:inputs].repeat(outputs // inputs)
        last = MaskedLinear(ranks[:, None] > degrees[-1])
        self.layers: nn.Sequential = nn.Sequential(*layers, start_at_zero(last))


def _degrees(
    features: int, hidden: Sequence[int], context_features: int, order: Sequence[int] | None
) -> list[Tensor]:
    """How many features each input, and each unit of each hidden layer, may know."""
    order = range(features) if order is None else order
    if sorted(order) != list(range(features)):
        raise ValueError(
            f"order {list(order)} is no permutation: give each of 0 .. {features - 1} once."
        )
    ranks = torch.tensor(order, device="cpu").argsort() + 1
    context = torch.zeros(context_features, dtype=ranks.dtype, device="cpu")
    inputs = torch.cat((ranks, context))
    low = 0 if context_features else 1
    if low == features:  # one feature, which depends on nothing
        return [inputs]
    # Spread evenly, from units that see the least.
    units = [torch.arange(width, device="cpu") * (features - low) // width for width in hidden]
    return [inputs, *(low + unit for unit in units)]

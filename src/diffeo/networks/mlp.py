"""The multilayer perceptron, the network of couplings of tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffeo.networks.fused import dtype_of
from diffeo.networks.mlp_fused import fused
from diffeo.utils.config import Configurable
from diffeo.utils.modules import is_plain
from diffeo.utils.ranges import Count, Whole


class Layers(Configurable, nn.Module):
    """Linear layers with ReLU between them, as one operation in training where nothing forbids it.

    Attributes:
        layers: them, set by the constructor of a class of this kind.
        kind: the class of the linear ones.
    """

    layers: nn.Sequential
    kind: ClassVar[type[nn.Linear]] = nn.Linear

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs)` for features x `(batch, inputs)`."""
        h = x if context is None else torch.cat((x, context), dim=1)
        if not torch.is_grad_enabled() or not self._is_standard(h):
            return self.layers(h)
        linears: list[Any] = list(self.layers)[::2]
        return fused(h, *(part for linear in linears for part in self._parts(linear)))

    @staticmethod
    def _parts(linear: Any) -> tuple[Tensor, Tensor]:
        """The weight that a linear layer multiplies by, and its bias."""
        return linear.weight, linear.bias

    def _is_standard(self, h: Tensor) -> bool:
        """Whether layers are of the constructor's kinds, unwatched, and in the precision of h."""
        layers: list[Any] = list(self.layers)  # whose slices are not modules of their own
        return (
            is_plain(self.layers, nn.Sequential)
            and len(layers) % 2 == 1
            and all(
                is_plain(linear, self.kind)
                and linear.weight is not None
                and linear.bias is not None
                for linear in layers[::2]
            )
            and all(is_plain(relu, nn.ReLU) for relu in layers[1::2])
            and dtype_of(h) == h.dtype
        )


class MLP(Layers):
    """Linear layers with ReLU between them, of the unchanged features and the context.

        h_0 = [x, context],   h_i = relu(W_i h_{i-1} + b_i),   out = W h_n + b

    Args:
        inputs: number of features of x `(batch, inputs)`.
        outputs: number of outputs `(batch, outputs)`.
        hidden: width of each hidden layer.
        context_features: width of the context `(batch, context_features)`; 0 for none.

    Hidden weights are drawn as N(0, 2 / fan_in), which keeps the size of a ReLU network's signal
    from layer to layer (He et al. 2015). The last layer starts at zero, so that a coupling starts
    as the identity, and flows of any depth begin from the same place.
    """

    def __init__(
        self,
        inputs: Whole,
        outputs: Count,
        hidden: Sequence[Count] = (64, 64),
        context_features: Whole = 0,
    ) -> None:
        super().__init__()
        widths = [inputs + context_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            linear = nn.Linear(before, after)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            layers += [linear, nn.ReLU()]
        self.layers = nn.Sequential(*layers, start_at_zero(nn.Linear(widths[-1], outputs)))


def start_at_zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """A layer whose output is zero before it has learned."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer

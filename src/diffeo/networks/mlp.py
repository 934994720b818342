"""The multilayer perceptron, the network of couplings of tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffeo.networks import mlp_blocks
from diffeo.networks.mlp_fused import fused, masked
from diffeo.utils.config import Configurable
from diffeo.utils.fused import dtype_of
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
        standard = self._standard(h)
        if standard is None:
            return self.layers(h)
        if mlp_blocks.takes(h, standard[1]):
            return mlp_blocks.by_blocks(h.t(), *masked(*standard)).t()
        return fused(standard[0], h, *standard[1])

    def _standard(self, h: Tensor) -> tuple[list[Tensor | None], list[Tensor]] | None:
        """The masks, and weights and biases in turn, if nothing forbids one operation.

        That is, if layers are of the constructor's kinds, unwatched, and in the precision of h.
        """
        if not is_plain(self.layers, nn.Sequential) or dtype_of(h) != h.dtype:
            return None
        masks: list[Tensor | None] = []
        parts: list[Tensor] = []
        kind: type[nn.Module] = self.kind
        for layer in self.layers._modules.values():
            if not is_plain(layer, kind):  # type: ignore[arg-type]
                return None
            if kind is nn.ReLU:
                kind = self.kind
                continue
            weight, bias = map(layer._parameters.get, ("weight", "bias"))
            if weight is None or bias is None:
                return None
            masks.append(layer._buffers.get("mask"))
            parts += weight, bias
            kind = nn.ReLU
        return (masks, parts) if kind is nn.ReLU else None


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
        self.layers: nn.Sequential = nn.Sequential(
            *layers, start_at_zero(nn.Linear(widths[-1], outputs))
        )


def start_at_zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """A layer whose output is zero before it has learned."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer

"""The multilayer perceptron that steers couplings of tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.backward import Gradients, ordinary, precision_of
from diffeo.bijections.base import Context
from diffeo.networks import products

Kept = tuple[list[Tensor], list[tuple[Tensor, Tensor]]]  # inputs; weights and biases


class MLP(nn.Module):
    """Linear layers with ReLU between them, fed with the kept features and the context.

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
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (64, 64),
        context_features: int = 0,
    ) -> None:
        super().__init__()
        widths = [inputs + context_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            linear = nn.Linear(before, after)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            layers += [linear, nn.ReLU()]
        last = nn.Linear(widths[-1], outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(
        self, x: Float[Tensor, "batch inputs"], context: Context | None = None
    ) -> Float[Tensor, "batch outputs"]:
        """The parameters `(batch, outputs)` for kept features x `(batch, inputs)`."""
        h = x if context is None else torch.cat((x, context), dim=1)
        if torch.is_grad_enabled() or not ordinary() or precision_of(x) != x.dtype:
            return self.layers(h)
        *hidden, (weight, bias) = self._linears()
        for layer in hidden:
            h = products.relu_of_linear(h, *layer)
        return products.linear(weight, bias, h.t()).t()

    def _linears(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer."""
        layers: Any = list(self.layers)
        return [(linear.weight, linear.bias) for linear in layers[::2]]

    # Backward, with batches laid feature by feature ---------------------------------------------

    def by_hand(self, given: torch.dtype, dtype: torch.dtype) -> bool:
        """Whether `run` and `back` are of use: a lower precision PyTorch computes as fast."""
        return given == dtype

    def run(self, x: Tensor, context: Context | None, dtype: torch.dtype) -> tuple[Tensor, Kept]:
        """What `forward` returns, without a graph, and what `back` needs (see `Coupling`)."""
        h = (x if context is None else torch.cat((x, context), dim=1)).t().contiguous()
        layers = self._linears()
        inputs: list[Tensor] = []
        for weight, bias in layers:
            inputs.append(h.relu_() if inputs else h)
            h = products.linear(weight, bias, h)
        return h.t(), (inputs, layers)

    def back(self, kept: Kept, context: Context | None, grad: Tensor, found: Gradients) -> Tensor:
        """The gradient of x; those of the weights and of the context go into `found`."""
        by_h = grad.t().contiguous()
        after: Tensor | None = None
        for h, (weight, bias) in reversed(list(zip(*kept, strict=True))):
            if after is not None:
                # ReLU's; in place, since nothing else holds it.
                torch.ops.aten.threshold_backward.grad_input(by_h, after, 0, grad_input=by_h)
            found.add(weight, products.by_weight(by_h, h))
            found.add(bias, by_h.sum(1))
            by_h = products.by_input(weight, by_h)
            after = h
        if context is None:
            return by_h.t()
        width = len(by_h) - context.shape[1]
        found.add(context, by_h[width:].t())
        return by_h[:width].t()

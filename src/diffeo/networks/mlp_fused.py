"""Linear layers with ReLU between them as one operation: ReLU and its gradient work in place."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeo.networks.fused import backward_of_relu, call, gradients_with_graph


def plain(h: Tensor, *layers: Tensor) -> Tensor:
    """Linear layers with ReLU between them; layers are weight and bias in turn."""
    for i in range(0, len(layers), 2):
        h = F.linear(h.relu() if i else h, layers[i], layers[i + 1])
    return h


def fused(h: Tensor, *layers: Tensor) -> Tensor:
    """`plain` in fewer passes over memory."""
    return call(_Fused, plain, h, *layers)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, *layers: Tensor) -> Tensor:
        inputs = []
        for i in range(0, len(layers), 2):
            inputs.append(h.relu_() if i else h)
            last = i == len(layers) - 2
            h = _product(h, layers[i].t(), wide=last).add_(layers[i + 1])
        ctx.save_for_backward(*inputs, *layers)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved = ctx.saved_tensors  # once: a checkpoint hands them out no second time
        count = len(saved) // 3
        inputs, layers = saved[:count], saved[count:]
        if torch.is_grad_enabled():
            return gradients_with_graph(ctx, plain, (inputs[0], *layers), grad)
        found: list[Tensor | None] = []
        for i in reversed(range(count)):
            found = [_product(grad.t(), inputs[i], grad.t()).contiguous(), grad.sum(0), *found]
            if i > 0:
                # As the input is in memory, or ReLU takes 20 times as long.
                grad = backward_of_relu(_product(grad, layers[2 * i], inputs[i]), inputs[i])
        return _product(grad, layers[0]) if ctx.needs_input_grad[0] else None, *found


def _product(a: Tensor, b: Tensor, like: Tensor | None = None, wide: bool = False) -> Tensor:
    """The matrix product; as (b' a')' where it is long and narrow, which libraries do slowly.

    If asked, also where it is wide: many parameters, as of splines, then come out feature by
    feature in memory, as their maps compute.
    """
    narrow = b.shape[1] < min(a.shape) or (wide and b.shape[1] > 2 * b.shape[0])
    if like is not None and like.is_contiguous():
        narrow = False
    return b.t().mm(a.t()).t() if narrow else a.mm(b)

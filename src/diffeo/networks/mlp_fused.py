"""Linear layers with ReLU between them as one operation: ReLU and its gradient work in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from diffeo.utils.fused import backward_of_relu, call, gradients_with_graph
from diffeo.utils.products import matmul

Masks: TypeAlias = Sequence[Tensor | None]  # what each weight is multiplied by, if by anything


def plain(masks: Masks, h: Tensor, *layers: Tensor) -> Tensor:
    """Linear layers with ReLU between them; layers are weight and bias in turn."""
    for i, weight in enumerate(_masked(masks, layers[::2])):
        h = _linear(h.relu_() if i else h, weight, layers[2 * i + 1], i == len(masks) - 1)
    return h


def fused(masks: Masks, h: Tensor, *layers: Tensor) -> Tensor:
    """`plain`, whose gradient takes fewer passes over memory."""
    if torch.is_grad_enabled():
        return call(_Fused, plain, masks, h, *layers)
    return plain(masks, h, *layers)  # which keeps nothing


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, masks: Masks, h: Tensor, *layers: Tensor) -> Tensor:
        inputs: list[Tensor] = []
        weights = _masked(masks, layers[::2])
        for weight, bias in zip(weights, layers[1::2], strict=True):
            inputs.append(h.relu_() if inputs else h)
            h = _linear(h, weight, bias, bias is layers[-1])
        ctx.masks = masks
        ctx.save_for_backward(*inputs, *weights, *layers)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        masks, saved = ctx.masks, ctx.saved_tensors  # once, as checkpoints demand
        count = len(masks)
        if torch.is_grad_enabled():
            tensors = saved[0], *saved[2 * count :]
            return None, *gradients_with_graph(ctx, partial(plain, masks), tensors, grad)
        found: list[Tensor | None] = []
        for i in reversed(range(count)):
            h, weight, mask, across = saved[i], saved[count + i], masks[i], grad.t()
            narrow = h.shape[1] < min(grad.shape)
            if narrow and not across.is_contiguous():
                product = matmul(h.t(), grad).t()
            else:
                product = matmul(across, h)
            product = product.contiguous() if mask is None else mask * product
            found = [product, grad.sum(0), *found]
            if i == 0 and not ctx.needs_input_grad[1]:
                return None, None, *found
            # As the input is in memory, or ReLU takes 20 times as long.
            as_h = not h.is_contiguous() or (i == 0 and narrow)
            grad = matmul(weight.t(), across).t() if as_h else matmul(grad, weight)
            if i > 0:
                grad = backward_of_relu(grad, h)
        return None, grad, *found


def _linear(h: Tensor, weight: Tensor, bias: Tensor, last: bool) -> Tensor:
    """`F.linear`, laid out in memory as it is fast.

    Many parameters, as of splines, come out feature by feature, as their maps compute; and so do
    few, since libraries are slow where a product is long and narrow.
    """
    outputs, width = weight.shape
    compiling = torch.compiler.is_compiling()
    if outputs < width or (last and outputs > 2 * width):
        left, right, across = weight, h.t(), bias[:, None]
    else:
        left, right, across = h, weight.t(), bias
        if width < outputs and compiling:
            # The gradient is long and narrow too, and lies in memory as what it is the gradient of.
            right = right.contiguous()
    if compiling:
        # The bias goes into one loop with what follows; `addmm` would copy it to all rows first. In
        # two dimensions the compiler makes an `addmm` of the sum.
        out = (left.mm(right)[None] + across)[0]
    else:
        out = matmul(left, right, across)
    return out if left is h else out.t()


def masked(masks: Masks, layers: Sequence[Tensor]) -> list[Tensor]:
    """Weights times their masks, and biases, in turn."""
    weights = _masked(masks, layers[::2])
    return [part for pair in zip(weights, layers[1::2], strict=True) for part in pair]


def _masked(masks: Masks, weights: Sequence[Tensor]) -> list[Tensor]:
    pairs = zip(weights, masks, strict=True)
    return [weight if mask is None else weight * mask for weight, mask in pairs]

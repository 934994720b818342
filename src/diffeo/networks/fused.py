"""What fused operations of networks share: when the plain form is used instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def call(
    function: type[torch.autograd.Function], plain: Callable[..., Tensor], *tensors: Tensor
) -> Tensor:
    """A fused operation, or its plain form for `torch.compile` and `torch.func`.

    These transform single operations only; `torch.func` says so by a RuntimeError.
    """
    if torch.compiler.is_compiling():
        return plain(*tensors)
    try:
        return function.apply(*tensors)
    except RuntimeError as error:
        if "functorch" not in str(error):
            raise
        return plain(*tensors)


def gradients_with_graph(
    ctx: Any, plain: Callable[..., Tensor], tensors: tuple[Tensor, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of tensors with a graph, for gradients of gradients."""
    needed = ctx.needs_input_grad
    out = plain(*tensors)
    inputs = [tensor for tensor, asked in zip(tensors, needed, strict=True) if asked]
    found = iter(torch.autograd.grad(out, inputs, grad.to(out.dtype), create_graph=True))
    return tuple(next(found) if asked else None for asked in needed)


def backward_of_relu(grad: Tensor, out: Tensor) -> Tensor:
    """The gradient before a ReLU from that after it, in place."""
    return torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad)


def dtype_of(x: Tensor) -> torch.dtype:
    """The dtype in which a network computes on x: that of autocast, where it is on."""
    kind = x.device.type
    lower = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lower else x.dtype

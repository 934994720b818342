"""What fused operations share: when the plain form is used instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Result = TypeVar("Result")


def call(
    function: type[torch.autograd.Function], plain: Callable[..., Result], *arguments: Any
) -> Result:
    """A fused operation, or its plain form for `torch.compile` and `torch.func`.

    These transform single operations only; `torch.func` says so by a RuntimeError.
    """
    if torch.compiler.is_compiling():
        return plain(*arguments)
    try:
        return cast(Result, function.apply(*arguments))
    except RuntimeError as error:
        if "functorch" not in str(error):
            raise
        return plain(*arguments)


def gradients_with_graph(
    ctx: Any, plain: Callable[..., Any], tensors: tuple[Tensor, ...], *grads: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of tensors, the last arguments, with a graph, for gradients of gradients."""
    needed = ctx.needs_input_grad[-len(tensors) :]
    outs = plain(*tensors)
    outs = outs if isinstance(outs, tuple) else (outs,)
    inputs = [tensor for tensor, asked in zip(tensors, needed, strict=True) if asked]
    grads = tuple(grad.to(out.dtype) for grad, out in zip(grads, outs, strict=True))
    found = iter(torch.autograd.grad(outs, inputs, grads, create_graph=True))
    return tuple(next(found) if asked else None for asked in needed)


def backward_of_relu(grad: Tensor, out: Tensor) -> Tensor:
    """The gradient before a ReLU from that after it, in place."""
    return torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad)


def dtype_of(x: Tensor) -> torch.dtype:
    """The dtype in which a network computes on x: that of autocast, where it is on."""
    kind = x.device.type
    lower = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lower else x.dtype

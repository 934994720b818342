"""Hand-written gradients: several operations of PyTorch as one, with their plain form beside.

A flow is made of many small operations, and each costs a call, a node in the graph of gradients and
a pass over memory. Where the gradient of a formula is known, one node does for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Outputs = Tensor | tuple[Tensor, ...]
Run = Callable[..., tuple[Outputs, Sequence[Tensor]]]
Gradients = Callable[..., tuple[Tensor | None, ...]]


def fused(plain: Callable[..., Outputs], run: Run, gradients: Gradients) -> Callable[..., Any]:
    """A function of tensors, and of other things after them, whose gradient is written by hand.

    Args:
        plain: `(*inputs) -> outputs`, in ordinary PyTorch. It is what is computed where no gradient
            is asked for, inside of `torch.func` and `torch.compile`, and for gradients of
            gradients.
        run: `(*inputs) -> (outputs, kept)`, the same outputs with the tensors that the gradient
            needs beside the inputs; called without gradients.
        gradients: `(inputs, kept, needed, *grads) -> gradient of each tensor among the inputs`,
            given which of them are needed and the gradients of the outputs.
    """

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            outputs, kept = run(*inputs)
            tensors = [value for value in inputs if isinstance(value, Tensor)]
            ctx.count, ctx.others = len(tensors), inputs[len(tensors) :]
            ctx.save_for_backward(*tensors, *kept)
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            saved = ctx.saved_tensors
            inputs = (*saved[: ctx.count], *ctx.others)
            needed = ctx.needs_input_grad
            if torch.is_grad_enabled():  # which it is where this gradient is to have one itself
                asked = [i for i, is_needed in enumerate(needed) if is_needed]
                outputs = plain(*inputs)
                found = torch.autograd.grad(
                    outputs, [inputs[i] for i in asked], grads, create_graph=True, allow_unused=True
                )
                by_input = dict(zip(asked, found, strict=True))
                return tuple(by_input.get(i) for i in range(len(inputs)))
            found = gradients(inputs, saved[ctx.count :], needed, *grads)
            return *found, *[None] * len(ctx.others)

    def call(*inputs: Any) -> Any:
        return Function.apply(*inputs) if wanted() else plain(*inputs)

    return call


def wanted() -> bool:
    """Whether a gradient written by hand is of use here."""
    return (
        torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
        and not torch.compiler.is_compiling()
    )

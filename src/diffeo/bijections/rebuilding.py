"""Memory that does not grow with depth: backward rebuilds what went in from what came out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffeo.bijections.base import Bijection


class _State(threading.local):
    rebuilding = False


_state = _State()


def rebuilding() -> bool:
    """Whether a backward pass evaluates a link again, which must leave no trace in it."""
    return _state.rebuilding


def through(
    links: Sequence[Bijection], x: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One link after another, `(y, log_det)`, of which only y is kept for the backward pass.

    That pass goes from y backwards: each link rebuilds its input from its output and finds its
    gradients on the way (`Bijection.rebuild`). It costs another evaluation of each link, as
    checkpoints would. Rounding errors of the inverses add up, so gradients are those of the stored
    activations to about the precision of the dtype. There are no gradients of gradients.

    (Gomez et al. 2017)
    """
    weights = [[p for p in link.parameters() if p.requires_grad] for link in links]
    y, log_det = _Through.apply(links, weights, x, context, *[p for each in weights for p in each])
    return y, log_det


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        links: Sequence[Bijection],
        weights: list[list[Tensor]],
        x: Tensor,
        context: Tensor | None,
        *all_weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.links, ctx.weights, ctx.notes = links, weights, []
        log_det = x.new_zeros(x.shape[0])
        for link in links:
            x, step = link(x, context)
            log_det = log_det + step
            ctx.notes.append(link.note())
        ctx.save_for_backward(x, context)
        ctx.versions = [p._version for p in all_weights]
        kind = x.device.type
        ctx.autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        ctx.dtype = torch.get_autocast_dtype(kind) if ctx.autocast else None
        return x, log_det

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> Any:
        y, context = ctx.saved_tensors
        if ctx.versions != [p._version for each in ctx.weights for p in each]:
            raise RuntimeError(
                "weights were changed between the forward and the backward pass of a chain with "
                "constant memory: call backward first."
            )
        by_context = None
        if context is not None and ctx.needs_input_grad[3]:
            context = context.detach().requires_grad_()
        found: list[Sequence[Tensor | None]] = []
        with _again(), torch.autocast(y.device.type, ctx.dtype, enabled=ctx.autocast):
            for link, weights, note in zip(
                reversed(ctx.links), reversed(ctx.weights), reversed(ctx.notes), strict=True
            ):
                link.recall(note)
                asked = weights
                if context is not None and context.requires_grad:
                    asked = [*weights, context]
                y, grad, grads = link.rebuild(y, context, grad, grad_log_det, asked)
                if len(asked) > len(weights):
                    *grads, last = grads
                    if last is not None:
                        by_context = last if by_context is None else by_context + last
                found.append(grads)
        by_weights = [gradient for grads in reversed(found) for gradient in grads]
        return None, None, grad, by_context, *by_weights


@contextmanager
def _again() -> Iterator[None]:
    _state.rebuilding = True
    try:
        yield
    finally:
        _state.rebuilding = False


def gradients(
    outputs: Sequence[Tensor], grads: Sequence[Tensor], asked: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients of what is asked for, given those of the outputs, some of which have none."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
    if not pairs or not asked:
        return (None,) * len(asked)
    ours, theirs = zip(*pairs, strict=True)
    return torch.autograd.grad(ours, asked, theirs, allow_unused=True)

"""Training in memory that does not grow with depth: inputs are recomputed from outputs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from diffeo.bijections.base import Bijection
from diffeo.utils.machine import forked_random, random_states

Memory = Literal["stored", "constant"]
# A part of so many links stores its output. With more, rounding errors of the inverses would add
# up for longer, and distributed training would wait longer for gradients to exchange.
LINKS = 16


class _State(threading.local):
    replaying = False


_state = _State()


def is_replaying() -> bool:
    """Whether a backward pass evaluates a link again: running averages must not count it twice."""
    return _state.replaying


@contextmanager
def _replaying() -> Iterator[None]:
    _state.replaying = True
    try:
        yield
    finally:
        _state.replaying = False


def in_constant_memory(
    links: Sequence[Bijection], x: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One link after another, of which only some outputs are stored: `(y, log_det)`.

    The backward pass starts from the output and recomputes the input of each link with `replay`.
    That costs one more evaluation of each link, as checkpoints would. Gradients equal those of
    stored activations up to the rounding errors of the inverses; gradients of gradients do not
    exist. (Gomez et al. 2017)
    """
    log_det = x.new_zeros(x.shape[0])
    for start in range(0, len(links), LINKS):
        part = links[start : start + LINKS]
        x, step = _Replayed.apply(part, x, context, *_parameters(part))
        log_det = log_det + step
    return x, log_det


def checkpointed(link: Bijection, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """A link whose inverse is not cheap: its input is stored, and `forward` is computed again."""
    return checkpoint(
        link, x, context, use_reentrant=False, context_fn=lambda: (nullcontext(), _replaying())
    )


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, links: Sequence[Bijection], x: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.links, ctx.modes = links, [link.training for link in links]
        ctx.autocast = _autocast(x)
        ctx.random_states = []
        log_det = x.new_zeros(x.shape[0])
        for link in links:
            ctx.random_states.append(random_states(x.device))
            x, step = link(x, context)
            log_det = log_det + step
        # The parameters too: autograd then notices if they change before the backward pass.
        ctx.save_for_backward(x, context, *parameters)
        return x, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> Any:
        y, context, *parameters = ctx.saved_tensors
        _check(ctx, parameters)
        if context is not None:
            context = context.detach().requires_grad_(context.requires_grad)
        # Gradients lie side by side: each in a place of its own, they would leave holes of memory
        # among the activations that are freed.
        places = dict(zip(parameters, _side_by_side(parameters), strict=True))
        found: dict[Tensor, Tensor] = {}
        for link, states in zip(reversed(ctx.links), reversed(ctx.random_states), strict=True):
            with (
                torch.enable_grad(),
                _replaying(),
                torch.autocast(**ctx.autocast),
                forked_random(y.device, states),  # for networks with dropout
            ):
                x, y_again, log_det = link.replay(y, context)
            inputs = [x, *_parameters([link])]
            if context is not None and context.requires_grad:
                inputs.append(context)
            outputs = [(y_again, grad), (log_det, grad_log_det)]
            outputs = [pair for pair in outputs if pair[0].requires_grad]
            grads = torch.autograd.grad(
                [output for output, _ in outputs],
                inputs,
                [grad for _, grad in outputs],
                allow_unused=True,
            )
            y, grad = x.detach(), grads[0]
            for tensor, gradient in zip(inputs[1:], grads[1:], strict=True):
                if gradient is None:
                    continue
                if tensor in found:
                    gradient = found[tensor] + gradient
                elif tensor in places:
                    gradient = places[tensor].copy_(gradient)
                found[tensor] = gradient
        by_context = None if context is None else found.get(context)
        return None, grad, by_context, *[found.get(parameter) for parameter in parameters]


def _side_by_side(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Empty tensors like these; in one block of memory, if all have one dtype and device."""
    if len({(tensor.dtype, tensor.device) for tensor in tensors}) != 1:
        return [torch.empty_like(tensor) for tensor in tensors]
    sizes = [tensor.numel() for tensor in tensors]
    block = tensors[0].new_empty(sum(sizes))
    return [part.view(t.shape) for part, t in zip(block.split(sizes), tensors, strict=True)]


def _parameters(links: Sequence[Bijection]) -> list[Tensor]:
    """The parameters that learn, each once."""
    every = (p for link in links for p in link.parameters() if p.requires_grad)
    return list(dict.fromkeys(every))


def _check(ctx: Any, parameters: list[Tensor]) -> None:
    """Refuse to evaluate links again that are no longer what they were in the forward pass."""
    if ctx.modes != [link.training for link in ctx.links]:
        raise RuntimeError(
            "a chain in constant memory is evaluated again in the backward pass, and was in "
            "another mode before: call backward before train() or eval()."
        )
    if list(map(id, _parameters(ctx.links))) != list(map(id, parameters)):
        raise RuntimeError(
            "a chain in constant memory is evaluated again in the backward pass, and has other "
            "weights there: where weights are replaced for a call, use memory='stored'."
        )


def _autocast(x: Tensor) -> dict[str, Any]:
    """The state of autocast, as its arguments."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return {"device_type": "cpu", "enabled": False}
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return {"device_type": kind, "dtype": dtype, "enabled": enabled}

"""Helpers for PyTorch's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """A module in eval mode and without gradients; afterwards each part's own mode is restored."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def in_chunks(
    function: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    context: Tensor | None,
    size: int,
    device: torch.device,
) -> Tensor:
    """`function(x, context)`, for so many events at a time, to bound the memory of activations.

    Of no events the function gets one empty chunk, so that it can refuse a wrong shape.
    """
    parts = []
    for start in range(0, max(1, len(x)), size):
        rows = slice(start, start + size)
        given = None if context is None else context[rows].to(device)
        parts.append(function(x[rows].to(device), given))
    return torch.cat(parts)

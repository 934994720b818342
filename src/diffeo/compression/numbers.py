"""Whole numbers by a distribution function, digit by digit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffeo.compression.coder import Coder

BASE = 4
BLUR = 1e-11  # a probability below which differences of a distribution function are rounding

# What lies below and above the lower ends of the cells of numbers (m,), in rows (m,).
Tails = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def code_numbers(
    coder: Coder, tails: Tails, n: int, low: int, high: int, numbers: Tensor | None = None
) -> Tensor:
    """Whole numbers `(n,)` from `low` to `high`, by what their distributions have in each interval.

    The interval of possible numbers is split into 4 parts, of which one is coded; that again, up
    to single numbers. Where a distribution function is too coarse to tell parts apart, they are
    equally likely.

    Args:
        coder: reads or writes.
        tails: of the n distributions. It is asked for numbers up to `high + 1`.
        n: how many.
        low: the smallest number that occurs.
        high: the largest, less than 2^62 above the smallest.
        numbers: those to write.
    """
    digits = 0
    while BASE**digits < high - low + 1:
        digits += 1
    start = torch.full((n,), low, dtype=torch.long)
    rows, places = torch.arange(n), torch.arange(1, BASE)
    ends = [torch.stack(tails(torch.full_like(start, end), rows)) for end in (low, high + 1)]
    first, last = ends
    for digit in reversed(range(digits)):
        size = BASE**digit
        # The parts beyond the largest number are empty.
        inner = start[:, None] + (size * places).clamp(max=high + 1 - low)
        inner = inner.clamp(max=high + 1)
        # Between ends that a distribution function cannot tell apart, all edges are alike.
        edges = first[..., None].expand(-1, -1, BASE + 1).clone()
        edges[..., -1] = last
        wide = (_masses(torch.stack((first, last), 2))[:, 0] > BLUR).nonzero()[:, 0]
        found = tails(inner[wide].flatten(), wide.repeat_interleave(BASE - 1))
        edges[:, wide, 1:-1] = torch.stack([part.view(-1, BASE - 1) for part in found])
        p = _masses(edges)
        possible = torch.cat((start[:, None], inner), 1) <= high
        p = torch.where(p.sum(1, keepdim=True) > BLUR, p, 1.0) * possible
        known = None if numbers is None else (numbers - start) // size
        symbol = coder.code(p, known)
        start = start + size * symbol
        first, last = (edges.gather(2, _at(symbol + more)).squeeze(2) for more in (0, 1))
    return start


def _at(place: Tensor) -> Tensor:
    return place.expand(2, -1)[..., None]


def _masses(edges: Tensor) -> Tensor:
    """What lies between neighbours of edges `(2, n, K + 1)`, from the smaller tail."""
    below, above = edges.diff(dim=2)
    lower = edges[0, :, 1:] < 0.5
    return torch.where(lower, below, -above).clamp(min=0)

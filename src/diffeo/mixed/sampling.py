"""Draw rows of a mixed table, column by column."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from diffeo.mixed.growing import Growing
from diffeo.mixed.members import MixedMembers
from diffeo.mixed.tools import Tools

CHUNK = 2**23  # numbers that are held at once, of the components of all rows


@torch.no_grad()
def draw(
    stack: MixedMembers,
    n: int,
    given: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Rows `(n, columns)` of the model, conditions apart, in float64.

    Each row comes from one member, which is drawn first; then a component and a score of each
    column. Their distribution is exactly that of the model.

    Args:
        stack: the model.
        n: how many.
        given: the columns that are conditions `(n, conditions)`, if there are any.
        generator: source of all randomness; torch's global one if none is given.
    """
    tools = Tools(stack)
    if n == 0:
        return torch.zeros(0, len(stack.layout.columns), dtype=torch.float64)[:, stack.conditions :]
    mine = torch.rand(n, generator=generator, dtype=torch.float64).argsort()
    parts, start = [], 0
    chunk = chunk_rows(stack)
    for member, count in enumerate(counts(stack.log_w, n, generator)):
        for begin in range(0, count, chunk):
            size = min(chunk, count - begin)
            which = mine[start + begin : start + begin + size]
            rows = Growing(tools, size, only=member)
            conditions = None if given is None else given[which.to(given.device)]
            parts.append(grow(rows, conditions, generator))
        start += count
    found = torch.cat(parts)
    return found[mine.argsort().to(found.device)][:, stack.conditions :]


def chunk_rows(stack: MixedMembers) -> int:
    """How many rows to grow at once."""
    width = stack.gaussians.mean[0].numel()
    if stack.networks is not None:
        width = max(width, 3 * stack.networks.enter.weight.shape[-1])
    return max(64, min(16_384, CHUNK // max(width, 1)))


def grow(rows: Growing, given: Tensor | None, generator: Generator | None) -> Tensor:
    """Draw all columns but the conditions, which are given."""
    stack = rows.stack
    while rows.at < len(stack.layout.columns):
        if rows.at < stack.conditions:
            assert given is not None
            rows.put(given[:, rows.column].to(rows.x))
        else:
            rows.put(rows.draw(generator))
    return rows.x


def counts(log_w: Tensor, n: int, generator: Generator | None) -> Sequence[int]:
    """How many of n rows each member makes, drawn at random."""
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    p = log_w.detach().double().cpu().softmax(0)
    index = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=len(p) - 1)
    found: list[int] = index.bincount(minlength=len(p)).tolist()
    return found

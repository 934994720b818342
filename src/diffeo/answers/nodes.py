"""The nodes of a distribution of numbers on the scale of scores, and what each stands for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffeo.mixed.columns import NEVER
from diffeo.mixed.inverse import ColumnInverse
from diffeo.mixed.parts import REACH
from diffeo.mixed.scores import Scores

NEAR = tuple(10.0**-k for k in range(9, 1, -1))  # scores, from a jump or an atom to nodes
MOST_ATOMS = 4  # that have nodes at both sides


def nodes_at_jumps(inverse: ColumnInverse) -> Tensor:
    """Scores at which a continuous column needs nodes of its own.

    Between two pieces its density jumps: nodes on both sides end what each of them stands for.
    Next to an atom it may grow without limit, as the density of one marginal by the score of
    another does.
    """
    column = inverse.marginals
    ends = inverse.scores(inverse.ends).point
    atoms = column.values[0][column.values[0] < NEVER][:MOST_ATOMS]
    if inverse.grid or not len(atoms):
        return torch.cat((ends - NEAR[0], ends + NEAR[0]))
    near, scores = torch.tensor(NEAR, dtype=ends.dtype, device=ends.device), inverse.scores(atoms)
    outer = (scores.low[:, None] - near, scores.high[:, None] + near)
    return torch.cat((ends - NEAR[0], ends + NEAR[0], *(part.flatten() for part in outer)))


def edges(y: Tensor, scores: Scores, cell: Tensor) -> Tensor:
    """The ends of what each node stands for `(n, nodes + 1)`, on the scale of scores."""
    before, after = ((y[:, i + 1] - y[:, i])[:, None] / 2 for i in (0, -2))
    middle = (y[:, 1:] + y[:, :-1]) / 2
    left, right = scores.high[:, :-1], scores.low[:, 1:]
    same = right < left - 1e-9
    between = middle.maximum(left.where(cell[:, :-1], middle))
    between = between.minimum(right.where(cell[:, 1:], between)).maximum(
        left.where(cell[:, :-1], between)
    )
    inner = torch.where(same, middle, between)
    first = torch.where(cell[:, :1], scores.low[:, :1], y[:, :1] - before)
    last = torch.where(cell[:, -1:], scores.high[:, -1:], y[:, -1:] + after)
    return torch.cat((first, inner, last), 1)


def interval(y: Tensor, log_mass: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Where all but a part in 1e11 of the probability is, a node more on both sides."""
    share = log_mass - log_mass.logsumexp(1, keepdim=True)
    used = share > math.log(1e-11)
    low = torch.where(used, y, math.inf).amin(1) - step
    high = torch.where(used, y, -math.inf).amax(1) + step
    return low.clamp(min=-REACH), high.clamp(max=REACH)

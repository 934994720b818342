"""Piecewise constant densities on [0, 1] that have pieces only where the data ask for them."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

DEPTH = 14  # of the trees: no piece is narrower than 2**-14
SHIFTS = 4  # of the halves, over which densities are averaged
GOLDEN = 0.381966  # of a circle, which spreads any number of places well
FOLDS = 5  # each of which pieces of the others are tried on
SAME = 0.01  # difference of log-densities up to which neighbours are one piece


def fit_pieces(u: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the pieces of a density `(pieces + 1,)`, and the probability below each.

    The mean of `tree_density` over a few shifts of [0, 1] on a circle, so that no place is
    preferred where halves meet.

    Args:
        u: in [0, 1] `(n,)`.
        weights: how often each counts `(n,)`.
    """
    density = _density(u, weights)
    level = (density.log() / SAME).round()
    first = torch.cat((torch.zeros(1, dtype=torch.long), level.diff().nonzero()[:, 0] + 1))
    ends = torch.cat((first / len(density), torch.ones(1))).to(u.dtype)
    below = torch.cat((torch.zeros_like(u[:1]), (density / density.sum()).cumsum(0)))
    return ends, torch.cat((below[first], torch.ones_like(u[:1])))


def pieces_gained(u: Tensor) -> Tensor:
    """The log-density of each value under the pieces of all, less that under those of others.

    Others are four fifths of the values, by their places.
    """
    fold, place = torch.arange(len(u)) % FOLDS, _place(u)
    ones = torch.ones_like(u)
    gained = _density(u, ones).log()[place]
    for k in range(FOLDS):
        own = fold == k
        gained[own] -= _density(u[~own], ones[~own]).log()[place[own]]
    return gained


def _place(u: Tensor) -> Tensor:
    return (u * 2**DEPTH).long().clamp(0, 2**DEPTH - 1)


def _density(u: Tensor, weights: Tensor) -> Tensor:
    # A value that repeats has more weight; it does not count as several that gather.
    values, which = u.unique(return_inverse=True)
    weights = torch.zeros_like(values).index_add_(0, which, weights)
    cells, place = 2**DEPTH, _place(values)
    density = torch.zeros(cells, dtype=u.dtype)
    both = torch.stack((weights, weights.square()))
    for number in range(SHIFTS):
        shift = round(cells * (number * GOLDEN % 1))
        sums = both.new_zeros(2, cells).index_add_(1, (place + shift) % cells, both)
        density = density + tree_density(*sums).roll(-shift) / SHIFTS
    return density


def tree_density(weights: Tensor, squares: Tensor) -> Tensor:
    """The expected density of each of 2**d cells of [0, 1], given the values that are in each.

    An interval is uniform, or two halves that are intervals themselves, each with probability 1/2;
    the share of the left half has the distribution Beta(1/2, 1/2). The evidence E for an interval,
    over that for a uniform density, with a and b values in its halves, is

        E = 1/2 + 1/2 B(a + 1/2, b + 1/2) / B(1/2, 1/2) 2^(a + b) E(left) E(right)

    (Wong & Ma 2010). Of values with weights w, the halves of an interval count by the weights in
    them times sum(w) / sum(w^2), so that the whole has its effective number of values.

    Args:
        weights: their sum in each cell `(2**d,)`.
        squares: the sum of their squares.
    """
    sums, half = [torch.stack((weights, squares))], math.log(0.5)
    while sums[-1].shape[1] > 1:
        sums.append(sums[-1].view(2, -1, 2).sum(2))
    evidence, splits, counts = torch.zeros_like(weights), [], []
    for (parts, _), (total, square) in pairwise(sums):  # from the narrowest up
        scale = total / square.clamp(min=1e-300)
        parts, whole = parts.view(-1, 2) * scale[:, None] + 0.5, total * scale
        counts.append(parts)
        shares = torch.lgamma(parts).sum(1) - torch.lgamma(whole + 1) - math.log(math.pi)
        split = half + shares + whole * math.log(2) + evidence.view(-1, 2).sum(1)
        evidence = torch.logaddexp(split, torch.full_like(split, half))
        splits.append((split - evidence).exp())
    # The density of what is uniform so far, and that of what is divided further times its share.
    uniform, divided = torch.zeros_like(weights[:1]), torch.ones_like(weights[:1])
    for parts, split in zip(counts[::-1], splits[::-1], strict=True):
        uniform = (uniform + divided * (1 - split)).repeat_interleave(2)
        shares = 2 * parts / parts.sum(1, keepdim=True)
        divided = ((divided * split)[:, None] * shares).flatten()
    return uniform + divided

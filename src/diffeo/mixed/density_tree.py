"""Piecewise constant densities on [0, 1] that have pieces only where the data ask for them."""

from __future__ import annotations

import math

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
    cells, place = 2**DEPTH, _place(u)
    density = torch.zeros(cells, dtype=u.dtype)
    for number in range(SHIFTS):
        shift = round(cells * (number * GOLDEN % 1))
        counts = torch.zeros_like(density).index_add_(0, (place + shift) % cells, weights)
        density = density + tree_density(counts).roll(-shift) / SHIFTS
    return density


def tree_density(counts: Tensor) -> Tensor:
    """The expected density of each of 2**d cells of [0, 1], given how many values are in each.

    An interval is uniform, or two halves that are intervals themselves, each with probability 1/2;
    the share of the left half has the distribution Beta(1/2, 1/2). The evidence E for an interval,
    over that for a uniform density, with counts a and b of its halves, is

        E = 1/2 + 1/2 B(a + 1/2, b + 1/2) / B(1/2, 1/2) 2^(a + b) E(left) E(right)

    so that a smooth density, as it is before there are data, costs log 2. (Wong & Ma 2010)
    """
    sums, half = [counts], math.log(0.5)
    while len(sums[-1]) > 1:
        sums.append(sums[-1].view(-1, 2).sum(1))
    evidence, splits = torch.zeros_like(counts), []
    for parts, whole in zip(sums, sums[1:], strict=False):  # from the narrowest up
        parts = parts.view(-1, 2) + 0.5
        shares = torch.lgamma(parts).sum(1) - torch.lgamma(whole + 1) - math.log(math.pi)
        split = half + shares + whole * math.log(2) + evidence.view(-1, 2).sum(1)
        evidence = torch.logaddexp(split, torch.full_like(split, half))
        splits.append((split - evidence).exp())
    # The density of what is uniform so far, and that of what is divided further times its share.
    uniform, divided = torch.zeros_like(counts[:1]), torch.ones_like(counts[:1])
    for parts, split in zip(sums[-2::-1], splits[::-1], strict=True):
        parts = parts.view(-1, 2) + 0.5
        uniform = (uniform + divided * (1 - split)).repeat_interleave(2)
        shares = 2 * parts / parts.sum(1, keepdim=True)
        divided = ((divided * split)[:, None] * shares).flatten()
    return uniform + divided

"""How good samples are, judged by features: their distance from data, fidelity and variety."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffeo.utils.ranges import Count, checked

NEIGHBOURS = 5  # k of balls
CHUNK = 1_024  # rows of a matrix of distances at once


@dataclass(frozen=True)
class Quality:
    """How a set of events compares with reference events.

    Args:
        frechet: see `frechet_distance`; 0 is best.
        precision: the share of events in a ball of the reference: how many are realistic.
        recall: the share of the reference in a ball of the events: how much of it they reach.
        density: in how many balls of the reference an event lies, on average, divided by k; a
            single odd reference event, which has a large ball, counts less than in precision.
        coverage: the share of reference events whose own ball holds an event; a single odd event
            adds nothing to it.
    """

    frechet: float
    precision: float
    recall: float
    density: float
    coverage: float

    @classmethod
    @checked
    def measure(cls, events: Tensor, reference: Tensor, k: Count = NEIGHBOURS) -> Quality:
        """Compare features of events `[n, features]` with those of as many reference events.

        The ball of an event reaches to the k-th nearest other event of its own set. All figures
        depend on n: compare only those of the same n, and with those of real events.

        Raises:
            ValueError: if there are not as many of both, or not more than k.

        (Kynkäänniemi et al. 2019; Naeem et al. 2020)
        """
        if events.shape != reference.shape or len(events) <= k:
            raise ValueError(
                f"{len(events):,} events are compared with {len(reference):,}: pass as many of "
                f"both, and more than {k}."
            )
        own, other = _radii(events, k), _radii(reference, k)
        precise = counted = 0
        recalled, covered = [], []
        for rows, distances in _distances(reference, events):
            recalled.append((distances <= own).any(1))
            covered.append((distances <= other[rows, None]).any(1))
        for _, distances in _distances(events, reference):
            inside = distances <= other
            precise += int(inside.any(1).sum())
            counted += int(inside.sum())
        return cls(
            frechet_distance(events, reference),
            precise / len(events),
            float(torch.cat(recalled).double().mean()),
            counted / (k * len(events)),
            float(torch.cat(covered).double().mean()),
        )


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The distance of normal densities fitted to features `[n, features]` and `[m, features]`.

        |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)),   A and B the covariances

    With the features of an Inception network it is called FID. It is not comparable with that for
    any others, and it falls with n and m.

    Raises:
        ValueError: if a set has fewer than two, or the numbers of features differ.

    (Dowson & Landau 1982; Heusel et al. 2017)
    """
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features of shape {tuple(a.shape)} cannot be compared with {tuple(b.shape)}: pass "
            "two sets, of at least two events each, with the same features."
        )
    a, b = a.cpu().double(), b.cpu().double()  # some devices have no float64
    first, second = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # The eigenvalues of A B, which is not symmetric, are those of A^(1/2) B A^(1/2).
    common = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return max(0.0, float(apart + first.trace() + second.trace() - 2 * common))


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Which rows of a, and their distances to all of b `[rows, len(b)]`, part by part."""
    for rows in torch.arange(len(a)).split(CHUNK):
        yield rows, torch.cdist(a[rows], b)


def _radii(x: Tensor, k: int) -> Tensor:
    """The distance of each row to its k-th nearest other row, `[n]`."""
    # The nearest row of all is the row itself.
    return torch.cat([part.kthvalue(k + 1, dim=1).values for _, part in _distances(x, x)])

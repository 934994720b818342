"""The mixture that a column of numbers has in each row, under all members of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffeo.bijections.quantiles import NOISE, Shape, log_ndtri
from diffeo.mixed.scores import (
    LOG_PROB,
    Scores,
    logistic_scores,
    logit_of_normal,
    normal_of_logit,
)

REACH = 7.5  # scores, beyond which there is no probability to speak of
AT_ONCE = 2**22  # numbers, of nodes and components


class Parts(NamedTuple):
    """The mixture that a column of numbers has in each row, under all members.

    Attributes:
        groups: of members, the noise that their components are of, whose scores they are a mixture
            of (0: of the marginals, 1: of the plain ones), and log-weights, means and log-scales
            `(n, components)`.
        gap: the probability of an empty cell `(n,)`.
        cells: whether values are cells of noise, and no points.
    """

    groups: list[tuple[Shape, int, Tensor, Tensor, Tensor]]
    gap: Tensor
    cells: bool

    def take(self, which: Tensor | slice) -> Parts:
        """Those of some of the rows."""
        groups = [(g[0], g[1], g[2][which], g[3][which], g[4][which]) for g in self.groups]
        return Parts(groups, self.gap[which], self.cells)

    def narrow(self, count: int) -> Tensor:
        """Normal scores `(n, nodes)` on and around the highest peaks of the first scale.

        Args:
            count: of the components that count, those of the largest weight over the scale.
        """
        offsets = torch.linspace(-3, 3, 13, dtype=torch.float64, device=self.gap.device).sinh() / 2
        found = []
        for shape, scale, log_w, mean, log_s in self.groups:
            if scale == 0:
                best = (log_w - log_s).topk(min(count, log_w.shape[1])).indices
                mean, width = mean.gather(1, best), log_s.gather(1, best).exp()
                y = (mean[..., None] + width[..., None] * offsets).flatten(1)
                found.append(normal_of_logit(y) if shape == "logistic" else y)
        return torch.cat(found, 1).clamp(-REACH, REACH)

    def weighted(self, w: Tensor) -> Parts:
        """One mixture for each n rows, of m times as many with weights `(n, m)`."""

        def flat(part: Tensor) -> Tensor:
            return part.unflatten(0, w.shape).flatten(1)

        more = w.log()[..., None]
        groups = [
            (shape, scale, (log_w.unflatten(0, w.shape) + more).flatten(1), flat(mean), flat(log_s))
            for shape, scale, log_w, mean, log_s in self.groups
        ]
        return Parts(groups, (self.gap.view_as(w) * w).sum(1), self.cells)

    def log_prob(self, scores: Sequence[Scores]) -> Tensor:
        """The log-probability of values `(n, nodes)`, by the column; those of empty cells apart.

        Args:
            scores: of the values on the scale of each of the marginals.
        """
        found = []
        for shape, scale, *mixture in self.groups:
            ends = logistic_scores(scores[scale]) if shape == "logistic" else scores[scale]
            wide, log_prob = Scores(*(part[..., None] for part in ends)), LOG_PROB[shape]
            step = max(1, AT_ONCE // max(1, ends.point.numel()))
            pieces = zip(*(part[:, None].split(step, -1) for part in mixture), strict=True)
            found += [(w + log_prob(wide, m, s, self.cells)).logsumexp(-1) for w, m, s in pieces]
        return torch.stack(found).logsumexp(0)

    def tails(self, scores: Sequence[Scores]) -> tuple[Tensor, Tensor]:
        """What lies below and above cells `(n,)`; empty cells are above.

        Args:
            scores: of the values on the scale of each of the marginals.
        """
        below, above = torch.zeros_like(self.gap), self.gap
        for shape, scale, log_w, mean, log_s in self.groups:
            low, high = scores[scale].low, scores[scale].high
            if shape == "logistic":
                low, high = logit_of_normal(low), logit_of_normal(high)
            rate, w, cdf = (-log_s).exp(), log_w.exp(), NOISE[shape].cdf
            below = below + (w * cdf((low[:, None] - mean) * rate)).sum(1)
            above = above + (w * cdf((mean - high[:, None]) * rate)).sum(1)
        return below, above

    def noise(self, scores: Sequence[Scores]) -> tuple[Tensor, Tensor, Tensor]:
        """Both ends and the middle of cells `(n,)` on the scale of the noise: low, point, high.

        Args:
            scores: of the values on the scale of each of the marginals.
        """
        below, above = self.tails(scores)
        mass = (1 - below - above).clamp(min=0)
        mass = torch.where(scores[0].high > scores[0].low, mass, 0.0)
        point = quantile(below + mass / 2, above + mass / 2)
        return quantile(below, above + mass), point, quantile(below + mass, above)


def quantile(lower: Tensor, upper: Tensor) -> Tensor:
    """Phi^-1 of a probability, from its smaller tail; at most 37 from 0."""
    small = torch.minimum(lower, upper)
    z = log_ndtri(small.clamp(min=1e-300, max=0.5).log())
    return torch.where(lower <= upper, z, -z)


def log_normal(z: Tensor) -> Tensor:
    """The log-density of normal noise."""
    return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

"""Values of columns on the scale of normal noise: a point, or the cell that a value stands for."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.special import log_ndtr

from diffeo.bijections.quantiles import log_ndtri

EDGE = 30.0  # scores beyond which a cell reaches as far as the noise does


class Scores(NamedTuple):
    """Where values lie on the scale of noise, each `(n, D)`.

    With F the distribution function of a column on its own, a value x is the cell
    [Phi^-1(F(x-)), Phi^-1(F(x))], or a point where F is continuous.

    Attributes:
        point: the middle of the cell, or the point; 0 where a cell of the table is empty.
        low: the lower end of the cell.
        high: the upper end, above the lower one for cells that are no points.
        log_width: the logarithm of the width, or of dy/dx at a point.
    """

    point: Tensor
    low: Tensor
    high: Tensor
    log_width: Tensor

    def to(self, dtype: torch.dtype) -> Scores:
        return Scores(*(part.to(dtype) for part in self))

    def columns(self, which: list[int] | slice) -> Scores:
        return Scores(*(part[:, which] for part in self))


def logistic_scores(scores: Scores) -> Scores:
    """Normal scores on the logistic scale: log Phi(y) - log Phi(-y)."""
    log_phi = -0.5 * scores.point.square() - 0.5 * math.log(2 * math.pi)
    slope = log_phi - log_ndtr(scores.point) - log_ndtr(-scores.point)
    low = logit_of_normal(scores.low.clamp(-38, 38))
    high = logit_of_normal(scores.high.clamp(-38, 38))
    wide = (scores.high > scores.low) & (high - low > 1e-6)
    log_width = torch.where(wide, (high - low).clamp(min=1e-300).log(), scores.log_width + slope)
    return Scores(logit_of_normal(scores.point), low, high, log_width)


def logit_of_normal(y: Tensor) -> Tensor:
    """The logistic quantile of what is below y, log Phi(y) - log Phi(-y)."""
    return log_ndtr(y) - log_ndtr(-y)


def normal_of_logit(t: Tensor) -> Tensor:
    """The normal score of a logistic one: the inverse of `logit_of_normal`."""
    y = log_ndtri(F.logsigmoid(-t.abs()).clamp(min=-700.0))
    return torch.where(t < 0, y, -y)


def normal_log_prob(scores: Scores, mean: Tensor, log_scale: Tensor, cells: bool = True) -> Tensor:
    """The log-probability of cells, and log-density of points, under normal components.

    Args:
        scores: with parts that broadcast to the components.
        mean: of each component.
        log_scale: logarithm of the standard deviation.
        cells: False if all are points.
    """
    rate = (-log_scale).exp()
    if not cells:
        v = (scores.point - mean) * rate
        return scores.log_width - log_scale - 0.5 * (v * v + math.log(2 * math.pi))
    a, b = _ends(scores, mean, rate)
    wide = b - a > 1e-2
    # By the density in the middle of a narrow cell, with the next term of the series.
    width = torch.where(wide, 0.0, b - a)
    v = torch.where(wide | (width <= 0), (scores.point - mean) * rate, (a + b) / 2)
    density = -0.5 * v * v - 0.5 * math.log(2 * math.pi) - log_scale + scores.log_width
    density = density + torch.log1p((width * width * (v * v - 1) / 24).clamp(-0.5, 0.5))
    # In the smaller tail, where the difference keeps its digits.
    flip = a + b > 0
    low, high = torch.where(flip, -b, a), torch.where(flip, -a, b)
    low, high = torch.where(wide, low, -1.0), torch.where(wide, high, 1.0)
    upper = log_ndtr(high)
    gap = (log_ndtr(low) - upper).clamp(max=-1e-12)
    return torch.where(wide, upper + torch.log1p(-gap.exp()), density)


def logistic_log_prob(
    scores: Scores, mean: Tensor, log_scale: Tensor, cells: bool = True
) -> Tensor:
    """As `normal_log_prob`, under logistic components.

    A cell of width w has (1 - exp(-w / s)) G(upper) G(-lower), without a difference.
    """
    rate, ratio = (-log_scale).exp(), scores.log_width - log_scale
    if not cells:
        v = (scores.point - mean) * rate
        return ratio + v + 2 * F.logsigmoid(-v)
    a, b = _ends(scores, mean, rate)
    cell = scores.high > scores.low
    width = torch.where(cell, (-torch.expm1(-ratio.clamp(-60.0, 5.0).exp())).log(), ratio)
    return width + F.logsigmoid(b) + F.logsigmoid(-a)


def _ends(scores: Scores, mean: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends in units of components; far out where there is no end."""
    a, b = (scores.low - mean) * rate, (scores.high - mean) * rate
    return torch.where(scores.low < -EDGE, -1e3, a), torch.where(scores.high > EDGE, 1e3, b)


LOG_PROB = {"normal": normal_log_prob, "logistic": logistic_log_prob}

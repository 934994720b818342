"""Whole numbers: the exact probability of the cell in which a value lies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeo.bijections.mixture_cdf import MixtureCDF
from diffeo.bijections.quantiles import NOISE
from diffeo.bijections.univariate import Univariate
from diffeo.utils.ranges import Count, Finite, Positive, Range

Integer = Annotated[int, Range()]


class CellCDF(MixtureCDF):
    """The distribution function of whole numbers, a bijection by where in its cell a value lies.

        k = floor(x),   u = x - k,   P_k = F(k + 1) - F(k)
        y = logit(F(k) + u P_k),   log dy/dx = log P_k - log g(y)

    where F is a mixture of logistic distributions and g the density of logistic noise. With the
    base `Logistic` the log-density of x is log P_k wherever u lies: the exact probability of k, so
    that dequantization loses nothing. A component narrower than a cell is an atom, a value with a
    mass of its own. Beyond `low` and `high` log dy/dx is -inf, since there are no values: the cells
    at the ends have the probability that the mixture has there.

    Parameters of an element: those of a `MixtureCDF`, in units of `scale` around `place`. The
    inverse finds the cell by that of the mixture, and u from it. Cells between likely ones do not
    come back if their probability is below the rounding of y.

    Args:
        components: their number K; an element has 3 K parameters.
        low: the smallest value, or None.
        high: the largest value, or None.
        place: where the mixture lies at the start.
        scale: how wide it is then, in cells.

    Raises:
        ValueError: if low is above high.

    (Salimans et al. 2017)
    """

    def __init__(
        self,
        components: Count = 5,
        low: Integer | None = None,
        high: Integer | None = None,
        place: Finite = 0.0,
        scale: Positive = 1.0,
    ) -> None:
        super().__init__(components, "logistic")
        if low is not None and high is not None and low > high:
            raise ValueError(f"low is {low} and high is {high}: choose a low that is not above.")
        self.low: float | Integer = -math.inf if low is None else low
        self.high: float | Integer = math.inf if high is None else high
        self.place = place
        self.unit = scale

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        k = x.detach().floor().clamp(self.low, self.high)
        y, log_slope = self._cell(x, k, *self._mixture(x, parameters))
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_w, mean, log_s = self._mixture(y, parameters)
        with torch.no_grad():
            x, _ = super().inverse(y.detach(), parameters.detach())
            k = x.floor().clamp(self.low, self.high)
            for _ in range(2):  # where rounding has put x into a cell next to its own
                (below, under), (above, over) = self._ends(k, log_w, mean, log_s)
                k = k + (y >= above - over).to(y.dtype) - (y < below - under).to(y.dtype)
                k = k.clamp(self.low, self.high)
        (below, under), (above, over) = self._ends(k, log_w, mean, log_s)
        # From the smaller tail: the share of the cell below y, or above it.
        from_low = _share(F.logsigmoid(y), below, above)
        from_high = 1 - _share(F.logsigmoid(-y), over, under)
        u = torch.where(y < 0, from_low, from_high)
        x = k + u.clamp(0.0, 1 - torch.finfo(y.dtype).eps)
        return x, -self._cell(x, k, log_w, mean, log_s)[1].flatten(1).sum(1)

    def fit(self, x: Tensor) -> Tensor:
        return super().fit((x - self.place) / self.unit)

    def _mixture(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_w, mean, log_s = super()._mixture(x, parameters)
        return log_w, self.place + self.unit * mean, log_s + math.log(self.unit)

    def _ends(
        self, k: Tensor, log_w: Tensor, mean: Tensor, log_s: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The logarithms of F and of 1 - F at both ends of cells k."""
        ends = []
        # F is 0 at the lower end of all cells, and 1 at the upper one.
        for edge, end, at_end in (
            (k, self.low, (-math.inf, 0.0)),
            (k + 1, self.high + 1, (0.0, -math.inf)),
        ):
            v = (edge - mean) * (-log_s).exp()
            lower = (log_w + F.logsigmoid(v)).logsumexp(0)
            upper = (log_w + F.logsigmoid(-v)).logsumexp(0)
            known = edge == end
            ends.append(
                (torch.where(known, at_end[0], lower), torch.where(known, at_end[1], upper))
            )
        return ends[0], ends[1]

    def _cell(
        self, x: Tensor, k: Tensor, log_w: Tensor, mean: Tensor, log_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The y of each element of x, in cells k, and log dy/dx."""
        eps = torch.finfo(x.dtype).eps
        u = (x - k).clamp(eps, 1 - eps)
        (below, under), (above, over) = self._ends(k, log_w, mean, log_s)
        log_p = torch.logaddexp(below + torch.log1p(-u), above + u.log())
        log_q = torch.logaddexp(under + torch.log1p(-u), over + u.log())
        noise = NOISE["logistic"]
        y = torch.where(log_p < log_q, noise.quantile(log_p), -noise.quantile(log_q))
        # A component has (1 - exp(-1 / s)) G(upper) G(-lower) in a cell, without a difference.
        rate = (-log_s).exp()
        upper = F.logsigmoid((k + 1 - mean) * rate)
        lower = F.logsigmoid((mean - k) * rate)
        width = (-torch.expm1(-rate)).log()
        at_low, at_high = k == self.low, k == self.high
        width = torch.where(at_low | at_high, 0.0, width)
        upper, lower = torch.where(at_high, 0.0, upper), torch.where(at_low, 0.0, lower)
        log_probability = (log_w + width + upper + lower).logsumexp(0)
        exists = (x >= self.low) & (x < self.high + 1)
        log_probability = torch.where(exists, log_probability, -math.inf)
        return y, log_probability - F.logsigmoid(y) - F.logsigmoid(-y)

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(3), cls(2, place=1.0, scale=2.0)


def _share(log_p: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The share (p - a) / (b - a) of an interval, of logarithms of p, a and b."""
    ratio = (low - high).exp()
    return ((log_p - high).exp() - ratio) / (1 - ratio).clamp(min=torch.finfo(low.dtype).tiny)

"""A map of heavy tails to normal ones, for the data end of a flow."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.quantiles import HALF, NOISE, log_ndtri
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Count

LIGHTEST, HEAVIEST = 1e-3, 4.0  # tail weights lambda; moments below the order 1 / lambda exist
TAIL = 0.05  # share of the rows at each end by which a tail is estimated
NORMAL_MEDIAN = math.sqrt(2 / math.pi)  # slope of the map at 0, for the scale


class TailTransform(Bijection):
    """Turn the power-law tails of each column into those of a normal distribution.

        u = (x - m) / s,   y = sign(u) Phi^-1(1 - (1 + a |u|)^(-1/a) / 2)

    with a tail weight a > 0 for each side of each column: P(|x| > t) falls like t^(-1/a), so that a
    Student-t distribution with v degrees of freedom has a = 1 / v. The inverse, of noise, is
    x = m + s sign(y) ((2 Phi(-|y|))^(-a) - 1) / a. A flow of bounded slopes cannot make heavy tails
    of normal ones, and this map at its data end can.

    Args:
        features: D of the input `(batch, D)`.

    `initialize` sets median and scale by quartiles, and the weights by Hill's estimate from the
    outermost twentieth of the rows at each end. All are trained afterwards.

    Raises:
        ValueError: by `initialize`, if a column is constant in its middle half.

    (Hickling & Prangle 2024, equation 4; Hill 1975)
    """

    def __init__(self, features: Count) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.raw_weights = nn.Parameter(torch.full((2, features), math.log(0.1)))
        self.initialized = nn.Buffer(torch.tensor(False))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u = (x - self.place) * (-self.log_scale).exp()
        upper = u > 0
        a = self._weights(upper)
        size = torch.where(upper, u, -u)
        log_p = -torch.log1p(a * size) / a  # of 2 Phi(-|y|)
        z = log_ndtri(log_p + HALF)  # minus |y|
        # dy/du = (1 + a |u|)^(-1/a - 1) / (2 phi(y)), by the hazard of the normal tail.
        log_slope = -torch.log1p(a * size) - NOISE["normal"].log_cdf_and_hazard(z)[1]
        return torch.where(upper, -z, z), (log_slope - self.log_scale).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        upper = y > 0
        a = self._weights(upper)
        log_cdf, log_hazard = NOISE["normal"].log_cdf_and_hazard(torch.where(upper, -y, y))
        log_p = log_cdf - HALF
        size = torch.expm1(-a * log_p) / a
        x = self.place + self.log_scale.exp() * torch.where(upper, size, -size)
        return x, (log_hazard - a * log_p + self.log_scale).sum(1)

    def _weights(self, upper: Tensor) -> Tensor:
        lower_weight, upper_weight = self.raw_weights.exp().clamp(LIGHTEST, HEAVIEST)
        return torch.where(upper, upper_weight, lower_weight)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            wide = x.to(widest(x.device))
            at = torch.tensor([0.25, 0.5, 0.75], dtype=wide.dtype, device=wide.device)
            low, middle, high = _quantiles(wide, at)
            if not (low < high).all():
                flat = int((low >= high).nonzero()[0])
                raise ValueError(f"feature {flat} is constant in its middle half: leave it out.")
            # Of a normal column the middle half is as wide in x as in y.
            scale = (high - low) / (2 * 0.6744897502) * NORMAL_MEDIAN
            u = (wide - middle) / scale
            self.place.copy_(middle)
            self.log_scale.copy_(scale.log())
            for side, tail in enumerate((-u, u)):
                self.raw_weights[side].copy_(hill(tail).clamp(0.01, 2.0).log())
            self.initialized.fill_(True)
        return self(x)[0]

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,))


def hill(u: Tensor) -> Tensor:
    """Hill's estimate of the tail weight of each column of u `(n, d)`, from its largest values.

    mean of log(u_i / u_k) over the values u_i above the threshold u_k
    """
    k = max(2, min(len(u) - 1, round(TAIL * len(u))))
    top = u.topk(k + 1, dim=0).values.clamp(min=1e-3)
    return (top[:-1] / top[-1]).log().mean(0)


def _quantiles(x: Tensor, at: Tensor) -> Tensor:
    """Quantiles `(len(at), d)` of columns `(n, d)` of any length."""
    places = (at * (len(x) - 1)).round().long()
    return x.sort(dim=0).values[places]

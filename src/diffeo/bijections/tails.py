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
TAIL = 0.02  # share of the rows at each end by which a tail is estimated


class TailTransform(Bijection):
    """Turn the power-law tails of each column into those of a normal distribution.

        u = (x - m) / s,   y = sign(u) Phi^-1(1 - (1 + a |u|)^(-1/a) / 2)

    with a tail weight a > 0 for each side of each column: P(|x| > t) falls like t^(-1/a), so that a
    Student-t distribution with v degrees of freedom has a = 1 / v. The inverse, of noise, is
    x = m + s sign(y) ((2 Phi(-|y|))^(-a) - 1) / a. A flow of bounded slopes cannot make heavy tails
    of normal ones, and this map at its data end can.

    Args:
        features: D of the input `(batch, D)`.

    `initialize` sets m to the median, the weights by Hill's estimate from the outermost fiftieth of
    the rows at each end, and s so that the map is right where they begin; the body is left to the
    maps behind it. All are trained afterwards.

    Raises:
        ValueError: by `initialize`, if a column has no values on one side of its median.

    (Hickling & Prangle 2024; Hill 1975)
    """

    def __init__(self, features: Count) -> None:
        super().__init__()
        self.place: nn.Parameter = nn.Parameter(torch.zeros(features))
        self.log_scale: nn.Parameter = nn.Parameter(torch.zeros(features))
        self.raw_weights: nn.Parameter = nn.Parameter(torch.full((2, features), math.log(0.1)))
        self.initialized: Tensor = nn.Buffer(torch.tensor(False))

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
            middle = wide.median(0).values
            k = tail_size(len(x))
            scales = []
            for side, sign in enumerate((-1, 1)):
                top = (sign * (wide - middle)).topk(k + 1, dim=0).values
                if not (top[-1] > 0).all():
                    flat = int((top[-1] <= 0).nonzero()[0])
                    raise ValueError(f"feature {flat} has no tail on one side: leave it out.")
                weight = hill(top).clamp(0.01, 2.0)
                self.raw_weights[side].copy_(weight.log())
                # The map has the share k / n of noise where k rows are.
                reach = torch.expm1(-weight * math.log(2 * k / len(x))) / weight
                scales.append((top[-1] / reach).log())
            self.place.copy_(middle)
            self.log_scale.copy_(torch.stack(scales).mean(0))
            self.initialized.fill_(True)
        return self(x)[0]

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,))


def tail_size(rows: int) -> int:
    """How many rows, of so many, are the tail of one side."""
    return max(1, min(max(10, round(TAIL * rows)), rows // 3))


def hill(top: Tensor) -> Tensor:
    """Hill's estimate of the tail weight of columns, from their largest values `(k + 1, d)`.

    mean of log(u_i / u_k) over the values u_i above the least of them, u_k
    """
    return (top[:-1] / top[-1]).log().mean(0)

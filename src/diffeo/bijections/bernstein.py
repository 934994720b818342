"""A monotone polynomial: a smooth univariate map of any degree."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeo.bijections.roots import invert
from diffeo.bijections.univariate import Univariate
from diffeo.utils.ranges import Count, Positive, Proportion


class Bernstein(Univariate):
    """An increasing polynomial of Bernstein's form on [-bound, bound], and its tangents outside.

        y = sum_j c_j B_j(t),   t = (x + bound) / (2 bound),   B_j(t) = C(M, j) t^j (1 - t)^(M - j)

    with coefficients c_0 < c_1 < ... < c_M, so that y increases. It has derivatives of every order
    where splines have one. Computed by de Casteljau's scheme, which is stable; inverted by Newton's
    method in a bracket, with the gradients of the implicit function.

    Parameters of an element: c_0, as a change, and the M steps c_j+1 - c_j before a softplus.
    Parameters of zero are the identity.

    Args:
        degree: M; an element has M + 1 parameters.
        bound: where the polynomial ends.
        min_slope: smallest step, in units of that of the identity.

    (Hothorn et al. 2018; Ramasinghe et al. 2021)
    """

    cheap_inverse = False

    def __init__(
        self, degree: Count = 12, bound: Positive = 5.0, min_slope: Proportion = 1e-3
    ) -> None:
        super().__init__()
        self.degree = degree
        self.bound: float = float(bound)
        self.min_slope = min_slope
        self.parameters_each: int = degree + 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        y, log_slope = self._polynomial(x, self._coefficients(x, parameters))
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        coefficients = self._coefficients(y, parameters)

        def polynomial(x: Tensor) -> tuple[Tensor, Tensor]:
            return self._polynomial(x, coefficients)

        with torch.no_grad():
            end = torch.full_like(y, self.bound)
            (bottom, low_slope), (top, high_slope) = polynomial(-end), polynomial(end)
            low = (y - bottom).clamp(max=0) * (-low_slope).exp() - self.bound
            high = (y - top).clamp(min=0) * (-high_slope).exp() + self.bound
            # A little wider: beyond the ends the bracket is a point, but for rounding.
            low, high = low - 1e-3 * (1 + low.abs()), high + 1e-3 * (1 + high.abs())
        x = invert(polynomial, y, low, high, y.detach())
        return x, -polynomial(x)[1].flatten(1).sum(1)

    def _coefficients(self, x: Tensor, parameters: Tensor) -> Tensor:
        """The increasing coefficients `(M + 1, *x.shape)`."""
        raw = parameters.unflatten(1, (self.parameters_each, x.shape[1])).movedim(1, 0)
        # A softplus of 0 with this offset is a slope of 1.
        offset = math.log(math.expm1(1 - self.min_slope))
        steps = self.min_slope + F.softplus(raw[1:] + offset)
        first = raw[:1] - self.bound
        return torch.cat((first, first + steps.cumsum(0) * (2 * self.bound / self.degree)))

    def _polynomial(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The y of each element of x, and log dy/dx."""
        inside = x.clamp(-self.bound, self.bound)
        t = (inside + self.bound) / (2 * self.bound)
        for _ in range(self.degree - 1):
            c = c[:-1] + (c[1:] - c[:-1]) * t
        step = c[1] - c[0]
        slope = step * (self.degree / (2 * self.bound))
        return c[0] + step * t + slope * (x - inside), slope.log()

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(4, 2.0), cls(1)

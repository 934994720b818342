"""A spline on the circle, for angles and other periodic values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor

from diffeo.bijections.spline import RationalQuadraticSpline
from diffeo.bijections.univariate import Univariate
from diffeo.utils.ranges import Positive, Proportion, Range


class CircularSpline(RationalQuadraticSpline):
    """A rational-quadratic spline of the circle [-bound, bound) onto itself, and a rotation.

        y = wrap(spline(wrap(x)) + r)

    The two ends are one point, where the derivative is learned as at every other knot. Parameters
    of an element: those of the spline, K of them derivatives, and the rotation r in units of the
    bound. With the base `Uniform(bound)` the density is one on the circle: angles in radians have
    bound pi.

    Args:
        bins: number of pieces K; an element has 3 K + 1 parameters.
        bound: half of the period.
        min_width: smallest share of the circle that a bin has, in x and in y.
        min_derivative: smallest derivative at a knot.

    (Rezende et al. 2020)
    """

    def __init__(
        self,
        bins: Annotated[int, Range(2)] = 8,
        bound: Positive = math.pi,
        min_width: Proportion = 1e-3,
        min_derivative: Proportion = 1e-3,
    ) -> None:
        super().__init__(bins, bound, min_width, min_derivative)
        self.parameters_each = 3 * bins + 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        spline, rotation = self._parts(x, parameters)
        y, log_det = super().forward(self._wrap(x), spline)
        return self._wrap(y + rotation), log_det

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        spline, rotation = self._parts(y, parameters)
        return super().inverse(self._wrap(y - rotation), spline)

    def _parts(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of the spline, and the rotations `(batch, n, *rest)`."""
        n = x.shape[1]
        return parameters[:, :-n], self.bound * torch.tanh(parameters[:, -n:])

    def _wrap(self, x: Tensor) -> Tensor:
        return torch.remainder(x + self.bound, 2 * self.bound) - self.bound

    def _inside(self, given: Tensor) -> Tensor:
        return torch.ones_like(given, dtype=torch.bool)

    def _derivatives(self, slopes: Tensor, k: Tensor) -> Tensor:
        """Those at both knots of bins k: the last knot is the first."""
        return self._positive(slopes.gather(0, torch.cat((k, (k + 1) % self.bins))))

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        # So wide that the inputs of the tests are on the circle.
        return cls(bins=4, bound=30.0), cls(bins=2, bound=50.0)

"""Maps of the circle, for angles and other periodic values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.spline import RationalQuadraticSpline
from diffeo.bijections.univariate import Univariate
from diffeo.utils.ranges import Count, Positive, Proportion, Range
from diffeo.utils.statistics import check_spread


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
        self.parameters_each: int = 3 * bins + 1

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
        return wrap(x, -self.bound, 2 * self.bound)

    def inside(self, given: Tensor) -> Tensor:
        """Where elements are mapped: everywhere."""
        return torch.ones_like(given, dtype=torch.bool)

    def rows(self, k: Tensor) -> Tensor:
        """The rows of derivatives at both knots of bins k: the last knot is the first."""
        return torch.stack((k, (k + 1) % self.bins)) + 2 * self.bins

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        # So wide that the inputs of the tests are on the circle.
        return cls(bins=4, bound=30.0), cls(bins=2, bound=50.0)


class ToCircle(Bijection):
    """Bring periodic values to the circle of radians, [-pi, pi).

        y = wrap(2 pi x / period),   log|det dy/dx| = features log(2 pi / period)

    Values that differ by whole periods are one point, of one density. The inverse returns the one
    in [-period / 2, period / 2), or in [0, period) where the data of `initialize` lie there.

    Args:
        features: D of the input `(batch, D)`.
        period: 2 pi for radians, 360 for degrees, 24 for hours of a day.

    Raises:
        ValueError: by `initialize`, if a feature is constant or reaches beyond one period on
            either side of 0, as degrees do that are taken for radians.
    """

    def __init__(self, features: Count, period: Positive = 2 * math.pi) -> None:
        super().__init__()
        self.period: float = float(period)
        self.start: Tensor = nn.Buffer(torch.full((features,), -0.5))  # in periods
        self.initialized: Tensor = nn.Buffer(torch.tensor(False))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        radians = x * (2 * math.pi / self.period)
        return wrap(radians, -math.pi, 2 * math.pi), self._log_det(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = wrap(y * (self.period / (2 * math.pi)), self.start * self.period, self.period)
        return x, -self._log_det(y)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            check_spread(x)
            reach = x.abs().amax(0)
            beyond = (reach > 1.01 * self.period).nonzero()
            if len(beyond):
                feature = int(beyond[0])
                raise ValueError(
                    f"feature {feature} reaches {float(reach[feature]):g}, which is more than one "
                    f"period of {self.period:g} from 0: choose its period, such as 360 for degrees."
                )
            from_zero = (x.amin(0) >= 0) & (reach > self.period / 2)
            self.start.copy_(torch.where(from_zero, 0.0, -0.5))
            self.initialized.fill_(True)
        return self(x)[0]

    def _log_det(self, x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), math.log(2 * math.pi / self.period) * x.shape[1])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3, 24.0), (3,), "constant", interval=(-11.0, 11.0))


def wrap(x: Tensor, low: Tensor | float, period: float) -> Tensor:
    """The same point of the circle in [low, low + period)."""
    high = low + period
    turned = torch.remainder(x - low, period) + low
    # Rounding may end at the other end. Inside, x keeps all of its digits.
    turned = torch.where(turned < high, turned, turned - period)
    return torch.where((x >= low) & (x < high), x, turned)

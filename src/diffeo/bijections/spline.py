"""The rational-quadratic spline: a flexible univariate map with a closed-form inverse."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeo.bijections.univariate import Univariate
from diffeo.utils.ranges import Positive, Proportion, Range


class RationalQuadraticSpline(Univariate):
    """Monotone pieces of rational-quadratic functions on [-bound, bound], the identity outside.

    With knots (x_k, y_k), derivatives d_k, slopes s_k = (y_k+1 - y_k) / (x_k+1 - x_k) and the
    position t = (x - x_k) / (x_k+1 - x_k) within a bin:

        y = y_k + (y_k+1 - y_k) (s t^2 + d_k t (1 - t)) / (s + (d_k+1 + d_k - 2 s) t (1 - t))
        dy/dx = s^2 (d_k+1 t^2 + 2 s t (1 - t) + d_k (1 - t)^2) / (s + (...) t (1 - t))^2

    Parameters of an element: the widths and the heights of the bins, before a softmax, and the
    derivatives at the inner knots, before a softplus. At the ends the derivative is 1, that of the
    linear tails. Parameters of zero are the identity.

    Args:
        bins: number of pieces K; an element has 3 K - 1 parameters.
        bound: where the spline ends.
        min_width: smallest share of the interval that a bin has, in x and in y.
        min_derivative: smallest derivative at a knot.

    Raises:
        ValueError: if the bins do not fit into the interval.

    (Durkan et al. 2019, section 3.1)
    """

    def __init__(
        self,
        bins: Annotated[int, Range(2)] = 8,
        bound: Positive = 5.0,
        min_width: Proportion = 1e-3,
        min_derivative: Proportion = 1e-3,
    ) -> None:
        super().__init__()
        if min_width * bins >= 1:
            raise ValueError(
                f"min_width is {min_width} and {bins} bins of it do not fit into 1: choose one "
                f"below {1 / bins:g}."
            )
        self.bins = bins
        self.bound = float(bound)
        self.min_width = min_width
        self.min_derivative = min_derivative
        self.parameters_each = 3 * bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        widths, heights, derivatives = self._knots(x, parameters)
        inside = x.abs() < self.bound
        clamped = x.clamp(-self.bound, self.bound)
        x0, w, y0, h, d0, d1 = self._bin(clamped, widths, widths, heights, derivatives)
        s, t = h / w, ((clamped - x0) / w).clamp(0, 1)
        y = y0 + h * (s * t * t + d0 * t * (1 - t)) / (s + (d1 + d0 - 2 * s) * t * (1 - t))
        log_slope = _log_slope(s, t, d0, d1)
        y, log_slope = torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        widths, heights, derivatives = self._knots(y, parameters)
        inside = y.abs() < self.bound
        clamped = y.clamp(-self.bound, self.bound)
        x0, w, y0, h, d0, d1 = self._bin(clamped, heights, widths, heights, derivatives)
        s, v = h / w, (clamped - y0).clamp(min=0).minimum(h)
        # The root in [0, 1] of a t^2 + b t + c = 0, in the form without cancellation.
        e = v * (d1 + d0 - 2 * s)
        a, b, c = h * (s - d0) + e, h * d0 - e, -s * v
        root = (b * b - 4 * a * c).clamp(min=0).sqrt()
        t = (2 * c / (-b - root)).clamp(0, 1)
        log_slope = _log_slope(s, t, d0, d1)
        x = torch.where(inside, x0 + t * w, y)
        return x, -torch.where(inside, log_slope, 0.0).flatten(1).sum(1)

    def _knots(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions `(K + 1, *x.shape)` in x and in y, and derivatives of the same shape."""
        raw = parameters.unflatten(1, (self.parameters_each, x.shape[1])).movedim(1, 0)
        widths, heights, raw = raw.split([self.bins, self.bins, self.bins - 1])
        # A softplus of 0 with this offset is a derivative of 1.
        offset = math.log(math.expm1(1 - self.min_derivative))
        inner = self.min_derivative + F.softplus(raw + offset)
        one = torch.ones_like(x)[None]
        return self._edges(widths), self._edges(heights), torch.cat((one, inner, one))

    def _edges(self, raw: Tensor) -> Tensor:
        """The K + 1 edges from -bound to bound of K bins, `(K + 1, *rest)`."""
        shares = self.min_width + (1 - self.min_width * self.bins) * raw.softmax(0)
        inner = 2 * self.bound * shares[:-1].cumsum(0) - self.bound
        low = torch.full_like(inner[:1], -self.bound)
        return torch.cat((low, inner, -low))

    @staticmethod
    def _bin(
        value: Tensor, edges: Tensor, widths: Tensor, heights: Tensor, derivatives: Tensor
    ) -> list[Tensor]:
        """(x_k, width, y_k, height, d_k, d_k+1) of the bin in which a value lies among edges."""
        k = (value >= edges[1:-1]).sum(0, keepdim=True)
        (x0, x1), (y0, y1), (d0, d1) = (
            (part.gather(0, k)[0], part.gather(0, k + 1)[0])
            for part in (widths, heights, derivatives)
        )
        return [x0, x1 - x0, y0, y1 - y0, d0, d1]

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(bins=4, bound=2.0), cls(bins=2, bound=4.0)


def _log_slope(s: Tensor, t: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """The log of dy/dx at the position t of a bin."""
    numerator = d1 * t * t + 2 * s * t * (1 - t) + d0 * (1 - t) * (1 - t)
    return 2 * s.log() + numerator.log() - 2 * (s + (d1 + d0 - 2 * s) * t * (1 - t)).log()

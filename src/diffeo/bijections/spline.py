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
        given, raw = self._by_parameter(x, parameters)
        value = given.clamp(-self.bound, self.bound)
        x0, w, y0, h, d0, d1 = self._bin(value, raw, 0)
        s, t = h / w, ((value - x0) / w).clamp(0, 1)
        r, c = t * (1 - t), d1 + d0 - 2 * s
        y = y0 + h * (s * t * t + d0 * r) / torch.addcmul(s, c, r)
        y, log_slope = self._result(given, y, _log_slope(s, t, d0, d1, c))
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        given, raw = self._by_parameter(y, parameters)
        value = given.clamp(-self.bound, self.bound)
        x0, w, y0, h, d0, d1 = self._bin(value, raw, 1)
        s, v = h / w, (value - y0).clamp(min=0).minimum(h)
        # The root in [0, 1] of a t^2 + b t - s v = 0, in the form without cancellation.
        c = d1 + d0 - 2 * s
        e = v * c
        a, b = h * (s - d0) + e, h * d0 - e
        root = (b * b + 4 * a * s * v).clamp(min=0).sqrt()
        t = (2 * s * v / (b + root)).clamp(0, 1)
        x, log_slope = self._result(given, x0 + t * w, _log_slope(s, t, d0, d1, c))
        return x, -log_slope.flatten(1).sum(1)

    def _by_parameter(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """(x, raw), with one axis for the parameters of an element, the first.

        In between, a table is feature by feature in memory: all loops over rows are then long.
        """
        raw = parameters.unflatten(1, (-1, x.shape[1])).movedim(1, 0)
        if x.ndim == 2:
            return x.t().contiguous(), raw.mT.contiguous()
        return x, raw

    def _result(self, given: Tensor, inner: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        """What was mapped and its log slope inside; outside what was given, as it came."""
        inside = self._inside(given)
        both = torch.where(inside, inner, given), torch.where(inside, log_slope, 0.0)
        return both if given.ndim > 2 else (both[0].t(), both[1].t())

    def _inside(self, given: Tensor) -> Tensor:
        return given.abs() < self.bound

    def _bin(self, value: Tensor, raw: Tensor, axis: int) -> list[Tensor]:
        """(x_k, width, y_k, height, d_k, d_k+1) of the bin in which a value lies.

        Only what belongs to that bin is computed with a graph.

        Args:
            value: within the bounds.
            raw: `(parameters_each, *value.shape)`.
            axis: 0 if the value is an x, 1 if it is a y.
        """
        sizes, slopes = raw.tensor_split([2 * self.bins])
        shares = sizes.unflatten(0, (2, self.bins)).softmax(1)
        # A bin of share p is so wide.
        scale, least = 2 * self.bound * (1 - self.min_width * self.bins), 2 * self.bound
        least = least * self.min_width
        with torch.no_grad():
            edges = shares[axis, :-1].cumsum(0).mul_(scale)
            steps = torch.arange(1, self.bins, device=value.device, dtype=value.dtype)
            edges += (steps * least - self.bound).view(-1, *[1] * value.ndim)
            below = (value >= edges).to(value.dtype)
            count = below.sum(0)
            k = count.long()[None]
        low = (shares[:, :-1] * below).sum(1) * scale + (count * least - self.bound)
        size = shares.gather(1, k[None].expand(2, *k.shape))[:, 0] * scale + least
        d = self._derivatives(slopes, k)
        return [low[0], size[0], low[1], size[1], d[0], d[1]]

    def _derivatives(self, slopes: Tensor, k: Tensor) -> Tensor:
        """Those at both knots `(2, *rest)` of bins k `(1, *rest)`: 1 at the ends of all."""
        last = self.bins - 1
        ends = torch.cat((k == 0, k == last))
        found = slopes.gather(0, torch.cat((k - 1, k)).clamp(0, last - 1))
        return torch.where(ends, 1.0, self._positive(found))

    def _positive(self, slopes: Tensor) -> Tensor:
        """Derivatives of raw ones; 0 stands for 1."""
        offset = math.log(math.expm1(1 - self.min_derivative))
        return self.min_derivative + F.softplus(slopes + offset)

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(bins=4, bound=2.0), cls(bins=2, bound=4.0)


def _log_slope(s: Tensor, t: Tensor, d0: Tensor, d1: Tensor, c: Tensor) -> Tensor:
    """The log of dy/dx at the position t of a bin, with c = d0 + d1 - 2 s."""
    u = 1 - t
    r = t * u
    # All terms are positive: there is no cancellation.
    numerator = d1 * t * t + 2 * s * r + d0 * u * u
    return numerator.log() + 2 * (s / torch.addcmul(s, c, r)).log()

"""The rational-quadratic spline: a flexible univariate map with a closed-form inverse."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeo.bijections.spline_fused import Fused
from diffeo.bijections.univariate import Univariate
from diffeo.utils.fused import call
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
        self.bound: float = float(bound)
        self.min_width = min_width
        self.min_derivative = min_derivative
        self.parameters_each: int = 3 * bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        given, raw = self._by_parameter(x, parameters)
        y, log_slope = call(Fused, RationalQuadraticSpline.plain, self, given, raw)
        return _as_given(x, y), _as_given(x, log_slope).flatten(1).sum(1)

    def plain(self, given: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(y, log dy/dx) of given elements, with parameters along the first axis of raw."""
        value = given.clamp(-self.bound, self.bound)
        x0, w, y0, h, d0, d1 = self._bin(value, raw, 0)
        share, log_slope = _pieces(h / w, ((value - x0) / w).clamp(0, 1), d0, d1)
        inside = self.inside(given)
        y = torch.where(inside, torch.addcmul(y0, h, share), given)
        return y, torch.where(inside, log_slope, 0.0)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        given, raw = self._by_parameter(y, parameters)
        value = given.clamp(-self.bound, self.bound)
        x0, w, y0, h, d0, d1 = self._bin(value, raw, 1)
        s, v = h / w, (value - y0).clamp(min=0).minimum(h)
        # The root in [0, 1] of a t^2 + b t - s v = 0, in the form without cancellation.
        e = v * (d1 + d0 - 2 * s)
        a, b = h * (s - d0) + e, h * d0 - e
        root = (b * b + 4 * a * s * v).clamp(min=0).sqrt()
        t = (2 * s * v / (b + root)).clamp(0, 1)
        inside = self.inside(given)
        x = torch.where(inside, torch.addcmul(x0, t, w), given)
        log_slope = torch.where(inside, _pieces(s, t, d0, d1)[1], 0.0)
        return _as_given(y, x), -_as_given(y, log_slope).flatten(1).sum(1)

    def _by_parameter(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """(x, raw), with one axis for the parameters of an element, the first.

        In between, a table is feature by feature in memory: all loops over rows are then long.
        """
        raw = parameters.unflatten(1, (-1, x.shape[1])).movedim(1, 0)
        if x.ndim == 2:
            return x.t().contiguous(), raw.mT.contiguous()
        return x, raw

    def inside(self, given: Tensor) -> Tensor:
        """Where elements are mapped; the others stay as they are."""
        return given.abs() < self.bound

    def shares(self, raw: Tensor) -> Tensor:
        """The share of the interval that each bin has, in x and in y: `(2, bins, *rest)`."""
        return raw[: 2 * self.bins].unflatten(0, (2, self.bins)).softmax(1)

    @property
    def scale(self) -> tuple[float, float]:
        """(a, b) of the size a p + b of a bin of share p."""
        least = 2 * self.bound * self.min_width
        return 2 * self.bound - least * self.bins, least

    def edges(self, shares: Tensor) -> Tensor:
        """Where bins after the first begin `(bins - 1, *rest)`, from the shares of one axis."""
        (scale, least), last = self.scale, self.bins - 1
        ends = least - self.bound, last * least - self.bound
        starts = torch.linspace(*ends, last, device=shares.device, dtype=shares.dtype)
        starts = starts.view(-1, *[1] * (shares.ndim - 1))
        return torch.add(starts, shares[:-1].cumsum(0), alpha=scale)

    def _bin(self, value: Tensor, raw: Tensor, axis: int) -> list[Tensor]:
        """(x_k, width, y_k, height, d_k, d_k+1) of the bin in which a value lies.

        Only what belongs to that bin is computed with a graph.

        Args:
            value: within the bounds.
            raw: `(parameters_each, *value.shape)`.
            axis: 0 if the value is an x, 1 if it is a y.
        """
        shares = self.shares(raw)
        below = (self.edges(shares[axis].detach()) <= value).to(value.dtype)
        k = below.sum(0)
        scale, least = self.scale
        low = torch.add(k * least - self.bound, (shares[:, :-1] * below).sum(1), alpha=scale)
        size = shares.gather(1, k.long().expand(2, 1, *k.shape))[:, 0] * scale + least
        d = self.derivatives(raw, self.rows(k.long()))
        return [low[0], size[0], low[1], size[1], d[0], d[1]]

    def rows(self, k: Tensor) -> Tensor:
        """The rows of raw parameters with the derivatives at both knots of bins k `(2, *rest)`.

        At the ends of all bins they are the rows before and after those of derivatives.
        """
        return torch.stack((k - 1, k)) + 2 * self.bins

    def derivatives(self, raw: Tensor, rows: Tensor) -> Tensor:
        """Those of such rows: 1 at the ends."""
        found = rows.clamp(2 * self.bins, len(raw) - 1)
        offset = math.log(math.expm1(1 - self.min_derivative))
        d = self.min_derivative + F.softplus(raw.gather(0, found) + offset)  # raw 0 stands for 1
        return torch.where(found == rows, d, 1.0)

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(bins=4, bound=2.0), cls(bins=2, bound=4.0)


def _pieces(s: Tensor, t: Tensor, d0: Tensor, d1: Tensor) -> tuple[Tensor, Tensor]:
    """((y - y_k) / (y_k+1 - y_k), log dy/dx) at the position t of a bin.

    As mixtures of positive numbers, without cancellation: with a = (1 - t) d0 + t s,
    b = (1 - t) s + t d1 and n = t a + (1 - t) b they are t a / n, and
    log((1 - t) a + t b) + 2 log(s / n).
    """
    a, b = torch.lerp(d0, s, t), torch.lerp(s, d1, t)
    n = torch.lerp(b, a, t)
    return t * a / n, torch.lerp(a, b, t).log() + 2 * (s / n).log()


def _as_given(x: Tensor, result: Tensor) -> Tensor:
    """The result in the axes of x."""
    return result.t() if x.ndim == 2 else result

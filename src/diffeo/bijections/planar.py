"""Planar and radial maps: a stretch along one direction, or around one point."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.roots import invert
from diffeo.networks.mlp import MLP
from diffeo.utils.ranges import Count


class Amortized(Bijection):
    """A bijection with learned parameters, to which a network adds what it makes of the context.

    Args:
        start: the parameters before they have learned, `(parameters,)`.
        conditioner: network `(x of no features, context) -> (batch, parameters)`; None for none.
    """

    def __init__(self, start: Tensor, conditioner: nn.Module | None) -> None:
        super().__init__()
        self.start: nn.Parameter = nn.Parameter(start)
        self.conditioner = conditioner

    def _parameters_for(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The parameters `(batch or 1, parameters)`."""
        if self.conditioner is None:
            return self.start[None]
        return self.start + self.conditioner(x[:, :0], context)


class Planar(Amortized):
    """Stretch or squeeze along a direction, at a plane.

        y = x + v tanh(w.x + b),   v = u + (log(1 + e^(w.u)) - 1 - w.u) w / |w|^2
        log|det dy/dx| = log(1 + w.v (1 - tanh(w.x + b)^2)),   w.v > -1

    so that it is invertible for all u, w and b. It starts as the identity. The inverse solves
    a + w.v tanh(a) = w.y + b for a = w.x + b, a monotone equation in one dimension.

    Args:
        features: D of the input `(batch, D)`.
        conditioner: network of the context, that computes `2 D + 1` values to be added to (u, w,
            b), such as `MLP(0, 2 * D + 1, (64,), context_features)`.

    (Rezende & Mohamed 2015, section 4.1 and appendix A.1)
    """

    cheap_inverse = False

    def __init__(self, features: Count, conditioner: nn.Module | None = None) -> None:
        w = torch.randn(features)
        w = w / w.norm().clamp(min=0.1)
        u = math.log(math.e - 1) * w / w.square().sum()  # with it v = 0
        super().__init__(torch.cat((u, w, torch.zeros(1))), conditioner)
        self.features = features

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, w, b, slope = self._parts(x, context)
        t = torch.tanh((x * w).sum(1) + b)
        return x + v * t[:, None], tanh_log_slope(t, slope)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, w, b, slope = self._parts(y, context)
        t = torch.tanh(undo_tanh((y * w).sum(1) + b, slope))
        return y - v * t[:, None], -tanh_log_slope(t, slope)

    def _parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(v, w, b, 1 + w.v)."""
        n, tiny = self.features, torch.finfo(x.dtype).tiny
        u, w, b = self._parameters_for(x, context).split([n, n, 1], dim=1)
        along = (w * u).sum(1, keepdim=True)
        slope = F.softplus(along).clamp(min=tiny)
        v = u + (slope - 1 - along) * w / w.square().sum(1, keepdim=True).clamp(min=tiny)
        return v, w, b[:, 0], slope[:, 0]

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,))
        yield Example(lambda: cls(2, MLP(0, 5, (8,), 2)), (2,), context_features=2)


class Radial(Amortized):
    """Push away from a point, or pull towards it.

        y = x + g (x - c) / (a + r),   r = |x - c|,   g = p - a,   a, p > 0
        log|det dy/dx| = (D - 1) log((r + p) / (a + r)) + log((r^2 + 2 a r + a p) / (a + r)^2)

    which is invertible for all c, a and p: (r + p) / (a + r) is the factor of lengths at c and
    tends to 1 far out. It starts as the identity. The inverse solves a quadratic equation for r,
    the positive root of r^2 + (p - s) r - a s, s = |y - c|.

    Args:
        features: D of the input `(batch, D)`.
        conditioner: network of the context, that computes `D + 2` values to be added to c and to
            the logarithms of e^a - 1 and e^p - 1, such as `MLP(0, D + 2, (64,), context_features)`.

    (Rezende & Mohamed 2015, section 4.1 and appendix A.2, where p is log(1 + e^beta))
    """

    def __init__(self, features: Count, conditioner: nn.Module | None = None) -> None:
        super().__init__(torch.cat((torch.randn(features), torch.zeros(2))), conditioner)
        self.features = features

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        center, a, p = self._parts(x, context)
        away = x - center
        r = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        return center + away * (r + p) / (a + r), self._log_det(r, a, p)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        center, a, p = self._parts(y, context)
        away = y - center
        s = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        # In units of s + p, whose square does not leave float range.
        unit = s + p
        half, product = (s - p) / unit, 4 * (s / unit) * (a / unit)
        root = (half.square() + product).clamp(min=torch.finfo(y.dtype).tiny).sqrt()
        # Of the two forms of the root the one without a difference of nearly equal numbers.
        outer = half > 0
        denominator = torch.where(outer, 1.0, root - half)
        r = unit * torch.where(outer, root + half, product / denominator) / 2
        return center + away * (a + r) / (r + p), -self._log_det(r, a, p)

    def _parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(c, a, p)."""
        parts = self._parameters_for(x, context).split([self.features, 1, 1], dim=1)
        tiny = torch.finfo(x.dtype).tiny
        return parts[0], F.softplus(parts[1]).clamp(min=tiny), F.softplus(parts[2]).clamp(min=tiny)

    def _log_det(self, r: Tensor, a: Tensor, p: Tensor) -> Tensor:
        # As products of quotients from 0 to 1, none of which leaves float range.
        inside, outside = a / (a + r), r / (a + r)
        across = (r + p) / (a + r)
        along = outside * (outside + inside) + inside * across
        return ((self.features - 1) * across.log() + along.log())[:, 0]

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,))
        yield Example(lambda: cls(2, MLP(0, 4, (8,), 2)), (2,), context_features=2)


def tanh_log_slope(t: Tensor, slope: Tensor) -> Tensor:
    """Log of the derivative of a + (slope - 1) tanh(a), where t = tanh(a); slope is that at 0."""
    return (t.square() + slope * (1 - t.square())).log()


def undo_tanh(s: Tensor, slope: Tensor) -> Tensor:
    """The a for which a + (slope - 1) tanh(a) = s, `(batch,)`; slope, positive, is that at 0."""

    def function(a: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.tanh(a)
        return a + (slope - 1) * t, tanh_log_slope(t, slope)

    width = (slope - 1).abs()
    return invert(function, s, s - width, s + width, s)

"""A learned map of each feature by itself: its skewness and the weight of its tails."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example


class SinhArcsinh(Bijection):
    """Skew each feature, and thin or fatten its tails.

        y = sinh(d * a - e),   a = arcsinh((x - m) / exp(s)),   d = exp(bound * tanh(t / bound))
        log|det dy/dx| = sum(log d - s + log cosh(d * a - e) - log cosh(a))

    The inverse has the same form, so it costs the same. With d > 1 heavy tails become those of a
    normal distribution, and e takes away skewness. It starts as the identity. An affine
    coupling, whose scale and shift depend on other features alone, cannot change the shape of
    features that are independent of each other. This can.

    Far out it is a power, |x| ~ |y|^(1/d): with the bound of 1.5, y = 8 is at most 1e5 widths away,
    and one link leaves float32 at |y| = 1e8. Powers of a stack multiply.

    Args:
        features: D of the input `(batch, D)`.
        bound: the largest |log d|.

    Raises:
        ValueError: if the bound is not positive.

    (Jones & Pewsey 2009, here from data to noise)
    """

    def __init__(self, features: int, bound: float = 1.5) -> None:
        super().__init__()
        if not bound > 0:
            raise ValueError(f"bound must be positive, not {bound}.")
        self.bound = bound
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_width = nn.Parameter(torch.zeros(features))
        self.skew = nn.Parameter(torch.zeros(features))
        self.tail = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_power = self._log_power()
        inner = torch.asinh((x - self.shift) * (-self.log_width).exp())
        outer = inner * log_power.exp() - self.skew
        y = outer.sinh()
        steps = log_power - self.log_width + _log_cosh(outer) - _log_cosh(inner)
        return y, steps.sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_power = self._log_power()
        outer = torch.asinh(y)
        inner = (outer + self.skew) * (-log_power).exp()
        x = inner.sinh() * self.log_width.exp() + self.shift
        steps = self.log_width - log_power + _log_cosh(inner) - _log_cosh(outer)
        return x, steps.sum(1)

    def _log_power(self) -> Tensor:
        """Log d, within its bounds."""
        return self.bound * torch.tanh(self.tail / self.bound)

    def extra_repr(self) -> str:
        return f"{len(self.shift)}, bound={self.bound}"

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,))


def _log_cosh(a: Tensor) -> Tensor:
    """Without overflow, up to log 2, which cancels here."""
    return a.abs() + torch.log1p((-2 * a.abs()).exp())

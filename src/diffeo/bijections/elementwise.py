"""Elementwise maps with parameters of their own: for pixels, columns, and learned ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Count, Positive, Range, Whole
from diffeo.utils.statistics import FAR, check_spread, first_moments, warn_of_far

NO_LIMIT = 3e38  # finite, as all that a model saves
Margin = Annotated[float, Range(0, 0.5, below=True)]


class Standardize(Bijection):
    """Bring each feature of the data to mean 0 and standard deviation 1, and far outliers near.

        u = (x - mean) / std,   y = u, or sign(u) (limit + log(1 + |u| - limit)) where |u| > limit
        log|det dy/dx| = -sum(log std + log(1 + max(|u| - limit, 0)))

    Args:
        features: D of the input `(batch, D)`.

    `initialize` sets `mean` and `std`, for which values far from all others do not count (see
    `diffeo.utils.statistics`). A feature with such values gets a `limit` of 10, so that they do not
    rule the training either; for others it is 3e38. Before, the map is the identity.
    `initialized` is a buffer: a loaded model is never initialised again.

    Raises:
        ValueError: by `initialize`, if there are fewer than two rows, or a feature is constant or
            not finite.

    Warns:
        OutlierWarning: by `initialize`, a sentence for each feature with values far from others.
    """

    def __init__(self, features: Count) -> None:
        super().__init__()
        self.mean: Tensor = nn.Buffer(torch.zeros(features))
        self.std: Tensor = nn.Buffer(torch.ones(features))
        self.limit: Tensor = nn.Buffer(torch.full((features,), NO_LIMIT))
        self.initialized: Tensor = nn.Buffer(torch.tensor(False))
        self.register_load_state_dict_pre_hook(_add_limit)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u = (x - self.mean) / self.std
        near = u.clamp(-self.limit, self.limit)
        beyond = u - near
        log_slope = torch.log1p(beyond.abs())
        return near + beyond.sign() * log_slope, -(self.std.log().sum() + log_slope.sum(1))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_slope = (y.abs() - self.limit).clamp(min=0.0)
        u = y.clamp(-self.limit, self.limit) + y.sign() * torch.expm1(log_slope)
        return u * self.std + self.mean, (self.std.log() + log_slope).sum(1)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            check_spread(x)
            warn_of_far(x, self.fit(x), [f"feature {i}" for i in range(x.shape[1])])
        return self(x)[0]

    @torch.no_grad()
    def fit(self, x: Tensor) -> Tensor:
        """Set all from rows x `(n, features)`; a constant feature gets scale 1.

        Returns:
            Which values are far from all others, `(n, features)`.
        """
        # In the widest floats: squares of a large column lose their digits in float32.
        mean, std, far = first_moments(x.to(widest(x.device)))
        self.mean.copy_(mean)
        self.std.copy_(torch.where(x.amin(0) < x.amax(0), std, 1.0))
        self.limit.copy_(torch.where(far.any(0), FAR, NO_LIMIT))
        self.initialized.fill_(True)
        return far

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,), "constant")
        yield Example(_with_far_values, (3,))


def _with_far_values() -> Standardize:
    link = Standardize(3)
    link.limit.copy_(torch.tensor([0.5, 1.0, NO_LIMIT]))
    link.std.fill_(2.0)
    link.initialized.fill_(True)
    return link


def _add_limit(link: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Models of 0.1.0 have none, and compress nothing."""
    assert isinstance(link, Standardize)
    state.setdefault(f"{prefix}limit", torch.full_like(link.limit, NO_LIMIT))


class Scale(Bijection):
    """Learned positive scaling of each feature, the only map of NICE that changes volume.

        y = exp(s) * x,   log|det dy/dx| = sum(s)

    Args:
        features: D of the input `(batch, D)`.

    (Dinh et al. 2014, section 3.3)
    """

    def __init__(self, features: Count) -> None:
        super().__init__()
        self.log_scale: nn.Parameter = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y * (-self.log_scale).exp(), -self.log_scale.sum().expand(y.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,), "constant")


class LearnedPrior(Bijection):
    """Standardize each element by a learned mean and spread, which may depend on a context.

        y = (x - m) * exp(-s),   log|det dy/dx| = -sum(s),   (m, s) = b + W context

    so that y ~ N(0, 1) says that x ~ N(m, exp(2 s)): the learned, and class-conditional, prior of
    Glow's last latents. It starts as the identity. s is not bounded: without a context it is a
    constant of the model, and a context far beyond those of training may take it anywhere.

    Args:
        shape: of an event x `(batch, *shape)`.
        context_features: width of the context; 0 for none.

    (Kingma & Dhariwal 2018, in their code)
    """

    def __init__(self, *shape: Count, context_features: Whole = 0) -> None:
        super().__init__()
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(2, *shape))
        self.weight: nn.Parameter | None = None
        if context_features:
            self.weight = nn.Parameter(torch.zeros(context_features, 2, *shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_std = self._moments(context)
        return (x - mean) * (-log_std).exp(), -_sum(log_std, x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_std = self._moments(context)
        return y * log_std.exp() + mean, _sum(log_std, y)

    def _moments(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(m, s), each `(batch or 1, *shape)`."""
        moments = self.bias[None]
        if self.weight is not None and context is not None:
            moments = moments + torch.tensordot(context, self.weight, dims=1)
        return moments[:, 0], moments[:, 1]

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(2, 3), (2, 3), "constant")
        yield Example(lambda: cls(2, 2, 1, context_features=3), (2, 2, 1), context_features=3)


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

    def __init__(self, features: Count, bound: Positive = 1.5) -> None:
        super().__init__()
        self.bound = bound
        self.shift: nn.Parameter = nn.Parameter(torch.zeros(features))
        self.log_width: nn.Parameter = nn.Parameter(torch.zeros(features))
        self.skew: nn.Parameter = nn.Parameter(torch.zeros(features))
        self.tail: nn.Parameter = nn.Parameter(torch.zeros(features))

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

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,))


class Logit(Bijection):
    """From [0, scale], where pixels lie, to the real line.

        p = margin + (1 - 2 margin) x / scale,   y = log p - log(1 - p)
        log|det dy/dx| = sum(log((1 - 2 margin) / scale) - log p - log(1 - p))

    The margin keeps y finite at the ends. Outside of them, where no pixel lies, y is NaN. The
    inverse, which any y has, undoes the sigmoid and the margin.

    Args:
        scale: the upper end, 2^bits for dequantized pixels.
        margin: share of the unit interval left free at either end, 0 or more and less than 1/2.

    Raises:
        ValueError: if the margin is another.

    (Dinh et al. 2017, section 4.1)
    """

    def __init__(
        self, scale: Positive, margin: Annotated[float, Range(0, 0.5, below=True)] = 0.05
    ) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        slope = (1 - 2 * self.margin) / self.scale
        p = self.margin + slope * x
        return p.logit(), (math.log(slope) - p.log() - torch.log1p(-p)).flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        slope = (1 - 2 * self.margin) / self.scale
        log_det = F.logsigmoid(y) + F.logsigmoid(-y) - math.log(slope)
        return (y.sigmoid() - self.margin) / slope, log_det.flatten(1).sum(1)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(scale=16.0), (2, 3), interval=(0.5, 15.5))


class Center(Bijection):
    """From [0, scale], where pixels lie, to an interval around 0.

        y = width (x / scale - 1/2),   log|det dy/dx| = dims log(width / scale)

    Args:
        scale: the upper end, 2^bits for dequantized pixels.
        width: of the interval; 1 is [-1/2, 1/2], as Glow has it, and 2 is [-1, 1].

    (Kingma & Dhariwal 2018, in their code)
    """

    def __init__(self, scale: Positive, width: Positive = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.width = width

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.width * (x / self.scale - 0.5), self._log_det(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (y / self.width + 0.5) * self.scale, -self._log_det(y)

    def _log_det(self, x: Tensor) -> Tensor:
        each = math.log(self.width / self.scale)
        return x.new_full((x.shape[0],), each * math.prod(x.shape[1:]))

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(scale=16.0), (2, 3), "constant", interval=(0.5, 15.5))
        yield Example(lambda: cls(16.0, 2.0), (2, 3), "constant", interval=(0.5, 15.5))


def _sum(log_std: Tensor, x: Tensor) -> Tensor:
    """One sum for each row of x."""
    return log_std.flatten(1).sum(1).expand(x.shape[0])


def _log_cosh(a: Tensor) -> Tensor:
    """Without overflow, up to log 2, which cancels here."""
    return a.abs() + torch.log1p((-2 * a.abs()).exp())

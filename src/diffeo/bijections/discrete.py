"""Distributions of whole numbers from low to high, as bijections that come back in any float."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from diffeo.bijections.cells import Integer
from diffeo.bijections.mixture_cdf import components_at, first_components
from diffeo.bijections.quantiles import NOISE, Noise, Shape
from diffeo.bijections.univariate import Univariate
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Count

# Of each number. A cell narrower than the rounding of y would not come back from it. In float32
# rounding is about 1e-7; for 256 numbers this costs less than 2e-4 bits.
LEAST = 5e-7
MOST_NUMBERS = 100_000
UNIT = 1 / 32  # of the parameters of logistic distributions, in the range

# The probability of all numbers before k, of k itself, and of all after it.
Sums: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class DiscreteCDF(Univariate):
    """The distribution function of whole numbers, each of which has at least a small probability.

        k = floor(x),   u = x - k,   P_k = (1 - K m) Q_k + m
        y = G^-1(F(k) + u P_k),   log dy/dx = log P_k - log g(y),   F(k) = sum_{j < k} P_j

    where Q is given by the parameters, K is how many numbers there are, m = 5e-7, G is the
    distribution function of the noise and g its density. With a base of this noise the log-density
    of x is log P_k wherever u lies: the exact probability of k. Beyond the numbers log dy/dx is
    -inf. The inverse finds k by bisection. Because of m it is k again in float32 too.

    Args:
        low: the smallest number.
        high: the largest number.
        shape: of the noise; choose that of the base.

    Raises:
        ValueError: if low is above high, or there are more than 100,000 numbers.
    """

    def __init__(self, low: Integer, high: Integer, shape: Shape) -> None:
        super().__init__()
        if not 0 <= high - low < MOST_NUMBERS:
            raise ValueError(
                f"low is {low} and high is {high}: choose a high that is not below, and above by "
                f"less than {MOST_NUMBERS:,}."
            )
        self.low = low
        self.high = high
        self.numbers: int = high - low + 1
        self.shape: Shape = shape
        self.noise: Noise = NOISE[shape]

    @abstractmethod
    def sums(self, x: Tensor, parameters: Tensor) -> Sums:
        """The function from k, counted from low, to the sums of P; each of the shape of x."""

    def probabilities(self, parameters: Tensor) -> Tensor:
        """Those of all numbers `(n, K)`, of the parameters `(n, parameters_each)` of n elements."""
        k = torch.arange(self.numbers, device=parameters.device).to(parameters)
        k = k.expand(len(parameters), 1, -1)
        return self.sums(k, parameters[..., None].expand(-1, -1, self.numbers))(k)[1][:, 0]

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        k = (x.detach().floor() - self.low).clamp(0, self.numbers - 1)
        y, log_slope = self._scores(x, k, *_wide(*self.sums(x, parameters)(k)))
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        sums = self.sums(y, parameters)
        (wide,), negative = _wide(y), y < 0
        # The smaller tail, since the larger one has fewer digits to spare.
        tail = self.noise.log_cdf_and_hazard(torch.where(negative, wide, -wide))[0].exp()
        with torch.no_grad():
            k, last = torch.zeros_like(y), torch.full_like(y, self.numbers - 1)
            for _ in range((self.numbers - 1).bit_length()):
                middle = ((k + last + 1) / 2).floor()
                below, at, above = _wide(*sums(middle))
                reached = torch.where(negative, tail >= below, tail <= above + at)
                k, last = torch.where(reached, middle, k), torch.where(reached, last, middle - 1)
        below, at, above = _wide(*sums(k))
        u = torch.where(negative, (tail - below) / at, 1 - (tail - above) / at)
        # A float of a large number has fewer digits for what follows the point.
        most = 1 - torch.finfo(y.dtype).eps * max(abs(self.low), abs(self.high + 1), 1)
        x = self.low + k + u.to(y.dtype).clamp(0.0, most)
        return x, -self._scores(x, k, below, at, above)[1].flatten(1).sum(1)

    def _scores(
        self, x: Tensor, k: Tensor, below: Tensor, at: Tensor, above: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The y of each element of x, in the cells of k, and log dy/dx."""
        eps = torch.finfo(x.dtype).eps
        u = (x - (self.low + k)).clamp(eps, 1 - eps)
        lower, upper = below + u * at, above + (1 - u) * at
        negative = lower < upper
        z = self.noise.quantile(torch.where(negative, lower, upper).log())
        log_cdf, log_hazard = self.noise.log_cdf_and_hazard(z)
        exists = (x >= self.low) & (x < self.high + 1)
        log_slope = torch.where(exists, at.log(), -torch.inf) - log_cdf - log_hazard
        return torch.where(negative, z, -z).to(x.dtype), log_slope.to(x.dtype)


def _wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In the widest floats of the device: between equal sums, only the rounding of y remains."""
    return tuple(tensor.to(widest(tensor.device)) for tensor in tensors)


class SoftmaxCDF(DiscreteCDF):
    """The distribution function of whole numbers, each with a free probability.

        Q = softmax(parameters)

    See `DiscreteCDF`. An element has K parameters. Those of zero make all numbers equally likely.

    Args:
        low: the smallest number.
        high: the largest number.
        shape: of the noise; choose that of the base.

    (van den Oord et al. 2016)
    """

    def __init__(self, low: Integer = 0, high: Integer = 255, shape: Shape = "normal") -> None:
        super().__init__(low, high, shape)
        self.parameters_each: int = self.numbers

    def sums(self, x: Tensor, parameters: Tensor) -> Sums:
        """See `DiscreteCDF.sums`."""
        logits = parameters.unflatten(1, (self.numbers, x.shape[1])).movedim(1, -1)
        share = self.probabilities(logits)
        number = torch.arange(self.numbers, device=x.device)

        def sums(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            k = k.long()[..., None]
            below = torch.where(number < k, share, 0.0).sum(-1)
            above = torch.where(number > k, share, 0.0).sum(-1)
            return below, share.gather(-1, k)[..., 0], above

        return sums

    def probabilities(self, parameters: Tensor) -> Tensor:
        return (1 - self.numbers * LEAST) * parameters.softmax(-1) + LEAST

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(-6, 5), cls(-8, 7, "logistic")


class LogisticsCDF(DiscreteCDF):
    """The distribution function of whole numbers that a mixture of logistic distributions has.

        Q_k = sum_c w_c (L((k + 1 - m_c) / s_c) - L((k - m_c) / s_c)),   L(v) = 1 / (1 + e^-v)

    See `DiscreteCDF`. The first and the last number have the mixture's tails too. Parameters of an
    element: the place of the whole mixture, and then those of a `MixtureCDF`, all in units of
    1/32 of the range. Those of zero lie around its middle.

    Args:
        components: their number; an element has three parameters for each, and one for all.
        low: the smallest number.
        high: the largest number.
        shape: of the noise; choose that of the base.

    (Salimans et al. 2017)
    """

    def __init__(
        self,
        components: Count = 10,
        low: Integer = 0,
        high: Integer = 255,
        shape: Shape = "normal",
    ) -> None:
        super().__init__(low, high, shape)
        self.components = components
        self.parameters_each: int = 1 + 3 * components
        self.places: list[float]
        self.scale: float
        self.places, self.scale = first_components(components, NOISE["logistic"])

    def sums(self, x: Tensor, parameters: Tensor) -> Sums:
        """See `DiscreteCDF.sums`."""
        place, rest = parameters.split((x.shape[1], parameters.shape[1] - x.shape[1]), dim=1)
        raw = rest.unflatten(1, (3, self.components, x.shape[1])).movedim(1, 0)
        logits, shift, change = raw.movedim(2, 1)
        weight, unit = logits.softmax(0), self.numbers * UNIT
        mean, log_scale = components_at(shift, change, self.places, self.scale)
        center, rate = self.numbers / 2 + unit * (place + mean), (-log_scale).exp() / unit
        # Of a cell, without a difference: (1 - exp(-1 / s)) L(end) L(-start).
        width = -torch.expm1(-rate)
        factor = 1 - self.numbers * LEAST

        def sums(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            start, end = (k - center) * rate, (k + 1 - center) * rate
            first, last = k == 0, k == self.numbers - 1
            before, after = start.sigmoid(), (-end).sigmoid()
            inside = width * end.sigmoid() * (-start).sigmoid()
            inside = torch.where(first, inside + before, inside)
            inside = torch.where(last, inside + after, inside)
            before, after = before.where(~first, 0.0), after.where(~last, 0.0)
            below, at, above = ((weight * part).sum(0) for part in (before, inside, after))
            return (
                factor * below + LEAST * k,
                factor * at + LEAST,
                factor * above + LEAST * (self.numbers - 1 - k),
            )

        return sums

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(3, -6, 5), cls(2, -8, 7, "logistic")

"""Distribution functions and quantiles of standard noise, exact far into the tails.

All is in terms of the lower tail: v <= 0 or so. The upper one is its mirror image, since the noise
is symmetric: whoever calls takes the smaller one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = math.log(0.5)
# Of the smaller tail, which rounding may put above 1/2, and which keeps its gradient there.
MOST = 0.5 * HALF
# Of log(erfcx(x) / t) as a polynomial in t = 1 / (1 + x / 2), for x >= 0; relative error 1.2e-7
# (Press et al., Numerical Recipes).
ERFCX = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806]
ERFCX += [0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277]
Shape = Literal["normal", "logistic"]


class Noise(ABC):
    """A symmetric distribution with standard location and scale.

    Attributes:
        spread: its standard deviation.
    """

    spread: float

    @abstractmethod
    def cdf(self, v: Tensor) -> Tensor:
        """F(v)."""

    @abstractmethod
    def log_cdf_and_hazard(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithms of F(v) and of f(v) / F(v), whose parts both underflow in the tail."""

    @abstractmethod
    def quantile(self, log_p: Tensor) -> Tensor:
        """F^-1(p) of log p up to log 1/2, or a little above; p counts as 0.71 where it is more."""


class NormalNoise(Noise):
    """N(0, 1)."""

    spread: float = 1.0

    def cdf(self, v: Tensor) -> Tensor:
        return torch.erfc(v * -math.sqrt(0.5)) / 2

    def log_cdf_and_hazard(self, v: Tensor) -> tuple[Tensor, Tensor]:
        # With |v| = a: the smaller tail is exp(-a^2 / 2) erfcx(a / sqrt 2) / 2.
        a = torch.where(v < 0, -v, v)  # whose gradient at 0 is not 0
        scaled, square = _erfcx(a * math.sqrt(0.5)), 0.5 * v * v
        lower, hazard = (scaled / 2).log() - square, 0.5 * math.log(2 / math.pi) - scaled.log()
        upper = torch.log1p(-0.5 * scaled * (-square).exp())
        above = -square - 0.5 * math.log(2 * math.pi) - upper
        return torch.where(v < 0, lower, upper), torch.where(v < 0, hazard, above)

    def quantile(self, log_p: Tensor) -> Tensor:
        return log_ndtri(log_p.clamp(max=MOST))


class LogisticNoise(Noise):
    """The logistic distribution, F(v) = 1 / (1 + exp(-v))."""

    spread: float = math.pi / math.sqrt(3)

    def cdf(self, v: Tensor) -> Tensor:
        return v.sigmoid()

    def log_cdf_and_hazard(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return F.logsigmoid(v), F.logsigmoid(-v)

    def quantile(self, log_p: Tensor) -> Tensor:
        log_p = log_p.clamp(max=MOST)
        return log_p - torch.log1p(-log_p.exp())


NOISE: dict[Shape, Noise] = {"normal": NormalNoise(), "logistic": LogisticNoise()}


def log_ndtri(log_p: Tensor) -> Tensor:
    """The normal quantile z of a probability given by its logarithm: log Phi(z) = log p.

    Exact to float precision, with gradients of every order, for log_p <= log 1/2 (z <= 0), down to
    the smallest that a float holds.
    """
    result: Tensor = _LogNdtri.apply(log_p)
    return result


class _LogNdtri(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(log_p: Tensor) -> Tensor:
        # Far out: z^2 + log(2 pi z^2) = -2 log p, solved by a step of a fixed-point iteration.
        square = (-2 * log_p - math.log(2 * math.pi)).clamp(min=1.0)
        far = -(square - square.log()).clamp(min=0.25).sqrt()
        near = math.sqrt(2) * torch.erfinv(2 * log_p.clamp(min=-10.0).exp() - 1)
        z = torch.where(log_p < -10, far, near)
        for _ in range(3):  # of Newton, which doubles the digits
            log_cdf, log_hazard = NOISE["normal"].log_cdf_and_hazard(z)
            z = z - (log_cdf - log_p) * (-log_hazard).exp()
        return z

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grad * (-NOISE["normal"].log_cdf_and_hazard(z)[1]).exp()


def _erfcx(x: Tensor) -> Tensor:
    """The function exp(x^2) erfc(x) of x >= 0."""
    if x.device.type != "mps":  # which lacks it, and float64
        return torch.special.erfcx(x)
    t = 1 / (1 + 0.5 * x)
    exponent = torch.zeros_like(t)
    for coefficient in reversed(ERFCX):
        exponent = exponent * t + coefficient
    return t * exponent.exp()

"""Importance sampling of an unnormalised density by a flow, and whether it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from diffeo.context import repeat_context
from diffeo.flow import Flow, eval_mode
from diffeo.losses.targets import LogDensity, draw
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Range, checked


@dataclass(frozen=True)
class ImportanceSample:
    """Draws of a flow q with weights, which stand for draws of an unnormalised density p.

        w_i = p(x_i) / q(x_i),   x_i ~ q

    Args:
        x: draws `(n, *shape)`.
        log_weights: log w, `(n,)`.
    """

    x: Tensor
    log_weights: Tensor

    @property
    def weights(self) -> Tensor:
        """Those of self-normalised estimates `(n,)`, whose sum is 1."""
        return self.log_weights.softmax(0)

    def log_normalizer(self) -> tuple[float, float]:
        """The estimate of log Z, Z the integral of p, and its standard error.

        log Z = log mean(w),   standard error = std(w) / (mean(w) sqrt(n))
        """
        n = len(self.log_weights)
        value = float(self.log_weights.logsumexp(0)) - math.log(n)
        return value, math.sqrt(max(0.0, 1 / self.efficiency() - 1) / (n - 1))

    def efficiency(self) -> float:
        """The effective sample size as a share of n, `(sum w)^2 / (n sum w^2)` (Kish 1965)."""
        return 1 / (len(self.log_weights) * float(self.weights.square().sum()))

    def expect(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The self-normalised mean of a function of x under p, and its standard error.

            mean = sum_i v_i f(x_i),   standard error^2 = sum_i v_i^2 (f(x_i) - mean)^2

        with v the `weights`. Both are of the shape of one value `f(x_i)`. (Owen 2013, section 9.2)
        """
        values = function(self.x).to(self.weights.dtype)
        v = self.weights.reshape(-1, *[1] * (values.ndim - 1))
        mean = (v * values).sum(0)
        return mean, (v * (values - mean)).square().sum(0).sqrt()

    def pareto_k(self) -> float:
        """How heavy the tail of the weights is: estimates are reliable below 0.7.

        The shape of the generalised Pareto distribution of the largest min(n / 5, 3 sqrt(n))
        weights; moments of order 1/k and above do not exist. 0 where all weights are equal, and
        infinity of fewer than 25 draws, which tell nothing of a tail.

        (Vehtari et al. 2024)
        """
        n = len(self.log_weights)
        count = math.ceil(min(n / 5, 3 * math.sqrt(n)))
        if count < 5:
            return math.inf
        ordered = (self.log_weights - self.log_weights.max()).exp().sort().values
        beyond = (ordered - ordered[-count - 1])[-count:]
        if float(beyond[-1]) <= 1e-12 or float(beyond[0]) < 0:
            return 0.0
        return pareto_shape(beyond.clamp(min=float(beyond[-1]) * 1e-300))


@torch.no_grad()
@checked
def importance_sample(
    flow: Flow,
    log_density: LogDensity,
    n: Annotated[int, Range(2)],
    context: Tensor | None = None,
    *,
    generator: Generator | None = None,
) -> ImportanceSample:
    """Draw n times from a flow, and weigh each draw by an unnormalised density.

    Args:
        flow: the proposal q, without a dequantizer; it should have heavier tails than p.
        log_density: log p of events, `(n, *shape) -> (n,)`.
        n: how many.
        context: one row of it for all, or `(n, context_features)`.
        generator: source of the draws.

    Raises:
        ValueError: if the flow draws from a grid, n is below 2, or log p is NaN somewhere.
    """
    context = repeat_context(context, n, flow.device)
    parts, weights = [], []
    with eval_mode(flow):
        for start in range(0, n, flow.chunk):
            count = min(flow.chunk, n - start)
            given = None if context is None else context[start : start + count]
            x, log_q, _ = draw(flow, count, given, generator)
            parts.append(x)
            weights.append(log_density(x) - log_q)
    log_weights = torch.cat(weights).to(widest(flow.device))
    if log_weights.isnan().any():
        raise ValueError("the log-density of some draws is NaN: return -inf where it has none.")
    return ImportanceSample(torch.cat(parts), log_weights)


def pareto_shape(beyond: Tensor) -> float:
    """The shape k of a generalised Pareto distribution of positive numbers `(n,)`, ascending.

        density (1 + k y / s)^(-1/k - 1) / s

    The mean of b = -k / s under a posterior with the profile likelihood, on a grid of quantiles of
    a prior; then k is shrunk towards 1/2 as by ten more numbers.

    (Zhang & Stephens 2009)
    """
    n = len(beyond)
    points = 30 + int(math.sqrt(n))
    j = torch.arange(1, points + 1, dtype=beyond.dtype, device=beyond.device)
    quarter = beyond[int(n / 4 + 0.5) - 1]
    b = 1 / beyond[-1] + (1 - (points / (j - 0.5)).sqrt()) / (3 * quarter)
    shapes = torch.log1p(-b[:, None] * beyond).mean(1)
    log_likelihood = n * ((-b / shapes).log() - shapes - 1)
    best = (log_likelihood.softmax(0) * b).sum()
    shape = float(torch.log1p(-best * beyond).mean())
    return (n * shape + 10 * 0.5) / (n + 10)

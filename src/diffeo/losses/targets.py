"""Divergences from an unnormalised density, of which no draws are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from diffeo.flow import Flow
from diffeo.utils.ranges import Count, Finite, Fraction, checked

# Of events `(n, *shape)`: `(n,)`, in nats, up to a constant.
LogDensity: TypeAlias = Callable[[Tensor], Tensor]


@checked
def reverse_kl(
    flow: Flow,
    log_density: LogDensity,
    n: Count,
    context: Tensor | None = None,
    *,
    score: Fraction = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """An estimate of KL(q | p) in nats, q the flow; less log Z, where p is unnormalised.

        1/n sum_i t_i,   t_i = log q(x_i) - log p(x_i),   x_i ~ q

    It is unbiased, and so is its gradient, which is a mean of two with the weights 1 - s and s:

        paths   1/n sum_i grad t_i, through the draws x_i
        score   1/n sum_i (t_i - mean of the other t) grad log q(x_i), with x_i fixed

    Paths move draws up the slopes of p. They say almost nothing of how much mass belongs to each of
    two modes that stand apart, since only the rare draws between them show it: with s = 0 the mass
    drifts, until a mode is lost. The score compares t of all draws, and restores the balance. With
    separate modes take s = 0.8, which costs one more pass of the networks; in many dimensions the
    score is noisy. A mode without draws is not found: begin with a base as wide as p, or anneal, by
    `lambda x: t * log_density(x)` with t rising to 1.

    Args:
        flow: q, without a dequantizer.
        log_density: log p, differentiable.
        n: how many draws.
        context: `(n, context_features)`.
        score: s.
        generator: source of the draws.

    Raises:
        ValueError: if the flow draws from a grid, n is below 1, or score is not within [0, 1].

    (Rezende & Mohamed 2015; the score: Williams 1992, Kool et al. 2019, Richter et al. 2020)
    """
    x, log_q, base_score = draw(flow, n, context, generator)
    terms = log_q - log_density(x)
    fixed = terms.detach()
    excess = fixed - (fixed.sum() - fixed) / max(1, n - 1)  # over the mean of the others
    paths = terms + excess * base_score
    if score == 0:
        return paths.mean()
    log_q = flow(x.detach(), context)
    return ((1 - score) * paths + score * (fixed + excess * (log_q - log_q.detach()))).mean()


@checked
def alpha_divergence(
    flow: Flow,
    log_density: LogDensity,
    n: Count,
    alpha: Finite = 0.5,
    context: Tensor | None = None,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """An estimate of the alpha divergence of p from the flow q, in nats, by its logarithm.

        1 / (alpha (alpha - 1)) log 1/n sum_i (p(x_i) / q(x_i))^alpha,   x_i ~ q

    Near alpha = 0 it is KL(q | p), which seeks a mode, near 1 KL(p | q), which covers all, and at 2
    the chi-square divergence, which is the variance of importance weights; the larger alpha, the
    noisier. That of an unnormalised p differs by a constant. The logarithm of a mean is biased by
    about 1/n.

    Args:
        flow: q, without a dequantizer.
        log_density: log p, differentiable.
        n: how many draws.
        alpha: neither 0 nor 1.
        context: `(n, context_features)`.
        generator: source of the draws.

    Raises:
        ValueError: if the flow draws from a grid, n is below 1, or alpha is 0 or 1.

    (Li & Turner 2016; Midgley et al. 2023)
    """
    if alpha in (0, 1):
        raise ValueError(f"alpha is {alpha:g}: choose another number, or reverse_kl in place of 0.")
    x, log_q, score = draw(flow, n, context, generator)
    powers = alpha * (log_density(x) - log_q)
    weights = powers.detach().softmax(0)
    # The mean of the score is 0: less 1/n there is less noise.
    mean = powers.logsumexp(0) - math.log(n) + ((weights - 1 / n) * score).sum()
    return mean / (alpha * (alpha - 1))


def draw(
    flow: Flow, n: int, context: Tensor | None = None, generator: Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws x `(n, *shape)`, their log-densities, and a zero with the gradient of the score.

    Gradients pass through the draws. Of a base whose draws have none the third holds them, by which
    a term is to be multiplied (Williams 1992); of others it is a plain zero.

    Raises:
        ValueError: if the flow draws from a grid.
    """
    if flow.dequantizer is not None:
        raise ValueError("draws on a grid have no density: take a flow without dequantizer.")
    z = flow.noise(n, generator)
    x, log_det = flow.invert(z, context)
    log_base = flow.base.log_prob(z)
    score = torch.zeros_like(log_base)
    if not flow.base.reparametrized:
        score = log_base - log_base.detach()
    return x, log_base - log_det, score

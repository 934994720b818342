"""Losses of rows of data: weighted likelihood, and flow matching."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from diffeo.bijections.chain import Chain
from diffeo.flow import Flow
from diffeo.utils.statistics import weighted


def weighted_likelihood(
    flow: Flow,
    x: Tensor,
    weights: Tensor,
    context: Tensor | None = None,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """The weighted mean of the negative log-likelihood, in nats.

        -sum_i w_i log p(x_i) / sum_i w_i

    Args:
        flow: p.
        x: events `(batch, *shape)`.
        weights: `(batch,)`, none below 0; rows of weight 0 do not count.
        context: of the events.
        generator: of a dequantizer's noise.

    Raises:
        ValueError: if the weights do not fit the events.
    """
    if weights.shape != x.shape[:1]:
        raise ValueError(
            f"expected weights of shape ({len(x)},), got {tuple(weights.shape)}: pass one a row."
        )
    log_prob = flow(x, context, generator=generator)
    return -weighted(log_prob, weights).sum() / weights.sum()


def flow_matching(
    flow: Flow, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
) -> Tensor:
    """The mean squared error of the velocity of a continuous flow, without solving its equation.

        x_t = (1 - t) x + t z,   |velocity(t, x_t) - (z - x)|^2 / D,   t ~ U(0, 1), z ~ base

    so that data, at t = 0, move to noise, at t = 1, by straight lines. Bijections before the
    continuous one, such as a standardization, map x first, and do not learn.

    Args:
        flow: its last bijection has a method `velocity(t, x, context)`, with t `(batch,)`.
        x: events `(batch, *shape)`.
        context: of the events.
        generator: source of t and z.

    Raises:
        ValueError: if the last bijection has no velocity.

    (Lipman et al. 2023; Liu et al. 2023)
    """
    links: list[Any] = [flow.bijection]
    while isinstance(links[-1], Chain) and len(links[-1]):
        links[-1:] = [*links[-1]]
    *before, last = links
    if not hasattr(last, "velocity"):
        raise ValueError(
            f"flow matching needs a velocity, which {type(last).__name__} has not: take a flow "
            "whose last bijection is continuous."
        )
    context = flow._encode_context(flow._check(x, context))
    with torch.no_grad():
        if flow.dequantizer is not None:
            x, _ = flow.dequantizer.noisy(x, generator)
        for link in before:
            x, _ = link(x, context)
        z = flow.noise(len(x), generator)
        place = z.device if generator is None else generator.device
        t = torch.rand(len(x), 1, dtype=z.dtype, device=place, generator=generator).to(z.device)
    error = last.velocity(t[:, 0], (1 - t) * x + t * z, context) - (z - x)
    return error.square().mean()

"""Estimators of posteriors, likelihoods and ratios for sbi, by any flow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from diffeo.context import ContextSpec
from diffeo.embedding import EmbeddedContext
from diffeo.flow import Flow
from diffeo.integrations.making import make_flow, start_small
from diffeo.integrations.sbi_estimators import FlowEstimator, FlowRatio
from diffeo.models import NSF
from diffeo.utils.modules import eval_mode

__all__ = [
    "FlowEstimator",
    "FlowRatio",
    "likelihood_estimator",
    "posterior_estimator",
    "ratio_estimator",
]


def posterior_estimator(
    flow: Callable[..., Flow] = NSF, *, embedding_net: nn.Module | None = None, **options: Any
) -> Callable[[Tensor, Tensor], FlowEstimator]:
    """What `NPE` takes as `density_estimator`: it makes q(theta | x) from simulations.

    Args:
        flow: a class such as `diffeo.NSF`, or a function that takes features and context.
        embedding_net: a network of the condition `(batch, *shape)` that learns with the flow, of
            which each estimator has a copy. Without one the condition is flattened.
        options: of the class, such as `layers` and `hidden`.

    Parameters and data are standardized by the simulations that are seen first, and networks start
    with small weights, since simulations are few.

    Raises:
        ValueError: by what it makes, if the class has no such option or makes no such density.
    """
    return lambda theta, x: _estimator(theta, x, flow, embedding_net, options)


def likelihood_estimator(
    flow: Callable[..., Flow] = NSF, *, embedding_net: nn.Module | None = None, **options: Any
) -> Callable[[Tensor, Tensor], FlowEstimator]:
    """What `NLE` takes as `density_estimator`, q(x | theta): see `posterior_estimator`."""
    return lambda theta, x: _estimator(x, theta, flow, embedding_net, options)


def ratio_estimator(
    flow: Callable[..., Flow] = NSF, *, embedding_net: nn.Module | None = None, **options: Any
) -> Callable[[Tensor, Tensor], FlowRatio]:
    """What `NRE` takes as `classifier`, q(theta | x) / q(theta): see `posterior_estimator`."""

    def make(theta: Tensor, x: Tensor) -> FlowRatio:
        marginal = start_small(make_flow(flow, theta[0].numel(), options))
        marginal.initialize(theta.flatten(1))
        return FlowRatio(_estimator(theta, x, flow, embedding_net, options), marginal)

    return make


def _estimator(
    input: Tensor,
    condition: Tensor,
    flow: Callable[..., Flow],
    network: nn.Module | None,
    options: dict[str, Any],
) -> FlowEstimator:
    shape, context = condition.shape[1:], condition.flatten(1)
    width: ContextSpec | int = context.shape[1]
    if network is not None:
        context, network = condition, copy.deepcopy(network)
        with eval_mode(network):
            outputs = network(condition[:2]).shape[1]
        # The columns of a vector have units of their own; the elements of an image one.
        width = EmbeddedContext(network, shape, outputs, axis=0 if len(shape) == 1 else None)
    made = start_small(make_flow(flow, input[0].numel(), options, width))
    return FlowEstimator(made.initialize(input.flatten(1), context), input.shape[1:], shape)

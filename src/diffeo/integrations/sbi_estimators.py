"""What sbi trains and samples: a conditional density, and a ratio of two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor, nn

from diffeo.distribution import FlowDistribution
from diffeo.flow import Flow
from diffeo.integrations.making import missing

try:
    from sbi.neural_nets.estimators import ConditionalDensityEstimator
    from sbi.neural_nets.ratio_estimators import RatioEstimator
except ImportError:
    raise missing("sbi", "sbi") from None


class FlowEstimator(ConditionalDensityEstimator):
    """A conditional density of sbi's, q(input | condition), in nats.

    Args:
        flow: of flat inputs; its context is flat, or an `EmbeddedContext` of the condition's shape.
        input_shape: of one input.
        condition_shape: of one condition.
    """

    def __init__(self, flow: Flow, input_shape: Size, condition_shape: Size) -> None:
        super().__init__(flow, input_shape, condition_shape)

    @property
    def embedding_net(self) -> nn.Module:
        """The network of the condition; the identity where there is none."""
        return nn.Identity() if self.net.embedding is None else self.net.embedding.network

    def log_prob(self, input: Tensor, condition: Tensor, **kwargs: Any) -> Tensor:
        """Of inputs `(samples, batch, *input_shape)`: `(samples, batch)`, in nats."""
        if input.ndim <= len(self.input_shape) + 1:
            input = input[None]
        x, context, batch = self._rows(input, condition)
        return self.net.log_prob(x, context).reshape(batch)

    def loss(self, input: Tensor, condition: Tensor, **kwargs: Any) -> Tensor:
        """Negative log-density of inputs `(batch, *input_shape)`: `(batch,)`."""
        return -self.log_prob(input[None], condition)[0]

    def sample(self, sample_shape: Size, condition: Tensor, **kwargs: Any) -> Tensor:
        """Draws `(*sample_shape, batch, *input_shape)` for conditions `(batch, ...)`."""
        drawn = self._density(condition).sample(sample_shape)
        return drawn.unflatten(-1, self.input_shape)

    def sample_and_log_prob(
        self, sample_shape: Size, condition: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """`sample`, and the log-density of the draws `(*sample_shape, batch)`, in one pass."""
        drawn, log_prob = self._density(condition).rsample_and_log_prob(sample_shape)
        return drawn.unflatten(-1, self.input_shape), log_prob

    def inverse_transform(self, input: Tensor, condition: Tensor) -> Tensor:
        """Noise z `(*batch, dims)` of inputs, by which L-C2ST judges a flow."""
        x, context, batch = self._rows(input, condition)
        return self.net.encode(x, context).reshape(*batch, -1)

    def _density(self, condition: Tensor) -> FlowDistribution:
        condition = condition.reshape(*self._batch(condition), *self.net.context.event_shape)
        return FlowDistribution(self.net, condition, validate_args=False)

    def _batch(self, condition: Tensor) -> Size:
        return condition.shape[: condition.ndim - len(self.condition_shape)]

    def _rows(self, input: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Size]:
        """Inputs and conditions as the flow takes them, one for each row, and the batch shape."""
        inputs = input.shape[: input.ndim - len(self.input_shape)]
        batch = Size(torch.broadcast_shapes(inputs, self._batch(condition)))
        n, shape = batch.numel(), self.net.context.event_shape
        x = input.expand(*batch, *self.input_shape).reshape(n, self.net.dims)
        return x, condition.expand(*batch, *self.condition_shape).reshape(n, *shape), batch


class FlowRatio(RatioEstimator):
    """A ratio of sbi's, log q(theta | x) - log q(theta), of two flows.

    Args:
        posterior: q(theta | x), an estimator.
        marginal: q(theta), a flow.
    """

    def __init__(self, posterior: FlowEstimator, marginal: Flow) -> None:
        shapes = posterior.input_shape, posterior.condition_shape
        super().__init__(nn.ModuleList([posterior, marginal]), *shapes)

    def unnormalized_log_ratio(self, theta: Tensor, x: Tensor) -> Tensor:
        """Of parameters `(*batch, *theta_shape)` and data `(*batch, *x_shape)`: `(*batch,)`."""
        posterior, marginal = self.net
        rows, context, batch = posterior._rows(theta, x)
        return (posterior.net.log_prob(rows, context) - marginal.log_prob(rows)).reshape(batch)

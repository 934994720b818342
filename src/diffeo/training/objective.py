"""What a training minimises."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from diffeo.flow import Flow
from diffeo.utils.statistics import weighted


class Objective(nn.Module):
    """The mean loss of a batch, as a module, which is what distributed training wraps.

        -1/n sum_i w_i log p(x_i) / nats,   all w_i = 1 without weights

    Weights are 1 on average over all rows for training, not over those of a batch, where the mean
    would no longer be an unbiased estimate of that of all rows.

    Args:
        flow: p.
        nats: how many are one unit of the loss.
    """

    def __init__(self, flow: Flow, nats: float) -> None:
        super().__init__()
        self.flow = flow
        self.nats = nats

    def forward(
        self, x: Tensor, context: Tensor | None, weights: Tensor | None, generator: Generator | None
    ) -> Tensor:
        """The loss of events x `(batch, *shape)` with weights `(batch,)`."""
        return self.mean(self.flow.log_prob(x, context, generator=generator), weights)

    def mean(self, log_prob: Tensor, weights: Tensor | None) -> Tensor:
        """The loss of events with log-likelihoods `(batch,)`, in nats."""
        weights = None if weights is None else weights.to(log_prob.device)
        return -weighted(log_prob, weights).mean() / self.nats


class PreparedObjective(Objective):
    """The same of events that are dequantized already, without what draws or refuses."""

    def forward(  # type: ignore[override]
        self, x: Tensor, context: Tensor | None, entry: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        """The loss of what `Flow.prepared` returns, with weights `(batch,)`."""
        log_prob = self.flow.log_density(x, context)
        return self.mean(log_prob if entry is None else log_prob + entry, weights)

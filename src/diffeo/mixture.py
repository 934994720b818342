"""Several flows with weights, as one density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from diffeo.context import ContextSpec, repeat_context
from diffeo.flow import Flow
from diffeo.pretrained.hub import PretrainedModel
from diffeo.utils.machine import widest
from diffeo.utils.modules import eval_mode, in_chunks
from diffeo.utils.ranges import NonNegative, Whole, checked

LEAST = 1e-30  # a weight, so that its logarithm is finite
STEPS, GAIN = 10_000, 1e-10  # of EM, which ends where the mean log-likelihood gains less


class FlowMixture(PretrainedModel):
    """A mixture of flows.

        log p(x) = log sum_k w_k p_k(x)

    The weights are learned by gradients with all else, or by `stack` on rows that no flow has
    seen, which needs a moment and never makes these rows less likely. `save_pretrained` writes it,
    and `diffeo.load` loads it.

    Args:
        flows: densities of the same events, given the same context.
        weights: of the flows, in any unit; by default equal.

    Attributes:
        metadata: plain values that are saved with the model.

    Raises:
        ValueError: if there is no flow, or they differ in shape or context, or the weights do not
            fit; by methods, as those of `Flow` do.

    (Wolpert 1992; Smyth & Wolpert 1999)
    """

    def __init__(self, *flows: Flow, weights: Sequence[NonNegative] | None = None) -> None:
        super().__init__()
        if not flows:
            raise ValueError("a mixture of no flows has no density: pass one or more.")
        for flow in flows[1:]:
            for what in ("shape", "context"):
                one, other = getattr(flows[0], what), getattr(flow, what)
                if one != other:
                    raise ValueError(
                        f"flows of {what} {one} and {other} cannot be mixed: pass flows of one."
                    )
        chosen = [1.0] * len(flows) if weights is None else [float(w) for w in weights]
        if len(chosen) != len(flows) or not sum(chosen):
            raise ValueError(f"the weights are {chosen}: give {len(flows)}, not all of them 0.")
        self.flows: nn.ModuleList = nn.ModuleList(flows)
        self.shape: tuple[int, ...] = flows[0].shape
        self.dims: int = flows[0].dims
        self.context: ContextSpec = flows[0].context
        self.logits: nn.Parameter = nn.Parameter(
            torch.tensor([math.log(max(w, LEAST)) for w in chosen])
        )
        self.metadata: dict[str, Any] = {}

    @property
    def weights(self) -> Tensor:
        """w, `(flows,)`; their sum is 1."""
        return self.logits.softmax(0)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.logits.device

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """Log-density of each event of x `(batch, *shape)`: `(batch,)`, in nats (see `Flow`)."""
        terms = [flow(x, context, generator=generator) for flow in self.flows]
        return (self.logits.log_softmax(0) + torch.stack(terms, dim=1)).logsumexp(1)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """`log_prob`: what hooks, and `DistributedDataParallel`, are for."""
        return self.log_prob(x, context, generator=generator)

    @torch.no_grad()
    @checked
    def sample(
        self,
        n: Whole,
        context: Tensor | int | None = None,
        *,
        temperature: NonNegative = 1.0,
        generator: Generator | None = None,
    ) -> Tensor:
        """Draw n events `(n, *shape)`, each from a flow that is drawn by weight (see `Flow`)."""
        context = repeat_context(context, n, self.device)
        place = self.device if generator is None else generator.device
        weights = self.weights.to(place)
        member = torch.zeros(0, dtype=torch.long, device=place)
        if n:
            member = weights.multinomial(n, replacement=True, generator=generator)
        member = member.to(self.device)
        parts, order = [], []
        for k, flow in enumerate(self.flows):
            rows = (member == k).nonzero()[:, 0]
            given = None if context is None else context[rows]
            options: dict[str, Any] = {"temperature": temperature, "generator": generator}
            parts.append(flow.sample(len(rows), given, **options))  # type: ignore[operator]
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    @torch.no_grad()
    def stack(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Self:
        """Set the weights to those under which events x are most likely, by EM.

        Args:
            x: events `(batch, *shape)` that no flow has learned from; of others, the flow that has
                learned them by heart would get all weight.
            context: theirs.
            generator: of the noise of dequantizers.

        Returns the mixture itself. Events that no flow gives a density above 0 do not count.

        Raises:
            ValueError: if all events are of that kind.
        """
        terms = []
        for flow in self.flows:
            assert isinstance(flow, Flow)

            def score(x: Tensor, context: Tensor | None, flow: Flow = flow) -> Tensor:
                return flow.log_prob(x, context, generator=generator)

            with eval_mode(flow):
                terms.append(in_chunks(score, x, context, flow.chunk, flow.device))
        logs = torch.stack(terms).to(widest(self.device))
        logs = logs[:, logs.isfinite().any(0) & ~logs.isnan().any(0)]
        if not logs.shape[1]:
            raise ValueError("no event has a density above 0 under any flow: pass others.")
        log_w = torch.full_like(logs[:, 0], -math.log(len(logs)))
        before = -math.inf
        for _ in range(STEPS):
            joint = log_w[:, None] + logs
            now = float(joint.logsumexp(0).mean())
            if now - before < GAIN:
                break
            before = now
            log_w = joint.softmax(0).mean(1).clamp(min=LEAST).log()
        self.logits.copy_(log_w)
        return self

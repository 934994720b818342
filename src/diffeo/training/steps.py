"""What one step of learning is made of, for any loop: no Lightning in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

# v of a weight g v / |v| (Salimans & Kingma 2016): its length means nothing, so none is penalised.
DIRECTION = ".original1"


@dataclass(frozen=True)
class OptimizerOptions:
    """How the weights are learned.

    Args:
        lr: Largest learning rate of Adam; by default 8e-3 for tables and 4e-3 for pictures.
        l2: L2 penalty on weights (not on biases and scales), added to their gradient; of
            weight-normalised ones, on the magnitudes.
        schedule: "cosine" falls to 0 at the end; "constant" stays.
        warmup: Share of all steps over which the learning rate rises from 0.
        clip: Largest norm of the gradient of all weights; longer ones are shortened to it.
        ema: Decay of the running average of the weights, which is what is validated and saved; 0
            for the weights themselves.
    """

    lr: float | None = None
    l2: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    clip: float = 5.0
    ema: float = 0.995

    def lr_factor(self, done: float) -> float:
        """Share of the largest learning rate after the share `done` of the steps."""
        if done < self.warmup:
            # Not from 0 itself, which would waste the first step.
            return max(done / self.warmup, 1e-3)
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - self.warmup) / (1 - self.warmup))))

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The parameters for an optimizer: those that the penalty is on, and the others."""
        named = list(model.named_parameters())
        decays = [p.ndim > 1 and not name.endswith(DIRECTION) for name, p in named]
        return [
            {
                "params": [p for (_, p), decay in zip(named, decays, strict=True) if decay == kind],
                "weight_decay": self.l2 if kind else 0.0,
            }
            for kind in (True, False)
        ]

    @torch.no_grad()
    def average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], step: int) -> None:
        """Move the running averages after the weights of a step; steps count from 0."""
        # The first weights are soon forgotten, whatever the decay.
        decay = min(self.ema, (step + 1) / (step + 11))
        torch._foreach_lerp_(list(averages), list(weights), 1 - decay)

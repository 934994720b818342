"""Adam on all weights of a model at once, and the running average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from diffeo.training.options import OptimizerOptions
from diffeo.training.vectors import Vectors


class AveragedAdam:
    """Move weights down their gradient, and the weights of another model towards them.

    Args:
        model: what learns.
        averaged: a copy of it, which does not learn and holds the averages.
        options: how.
        lr: the largest learning rate.

    Attributes:
        weights: those of the model that learn, as vectors, whose gradients a step takes.
        lr: of the last step.

    (Kingma & Ba 2015; Polyak & Juditsky 1992 for the average)
    """

    def __init__(
        self, model: nn.Module, averaged: nn.Module, options: OptimizerOptions, lr: float
    ) -> None:
        self.options, self.lr, self.largest_lr = options, lr, lr
        groups = [group for group in options.groups(model) if group["params"]]
        average_of = dict(zip(model.parameters(), averaged.parameters(), strict=True))
        self.weights = Vectors(group["params"] for group in groups)
        self.averages = Vectors([average_of[w] for w in group] for group in self.weights.weights)
        for group, vector in zip(groups, self.weights.vectors, strict=True):
            group["params"] = [vector]
        self.adam = torch.optim.Adam(groups or [{"params": []}], lr=lr, fused=True)

    def clip(self) -> Tensor:
        """Shorten the gradient to the largest norm that is allowed: the norm before."""
        return clip_grad_norm_(self.weights.vectors, self.options.clip)

    def step(self, done: float) -> None:
        """Move the weights, when the share `done` of all steps is done."""
        self.lr = self.largest_lr * self.options.lr_factor(done)
        for group in self.adam.param_groups:
            group["lr"] = self.lr
        self.adam.step()

    def average(self, step: int) -> None:
        """Move the averages, after so many steps."""
        # The first weights are soon forgotten, whatever the decay.
        decay = min(self.options.ema, (step + 1) / (step + 11))
        for average, weight in zip(self.averages.vectors, self.weights.vectors, strict=True):
            average.data.lerp_(weight.data, 1 - decay)

    def release(self) -> None:
        """Give all weights memory of their own again."""
        self.weights.release()
        self.averages.release()

    def state_dict(self) -> dict[str, Any]:
        """That of Adam."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.adam.load_state_dict(self.weights.joined(state))

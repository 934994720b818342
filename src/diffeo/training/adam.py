"""Adam on all weights of a model at once, and the running average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffeo.training.options import OptimizerOptions
from diffeo.training.vectors import Vectors

MEAN, SQUARE, EPS = 0.9, 0.999, 1e-8  # decays of both moments, as in the paper, and its epsilon


class Adam:
    """Move weights down their gradient.

        m <- 0.9 m + 0.1 g,   v <- 0.999 v + 0.001 g^2,   w <- w - lr m' / (sqrt(v') + 1e-8)

    where g is the gradient, with the penalty l2 w, and m' and v' are m and v over one minus their
    decay to the power of the number of steps. All weights move in one operation of torch, which its
    own optimizer would call too; but that loads torch's compiler first, which takes two seconds.

    Args:
        model: what learns.
        options: how.
        lr: the largest learning rate.

    Attributes:
        weights: those of the model that learn, as vectors, whose gradients a step takes.
        lr: of the last step.

    (Kingma & Ba 2015)
    """

    def __init__(self, model: nn.Module, options: OptimizerOptions, lr: float) -> None:
        self.options = options
        self.lr: float = lr
        self.largest_lr = lr
        groups = [group for group in options.groups(model) if group["params"]]
        self.weights: Vectors = Vectors(group["params"] for group in groups)
        vectors = [vector.data for vector in self.weights.vectors]
        self.l2: list[float] = [group["weight_decay"] for group in groups]
        self.means: list[Tensor] = [torch.zeros_like(vector) for vector in vectors]
        self.squares: list[Tensor] = [torch.zeros_like(vector) for vector in vectors]
        self.steps: int = 0

    @torch.no_grad()
    def clip(self) -> Tensor:
        """Shorten the gradient to the largest norm that is allowed: the norm before."""
        gradients = self.weights.gradients()
        norm = torch.stack([gradient.norm() for gradient in gradients] or [torch.zeros(())]).norm()
        factor = (self.options.clip / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)
        return norm

    @torch.no_grad()
    def step(self, done: float) -> None:
        """Move the weights, when the share `done` of all steps is done."""
        self.lr, self.steps = self.largest_lr * self.options.lr_factor(done), self.steps + 1
        weights = [vector.data for vector in self.weights.vectors]
        parts = zip(
            weights, self.weights.gradients(), self.l2, self.means, self.squares, strict=True
        )
        for weight, gradient, l2, mean, square in parts:
            count = torch.full((), self.steps, dtype=torch.float32, device=weight.device)
            torch._fused_adam_(
                [weight],
                [gradient],
                [mean],
                [square],
                [],
                [count],
                lr=self.lr,
                beta1=MEAN,
                beta2=SQUARE,
                weight_decay=l2,
                eps=EPS,
                amsgrad=False,
                maximize=False,
            )

    def hold(self) -> None:
        """Let all weights be views of the vectors, before the first of some steps."""
        self.weights.hold()

    def release(self) -> None:
        """Give all weights memory of their own again."""
        self.weights.release()

    def state_dict(self) -> dict[str, Any]:
        """Both moments, and after how many steps."""
        return {"steps": self.steps, "means": self.means, "squares": self.squares}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: if it is that of other weights.
        """
        if "param_groups" in state:
            state = self._of_torch(state)
        for ours, saved in (self.means, state["means"]), (self.squares, state["squares"]):
            for vector, value in zip(ours, saved, strict=True):
                if vector.shape != value.shape:
                    raise ValueError(f"{len(value)} weights are not {len(vector)}.")
                vector.copy_(value)
        self.steps = int(state["steps"])

    def _of_torch(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of one of torch's optimizers, in checkpoints of before 0.2."""
        known = state["state"]  # of each weight by its number; of none before the first step
        if not known:
            return self.state_dict()
        groups = [group["params"] for group in state["param_groups"] if group["params"]]

        def joined(name: str) -> list[Tensor]:
            parts = [[known[number][name] for number in group] for group in groups]
            return [self.weights.joined(part, place) for place, part in enumerate(parts)]

        steps = next(iter(known.values()))["step"]
        return {"steps": steps, "means": joined("exp_avg"), "squares": joined("exp_avg_sq")}


class AveragedAdam(Adam):
    """Move weights down their gradient, and the weights of another model towards them.

        average <- decay average + (1 - decay) w

    Args:
        model: what learns.
        averaged: a copy of it, which does not learn and holds the averages.
        options: how.
        lr: the largest learning rate.

    (Polyak & Juditsky 1992)
    """

    def __init__(
        self, model: nn.Module, averaged: nn.Module, options: OptimizerOptions, lr: float
    ) -> None:
        super().__init__(model, options, lr)
        average_of = dict(zip(model.parameters(), averaged.parameters(), strict=True))
        self.averages: Vectors = Vectors(
            [average_of[w] for w in group] for group in self.weights.weights
        )

    def average(self, step: int) -> None:
        """Move the averages, after so many steps."""
        # The first weights are soon forgotten, whatever the decay.
        decay = min(self.options.ema, (step + 1) / (step + 11))
        for average, weight in zip(self.averages.vectors, self.weights.vectors, strict=True):
            average.data.lerp_(weight.data, 1 - decay)

    def hold(self) -> None:
        """Let all weights be views of the vectors, and all averages of theirs."""
        super().hold()
        self.averages.hold()

    def release(self) -> None:
        """Give all weights and averages memory of their own again."""
        super().release()
        self.averages.release()

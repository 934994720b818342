"""What Lightning needs to know to train a flow by maximum likelihood."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Generator, Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffeo.flow import Flow
from diffeo.training.batches import mix

Batch = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class OptimizerOptions:
    """How the weights are learned.

    Args:
        lr: Largest learning rate of Adam.
        l2: L2 penalty on weights (not on biases and scales), added to their gradient.
        schedule: "cosine" falls to 0 at the end; "constant" stays.
        warmup: Share of all steps over which the learning rate rises from 0.
        clip: Largest norm of the gradient of all weights; longer ones are shortened to it.
        ema: Decay of the running average of the weights, which is what is validated and saved; 0
            for the weights themselves.
    """

    lr: float = 8e-3
    l2: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    clip: float = 5.0
    ema: float = 0.995


class FlowModule(pl.LightningModule):
    """Minimise the mean negative log-likelihood of a flow, in nats.

    Args:
        flow: what is trained, initialised from data.
        options: how.
        seed: all random numbers of an epoch follow from it and from the epoch's number.

    Attributes:
        averaged_flow: the flow with the running average of the weights, to validate and to keep.

    Raises:
        FloatingPointError: in training, when three steps in a row have no finite gradient.
    """

    def __init__(self, flow: Flow, options: OptimizerOptions, seed: int = 0) -> None:
        super().__init__()
        self.flow = flow
        self.options = options
        self.seed = seed
        # Without gradients, for which distributed training would wait in vain.
        self.averaged_flow: Flow = copy.deepcopy(flow).requires_grad_(False)
        self.lost_steps = 0

    def on_fit_start(self) -> None:
        # Lists, since to walk through the modules at each step takes longer than to average them.
        self.weights: list[Tensor] = list(self.flow.parameters())
        self.averages: list[Tensor] = list(self.averaged_flow.parameters())

    # Steps --------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(mix(self.seed, self.current_epoch, self.global_rank))
        self.train_sum, self.train_batches = torch.zeros((), device=self.device), 0

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = -self.flow.log_prob(*batch).mean()
        self.train_sum += loss.detach()
        self.train_batches += 1
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        n = self.trainer.global_step
        # The first weights are soon forgotten, whatever the decay.
        decay = min(self.options.ema, n / (n + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.weights, 1 - decay)

    def on_validation_epoch_start(self) -> None:
        # Here, and not at the end of the epoch, so that callbacks find both losses there.
        self.log("train_nll", self.train_sum / self.train_batches, sync_dist=True)
        for average, value in zip(self.averaged_flow.buffers(), self.flow.buffers(), strict=True):
            average.copy_(value)
        # The same noise in every epoch, where a flow dequantizes: epochs compare.
        self.noise = Generator(self.device).manual_seed(mix(self.seed, self.global_rank))

    def validation_step(self, batch: Batch, _: int) -> None:
        nll = -self.averaged_flow.log_prob(*batch, generator=self.noise).mean()
        self.log("val_nll", nll, batch_size=len(batch[0]), sync_dist=True)

    # Optimizer ----------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        weights = [p for p in self.flow.parameters() if p.ndim > 1]
        others = [p for p in self.flow.parameters() if p.ndim <= 1]
        groups = [
            {"params": weights, "weight_decay": self.options.l2},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = Adam(groups, lr=self.options.lr, fused=True)
        steps = self.trainer.estimated_stepping_batches
        scheduler = LambdaLR(optimizer, lambda step: self._lr_factor(step / max(1, steps)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _lr_factor(self, done: float) -> float:
        """Share of the largest learning rate after the share `done` of the steps."""
        warmup = self.options.warmup
        if done < warmup:
            # Not from 0 itself, which would waste the first step.
            return max(done / warmup, 1e-3)
        if self.options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.options.clip)
        if torch.isfinite(norm):
            self.lost_steps = 0
            return
        # A weight without a gradient is left as it is: the step is skipped.
        optimizer.zero_grad(set_to_none=True)
        self.lost_steps += 1
        where = f"step {self.global_step} of epoch {self.current_epoch}"
        if self.lost_steps == 3:
            raise FloatingPointError(f"three steps in a row had no finite gradient, up to {where}")
        warnings.warn(f"{where} had no finite gradient and was skipped.", stacklevel=1)

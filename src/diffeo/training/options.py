"""The options of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from diffeo.flow import Flow
from diffeo.utils.machine import Device
from diffeo.utils.ranges import Count, NonNegative, Positive, Share, check_arguments

TrainingMemory = Literal["auto", "stored", "constant"]
Compile = Literal["auto", "on", "off"]

TABLE_BATCH, IMAGES_BATCH = 1024, 64
TABLE_LR, IMAGES_LR = 8e-3, 4e-3
# v of a weight g v / |v| (Salimans & Kingma 2016): its length means nothing, so none is penalised.
DIRECTION = ".original1"


@dataclass(frozen=True)
class TrainerOptions:
    """How long training takes, and on which devices.

    Args:
        max_epochs: Passes over the training rows; by default as many as make 2,800 steps.
        batch_size: Rows of one step, in each process; by default 1,024, or 64 images.
        patience: Stop when the validation loss has not fallen for so many epochs; by default a
            quarter of them all, and at most 100.
        figure_every: Epochs between two figures; by default ten are drawn in all, and fewer where
            that would take more than a twentieth of the time.
        temperature: That of the samples in the figures.
        device: "cpu", "cuda", "mps", or "auto" for the fastest that is there.
        devices: How many devices of this machine, with a process for each. Where torchrun or SLURM
            started the processes, their number counts.
        memory: "stored" keeps all activations of a step, "constant" recomputes them, for about a
            third more time and memory that does not grow with depth; "auto" is constant where they
            would need more than half of the free memory.
        compile: "on" compiles the flow with torch.compile, "off" does not; "auto" measures a few
            steps of a long training, and compiles where that saves time.
        threads: How many threads compute the steps on a CPU; by default one, or all where a few
            measured steps say that these are a tenth faster.
        detect_anomaly: Stop at the first step whose loss or gradient is not finite, and name the
            layer, instead of skipping up to two of them. `--detect_anomaly` is short for
            `--trainer.detect_anomaly true`.
    """

    max_epochs: Count | None = None
    batch_size: Count | None = None
    patience: Count | None = None
    figure_every: Count | None = None
    temperature: NonNegative = 1.0
    device: Device = "auto"
    devices: Count = 1
    memory: TrainingMemory = "auto"
    compile: Compile = "auto"
    threads: Count | None = None
    detect_anomaly: bool = False

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))

    def batch_size_for(self, flow: Flow) -> int:
        """Rows of a step of a flow, in each process."""
        return self.batch_size or (IMAGES_BATCH if flow.takes_pixels else TABLE_BATCH)


@dataclass(frozen=True)
class OptimizerOptions:
    """How the weights are learned.

    Args:
        lr: Largest learning rate of Adam; by default 8e-3 for tables, 4e-3 for images, and 1e-3 for
            transformers.
        l2: L2 penalty on weights (not on biases and scales), added to their gradient; of
            weight-normalised ones, on the magnitudes.
        schedule: "cosine" falls to 0 at the end; "constant" stays.
        warmup: Share of all steps, below 1, over which the learning rate rises from 0.
        clip: Largest norm of the gradient of all weights; longer ones are shortened to it.
        ema: Decay, below 1, of the running average of the weights, which is what is validated and
            saved; 0 for the weights themselves.
    """

    lr: Positive | None = None
    l2: NonNegative = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Share = 0.1
    clip: Positive = 5.0
    ema: Share = 0.995

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))

    def largest_lr(self, flow: Flow) -> float:
        """The largest learning rate for a flow."""
        return self.lr or flow.usual_lr or (IMAGES_LR if flow.takes_pixels else TABLE_LR)

    def lr_factor(self, done: float) -> float:
        """Share of the largest learning rate after the share `done` of the steps."""
        if done < self.warmup:
            # Not from 0 itself, which would waste the first step.
            return max(done / self.warmup, 1e-3)
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - self.warmup) / (1 - self.warmup))))

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The parameters for an optimizer: those with the penalty, and the others."""
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                decays = weight.ndim > 1 and not name.endswith(DIRECTION)
                (decayed if decays else others).append(weight)
        return [
            {"params": decayed, "weight_decay": self.l2},
            {"params": others, "weight_decay": 0.0},
        ]


def loss_of(flow: Flow) -> tuple[str, str]:
    """The name of a flow's loss in metrics, "nll" or "bpd", and its unit."""
    return ("bpd", "bits/dim") if flow.takes_pixels else ("nll", "nats")

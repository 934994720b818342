"""What may be said about training, and what needs nothing that trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from diffeo.flow import Flow
from diffeo.training.memory import TrainingMemory

# Of Lightning's strategies, those that leave no process the whole model.
SHARDED = ("fsdp", "deepspeed", "model_parallel")


@dataclass(frozen=True)
class TrainerOptions:
    """How long training takes, and on which machines.

    Args:
        max_epochs: Passes over the training rows; by default as many as make 3,200 steps.
        batch_size: Rows of one step, in each process; by default 1,024, or 64 pictures.
        patience: Stop when the validation loss has not fallen for so many epochs; by default a
            quarter of them all, and at most 100.
        figure_every: Epochs between two pictures; by default ten pictures are drawn in all.
        temperature: That of the samples in the pictures.
        accelerator: "auto", "cpu", "gpu" or another of Lightning's.
        devices: How many devices of each machine, a process each. What torchrun or SLURM have
            started counts more.
        num_nodes: How many machines; likewise.
        strategy: Lightning's way to spread the work: "auto", "ddp" and others that give each
            process all weights.
        memory: "stored" keeps all activations of a step, "constant" rebuilds them, for about a
            quarter more time and memory that does not grow with depth; "auto" takes it where they
            would need more than half of the memory that is free.
        detect_anomaly: Look at all that each layer makes of each batch and of its gradient, and
            stop at the first number that is not finite, naming the layer; steps take longer.
            `--detect_anomaly` alone is the same as `--trainer.detect_anomaly true`.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    patience: int | None = None
    figure_every: int | None = None
    temperature: float = 1.0
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    memory: TrainingMemory = "auto"
    detect_anomaly: bool = False

    def __post_init__(self) -> None:
        if self.memory not in get_args(TrainingMemory):
            choices = ", ".join(get_args(TrainingMemory))
            raise ValueError(f"there is no memory {self.memory!r}: choose one of {choices}.")
        if any(part in self.strategy for part in SHARDED):
            raise ValueError(
                f"the strategy {self.strategy!r} gives each process a part of the weights, and "
                "what is validated, drawn and saved needs them all: take --trainer.strategy ddp, "
                "and --trainer.memory constant where activations do not fit."
            )


def loss_of(flow: Flow) -> tuple[str, str]:
    """How the loss of a flow is called in metrics, "nll" or "bpd", and what it is in."""
    return ("bpd", "bits/dim") if flow.takes_pixels else ("nll", "nats")


def limit_threads() -> None:
    """Use no more threads than there are cores for this process, as containers allot them."""
    from joblib import cpu_count
    from threadpoolctl import ThreadpoolController

    cores = cpu_count()
    torch.set_num_threads(min(torch.get_num_threads(), cores))
    # Only ever fewer: a user who asked for one thread, to run two trainings at once, keeps it.
    pools = ThreadpoolController()
    for pool in pools.lib_controllers:
        if pool.num_threads is not None and pool.num_threads > cores:
            pool.set_num_threads(cores)

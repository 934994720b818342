"""Whether training stores what the backward pass needs, or recomputes it in constant memory."""

from __future__ import annotations

import copy

import torch
from rich.console import Console
from torch import Generator, Tensor

from diffeo.bijections.memory import Memory
from diffeo.data.datasets import Rows
from diffeo.flow import Flow
from diffeo.training.options import TrainingMemory
from diffeo.utils.machine import free_memory

# Besides the activations a step needs gradients, averages, and room to compute in.
SHARE = 0.5
# Two, since statistics of one row alone do not exist.
FEW = 2


def settle_memory(
    memory: TrainingMemory,
    flow: Flow,
    rows: Rows,
    batch_size: int,
    device: torch.device,
    console: Console,
    *,
    processes: int = 1,
) -> None:
    """Let a flow train with the memory that is asked for.

    "auto" is constant memory where the activations of a batch would need more than half of what is
    free on the device, if that spares any, and prints so. Else it leaves the flow as it is, which
    is "stored" unless its chains were made otherwise.

    Args:
        memory: what is asked for.
        flow: its networks' precision is set, and it has been initialised.
        rows: what is learned from.
        batch_size: rows of a step.
        device: where it will be trained.
        console: where to print.
        processes: how many share the memory of the device.
    """
    if memory != "auto":
        flow.set_memory(memory)
        return
    free = free_memory(device) / processes
    stored = activations(flow, rows, batch_size, device, enough=SHARE * free)
    if stored <= SHARE * free:
        return
    if activations(flow, rows, batch_size, device, memory="constant") < stored:
        flow.set_memory("constant")
        console.print(
            f"The activations of a batch would take {_size(stored)} of the {_size(free)} that are "
            "free: they are recomputed instead, which takes about a third more time; "
            "--trainer.memory stored keeps them.",
            highlight=False,
            soft_wrap=True,
        )


def activations(
    flow: Flow,
    rows: Rows,
    batch_size: int,
    device: torch.device | str = "cpu",
    *,
    memory: Memory | None = None,
    enough: float = 0.0,
) -> float:
    """The bytes that one training step of a flow saves for its backward pass; an estimate.

        saved(2) + (batch_size - 2) * (saved(3) - saved(2))

    saved(n) is the size of the tensors that autograd saves in the forward pass of n rows; some of
    it, such as weights in another precision, does not grow with the batch. A copy of the flow is
    tried, and no random state is touched. 0 for a flow that cannot be tried on so few rows.

    Args:
        flow: what is trained.
        rows: what is learned from; its first three are used.
        batch_size: rows of a step.
        device: where it will be trained.
        memory: of its chains (see `Flow.set_memory`); None leaves it as it is.
        enough: where saved(2) * batch_size / 2, which is more, is below that, it is returned, and
            the second trial is spared.
    """
    device = torch.device(device)
    trial = copy.deepcopy(flow).to(device).train()
    if memory is not None:
        trial.set_memory(memory)
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(cuda):
            few = _saved(trial, rows, FEW, device)
            bound = few * max(1.0, batch_size / FEW)
            if bound <= enough:
                return bound
            more = _saved(trial, rows, FEW + 1, device)
    # A model of somebody's own may refuse in any way; training will report why, if it does too.
    except Exception:
        return 0.0
    return few + (batch_size - FEW) * max(0, more - few)


def _saved(flow: Flow, rows: Rows, count: int, device: torch.device) -> int:
    """The bytes that the graph of the first rows saves, weights and what they come in left out."""
    # Repeated where there are fewer, as a batch of that few would be.
    x, context = rows.take(torch.arange(count) % len(rows))
    x, context = x.to(device), None if context is None else context.to(device)
    generator = None if flow.dequantizer is None else Generator(device).manual_seed(0)
    known = {
        tensor.untyped_storage().data_ptr() for tensor in (*flow.parameters(), *flow.buffers())
    }
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # As long as it is held, its address stands for no other.
        return saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        flow.log_prob(x, context, generator=generator).mean()
    return sum(t.untyped_storage().nbytes() for place, t in saved.items() if place not in known)


def _size(count: float) -> str:
    """Bytes in words: of a GB and more in GB, else in MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"

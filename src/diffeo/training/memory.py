"""Whether training stores what the backward pass needs, or rebuilds it in constant memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Generator, Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from diffeo.bijections.memory import Memory
from diffeo.data.batches import Rows
from diffeo.flow import Flow
from diffeo.utils.memory import free_memory

TrainingMemory = Literal["auto", "stored", "constant"]
# Beside the activations a step needs gradients, averages, and room to compute in.
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
    free on the device, if that spares any, and says so. Else it leaves the flow as it is, which is
    "stored" unless its chains were made otherwise.

    Args:
        memory: what is asked for.
        flow: its networks' precision is set, and it has been initialised.
        rows: what is learned from.
        batch_size: rows of a step.
        device: where it will be trained.
        console: where to report.
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
            "free: they are rebuilt instead, which takes about a quarter more time; "
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
    """The bytes that one training step of a flow keeps for its backward pass; an estimate.

        kept(2) + (batch_size - 2) * (kept(3) - kept(2))

    Kept is what is alive after the forward pass of so many rows and was not before; some of it,
    such as weights in another precision, does not grow with the batch. A copy of the flow is
    tried, and no random state is touched. 0 for a flow that cannot be tried on so few rows.

    Args:
        flow: what is trained.
        rows: what is learned from; its first three are used.
        batch_size: rows of a step.
        device: where it will be trained.
        memory: of its chains (see `Flow.set_memory`); None leaves it as it is.
        enough: where kept(2) * batch_size / 2, which is more, is below that, it is returned, and
            the second trial is spared.
    """
    device = torch.device(device)
    trial = copy.deepcopy(flow).to(device).train()
    if memory is not None:
        trial.set_memory(memory)
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(cuda):
            few = _kept(trial, rows, FEW, device)
            bound = few * max(1.0, batch_size / FEW)
            if bound <= enough:
                return bound
            more = _kept(trial, rows, FEW + 1, device)
    # A model of somebody's own may refuse in any way; training will say why, if it does too.
    except Exception:
        return 0.0
    return few + (batch_size - FEW) * max(0, more - few)


def _kept(flow: Flow, rows: Rows, count: int, device: torch.device) -> int:
    """The bytes that are alive after the forward pass of the first rows, and were not before."""
    # Repeated where there are fewer, as a batch of that few would be.
    x, context = rows.take(torch.arange(count) % len(rows))
    x, context = x.to(device), None if context is None else context.to(device)
    generator = None if flow.dequantizer is None else Generator(device).manual_seed(0)
    with torch.enable_grad(), _Made((*flow.parameters(), *flow.buffers())) as made:
        loss = flow.log_prob(x, context, generator=generator).mean()
    kept = made.alive()
    del loss  # which held the graph
    return kept


class _Made(TorchDispatchMode):
    """Note all memory that operations take while it is on, to see what of it stays alive.

    Args:
        known: tensors that are there already, and may change or be seen under other shapes.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.sizes: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        # An address stands for one storage only, as long as somebody refers to it, if weakly.
        if storage._cdata not in self.known and storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = StorageWeakRef(storage), storage.nbytes()

    def alive(self) -> int:
        """The bytes that somebody still holds."""
        return sum(size for storage, size in self.sizes.values() if not storage.expired())


def _size(count: float) -> str:
    """Bytes in words: of a GB and more in GB, else in MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"

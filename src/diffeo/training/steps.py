"""How the steps of a training are computed: in which memory, and compiled or not."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Generator, Tensor

from diffeo.bijections.chain import Chain
from diffeo.bijections.memory import Memory
from diffeo.flow import Flow
from diffeo.training.compiled import CompiledGradient, can_be_one_program
from diffeo.training.loop import Batch, Training
from diffeo.training.objective import Objective
from diffeo.utils.console import size_text
from diffeo.utils.machine import forked_random, free_memory

# Of the free memory; the rest is for gradients, averages, and room to compute in.
SHARE = 0.5
# Steps that take less than so many seconds in all are not worth measuring: compiling takes longer.
WORTH = 60.0
STEPS = 5


def choose_memory(training: Training, console: Console) -> None:
    """Let a flow train with the memory that is asked for.

    "auto" is constant memory where the activations of a batch would need more than half of what is
    free on the device, if that spares any, and prints so. Else it leaves the flow as it is, which
    is "stored" unless its chains were made otherwise.
    """
    flow, asked = training.flow, training.options.memory
    if asked != "auto":
        flow.set_memory(asked)
        return
    # A GPU is one process's own; the processes of a machine share what else it has.
    sharing = 1 if training.device.type == "cuda" else training.processes.world
    free, stored = free_memory(training.device) / sharing, activations(training)
    if stored > SHARE * free and activations(training, "constant") < stored:
        flow.set_memory("constant")
        say(
            console,
            f"The activations of a batch would take {size_text(stored)} of the {size_text(free)} "
            "that are free: they are recomputed instead, which takes about a third more time; "
            "--trainer.memory stored keeps them.",
        )


def activations(training: Training, memory: Memory | None = None) -> float:
    """The bytes that one training step saves for its backward pass; an estimate.

        saved(2) + (batch_size - 2) * (saved(3) - saved(2))

    saved(n) is the size of the tensors that autograd saves in the forward pass of n rows; some of
    it, such as weights in another precision, does not grow with the batch. A copy of the flow is
    tried, and no random state is touched. 0 for a flow that cannot be tried on so few rows.

    Args:
        training: its flow has been initialised.
        memory: of the flow's chains (see `Flow.set_memory`); None leaves it as it is.
    """
    flow, batches = copy.deepcopy(training.flow).train(), training.batches
    if memory is not None:
        flow.set_memory(memory)
    sizes = []
    try:
        for count in (2, 3):  # from two on, since statistics of one row alone do not exist
            # Repeated where there are fewer, as a batch of that few would be.
            rows = batches.rows.take(torch.arange(count) % len(batches.rows))
            sizes.append(_saved(flow, training.place(rows)))
    # A model of somebody's own may refuse in any way; training will report why, if it does too.
    except Exception:
        return 0.0
    two, three = sizes
    return two + (training.options.batch_size_for(flow) - 2) * max(0, three - two)


def _saved(flow: Flow, batch: Batch) -> int:
    """The bytes that the graph of a batch saves, weights and what they come in left out."""
    known = {
        tensor.untyped_storage().data_ptr() for tensor in (*flow.parameters(), *flow.buffers())
    }
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # As long as it is held, its address stands for no other.
        return saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        _loss(flow, batch)
    return sum(t.untyped_storage().nbytes() for place, t in saved.items() if place not in known)


def choose_compile(training: Training, console: Console) -> None:
    """Compile the steps of a training if it is asked for, or if measured ones say that it pays.

    The gradient is compiled as one program where that can be, and else the flow's bijection.
    "auto" measures a few steps, as they are and compiled, and prints what it chose. It compiles
    neither short trainings nor those of several processes or in constant memory. A resumed
    training stays as it was, so that its numbers are those of an unbroken one.

    Raises:
        ValueError: if "on" is asked for and there is no compiler.
    """
    asked = training.options.compile
    if asked == "auto" and training.epoch == 0:
        training.compiled = _compiling_pays(training, console)
    elif asked != "auto":
        training.compiled = asked == "on"
    if training.compiled and not isinstance(training.gradient, CompiledGradient):
        if program := _as_one_program(training):
            training.gradient = program
        else:
            training.flow.compile()


def _as_one_program(training: Training) -> CompiledGradient | None:
    if training.processes.world > 1 or not can_be_one_program(training.flow):
        return None
    return CompiledGradient(training.flow, training.nats, training.adam.weights)


def _compiling_pays(training: Training, console: Console) -> bool:
    flow = training.flow
    constant = any(isinstance(part, Chain) and part.memory == "constant" for part in flow.modules())
    if training.processes.world > 1 or constant:
        return False
    plain, _ = measure(training, differentiate(copy.deepcopy(flow)))
    if plain * training.steps < WORTH:
        return False
    try:
        program = _as_one_program(training)
        trial = program or differentiate(copy.deepcopy(flow).compile())
        compiled, first = measure(training, trial)
    except Exception as error:  # whatever a compiler makes of a model of somebody's own
        reason = str(error).rstrip(".") if isinstance(error, ValueError) else type(error).__name__
        say(console, f"Steps are not compiled: {reason}.")
        return False
    times = f"{compiled * 1e3:.1f} ms compiled, {plain * 1e3:.1f} ms as they are"
    pays = (plain - compiled) * training.steps > first
    text = f"Steps are not compiled, since that would save no time ({times})."
    if pays:
        text = f"Steps are compiled ({times}); --trainer.compile off computes them as they are."
        training.gradient = program or training.gradient
    say(console, text)
    return pays


def measure(training: Training, gradient: Callable[..., Tensor]) -> tuple[float, float]:
    """The median seconds of a gradient, and those of the first, which may compile."""
    batch, device = training.place(training.calibration[0]), training.device
    training.flow.train()
    seconds = []
    for _ in range(STEPS + 1):
        noise = None if training.noise is None else Generator(device).manual_seed(0)
        start = time.perf_counter()
        with forked_random(device):
            gradient(*batch, None, noise)
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    first, *others = seconds
    return statistics.median(others), first


def differentiate(flow: Flow) -> Callable[..., Tensor]:
    """The gradient of a flow's loss by autograd, as a function of what an `Objective` takes."""
    objective = Objective(flow.train(), 1.0)

    def gradient(*batch: Any) -> Tensor:
        loss = objective(*batch)
        loss.backward()
        return loss

    return gradient


def _loss(flow: Flow, batch: Batch) -> Tensor:
    """The loss of a batch; the global random state stays as it was."""
    x, context = batch
    generator = None if flow.dequantizer is None else Generator(flow.device).manual_seed(0)
    with forked_random(flow.device):
        return -flow.log_prob(x, context, generator=generator).mean()


def say(console: Console, text: str) -> None:
    """Print a sentence on how a training is computed, in one line."""
    console.print(text, highlight=False, soft_wrap=True)

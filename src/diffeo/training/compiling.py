"""Whether a training compiles its flow: where that saves more time than compiling takes."""

from __future__ import annotations

import copy
import statistics
import time

import torch
from rich.console import Console
from torch import Generator

from diffeo.bijections.chain import Chain
from diffeo.flow import Flow
from diffeo.training.loop import Batch, Training

# Steps that take less than so many seconds in all are not worth measuring: compiling takes longer.
WORTH = 60.0
STEPS = 5


def settle_compile(training: Training, console: Console) -> None:
    """Compile the flow of a training if it is asked for, or if measured steps say that it pays.

    "auto" measures a few steps of a copy, as it is and compiled, and prints what it chose. It
    compiles neither short trainings nor those of several processes or in constant memory. A
    resumed training stays as it was, so that its numbers are those of an unbroken one.

    Raises:
        ValueError: if "on" is asked for and there is no compiler.
    """
    flow, asked = training.flow, training.options.compile
    if asked == "off":
        training.compiled = False
    elif asked == "on" or training.compiled:
        flow.compile()
        training.compiled = True
    elif training.epoch == 0 and training.processes.world == 1 and not _is_constant(flow):
        batch = training.place(training.calibration[0])
        left = training.steps
        plain, _ = _measure(copy.deepcopy(flow), batch)
        if plain * left < WORTH:
            return
        try:
            compiled, first = _measure(copy.deepcopy(flow).compile(), batch)
        except Exception as error:  # whatever a compiler makes of a model of somebody's own
            reason = str(error).strip().splitlines()[0] if isinstance(error, ValueError) else ""
            reason = reason.rstrip(".") or f"torch.compile failed with {type(error).__name__}"
            _print(console, f"Steps are not compiled: {reason}.")
            return
        times = f"{compiled * 1e3:.1f} ms compiled, {plain * 1e3:.1f} ms as they are"
        if (plain - compiled) * left > first:
            flow.compile()
            training.compiled = True
            text = f"Steps are compiled ({times}); --trainer.compile off computes them as they are."
            _print(console, text)
        else:
            _print(console, f"Steps are not compiled, since that would save no time ({times}).")


def _is_constant(flow: Flow) -> bool:
    return any(isinstance(part, Chain) and part.memory == "constant" for part in flow.modules())


def _measure(flow: Flow, batch: Batch) -> tuple[float, float]:
    """The median seconds of a step, and those of the first, which compiles."""
    flow.train()
    x, context = batch
    cuda = [flow.device] if flow.device.type == "cuda" else []
    generator = None if flow.dequantizer is None else Generator(flow.device).manual_seed(0)
    seconds = []
    with torch.random.fork_rng(cuda):
        for _ in range(STEPS + 1):
            start = time.perf_counter()
            loss = -flow.log_prob(x, context, generator=generator).mean()
            loss.backward()
            if flow.device.type != "cpu":
                torch.accelerator.synchronize()
            seconds.append(time.perf_counter() - start)
    first, *others = seconds
    return statistics.median(others), first


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)

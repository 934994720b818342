"""How many threads a training computes with: measured at its start, and fewer where others work."""

from __future__ import annotations

import copy
from time import perf_counter

import torch
from rich.console import Console

from diffeo.training.compiled import CompiledGradient
from diffeo.training.loop import Observer, Training
from diffeo.training.steps import differentiate, measure, say

# All threads have to be so much faster than one. Threads wait for each other: where other programs
# run, two of them were measured to take four times as long as one. What is lost if such programs
# start afterwards is an epoch.
GAIN = 1.1
ROUNDS = 2  # in turns, since machines are shared and stall
FEWEST = 200  # steps of a training that is worth measuring
SLOWER = 2.0  # than the fastest epoch: then other programs need the cores
SHORT = 1.0  # seconds of an epoch, below which its time says little


class Threads(Observer):
    """Compute on one thread, or on all that torch may use where those are a tenth faster.

    Both are measured for a few steps at the start. If an epoch takes twice as long as the
    fastest one, the rest is computed on one thread. A resumed training takes as many as before, so
    that its numbers are those of an unbroken one. Where a number is asked for it is that.

    Args:
        asked: how many; None to measure.
        console: where to print what was chosen.
    """

    def __init__(self, asked: int | None = None, console: Console | None = None) -> None:
        self.asked = asked
        self.console: Console = console or Console(quiet=True)
        self.fastest: float = float("inf")
        self.before: int
        self.started: float

    def on_start(self, training: Training) -> None:
        self.before = torch.get_num_threads()
        if self.asked:
            training.threads = self.asked
        elif training.device.type != "cpu" or training.processes.world > 1 or self.before == 1:
            return
        elif training.threads is None and training.steps >= FEWEST:
            training.threads = self._measured(training)
        if training.threads is not None:
            torch.set_num_threads(training.threads)

    def on_epoch_start(self, training: Training) -> None:
        self.started = perf_counter()

    def on_epoch_end(self, training: Training) -> None:
        seconds = perf_counter() - self.started
        self.fastest = min(self.fastest, seconds)
        busy = seconds > max(SHORT, SLOWER * self.fastest) and not self.asked
        if busy and training.threads is not None and training.threads > 1:
            training.threads = 1
            torch.set_num_threads(1)
            say(self.console, "Other programs need the cores: the rest is computed on one thread.")

    def on_end(self, training: Training) -> None:
        torch.set_num_threads(self.before)

    def _measured(self, training: Training) -> int:
        """One, or as many as torch may use."""
        gradient = training.gradient
        if not isinstance(gradient, CompiledGradient):
            gradient = differentiate(copy.deepcopy(training.flow))
        seconds = {1: float("inf"), self.before: float("inf")}
        for _ in range(ROUNDS):
            for count in seconds:
                torch.set_num_threads(count)
                seconds[count] = min(seconds[count], measure(training, gradient)[0])
        chosen = self.before if seconds[1] > GAIN * seconds[self.before] else 1
        one, all_of_them = (f"{1e3 * value:.1f} ms" for value in seconds.values())
        say(
            self.console,
            f"Steps are computed on {chosen} thread{'s' * (chosen > 1)} "
            f"({one} on one, {all_of_them} on {self.before}); --trainer.threads N takes N.",
        )
        return chosen

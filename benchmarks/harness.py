"""Measure by turns, A B C A B C, each side in a process of its own.

These machines are shared and stall, so that a time alone means little. What counts are ratios of
times taken one right after the other. A side is built in a process of its own, which then waits at
a pipe; only one works at a time, each after a warm-up. In a turn it repeats its unit of work for
about half a second, and answers with the seconds of one unit. With `--keep` all sides keep what
they free (`diffeo.utils.machine.keep_freed_memory`), as `diffeo train` does.

Memory is the operating system's count: how far the largest resident set rises over three training
steps of a fresh process. Parameters are there before the first of them; gradients, which are kept
from step to step to that end, and the optimizer's state are taken off.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from joblib import cpu_count
from rich.console import Console

from diffeo.utils.machine import keep_freed_memory

MIB, PAGE = 2**20, 2**12  # in less than a page nothing is counted
MEMORY_STEPS, PROCESSES = 3, 3
Make = Callable[[], Any]  # builds a subject, in the process where it will work
Rounds = list[float]  # seconds of one unit of work, in each round


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        rounds: turns of each side.
        seconds: how long a turn lasts, at least.
        threads: that torch may use.
        device: "cpu" or "cuda".
        keep: whether all sides keep the memory that they free.
        small: sizes that take seconds and mean nothing, to see that everything runs.
    """

    rounds: int = 8
    seconds: float = 0.5
    threads: int = 1
    device: str = "cpu"
    keep: bool = False
    small: bool = False


class Side:
    """A subject, measured in the process that it lives in.

    Args:
        make: builds it. Its methods without arguments are the tasks; `enter(task)` is called once
            before a task is timed, `step` is what memory is measured of, and `held()` says how
            many bytes of gradients and optimizer's state there are.
        settings: how to measure.
    """

    def __init__(self, make: Make, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        torch.manual_seed(0)
        if settings.keep:
            keep_freed_memory()
        self.settings = settings
        self.subject = make()
        self.count = 1

    def warm(self, task: str) -> None:
        """Run a task until it is in its stride, and find how often it fits into a turn."""
        self.subject.enter(task)
        run = getattr(self.subject, task)
        run()
        self.count = 1
        # The first runs are slow; two in a row that are not are taken at their word.
        seconds = min(self.seconds(task), self.seconds(task))
        self.count = max(1, math.ceil(self.settings.seconds / seconds))

    def seconds(self, task: str) -> float:
        """One turn: the seconds of one unit of work."""
        run = getattr(self.subject, task)
        self._synchronize()
        start = time.perf_counter()
        for _ in range(self.count):
            run()
        self._synchronize()
        return (time.perf_counter() - start) / self.count

    def growth(self) -> float:
        """How much memory three training steps need beyond the model and its optimizer, in MiB."""
        self.subject.enter("step")
        self.subject.keep_gradients = True
        peak = self._cuda_peak if self.settings.device == "cuda" else _peak
        before = peak(reset=True)
        for _ in range(MEMORY_STEPS):
            self.subject.step()
        return max(peak() - before - self.subject.held(), PAGE) / MIB

    def call(self, name: str) -> Any:
        """What a method of the subject returns."""
        return getattr(self.subject, name)()

    def _synchronize(self) -> None:
        if self.settings.device == "cuda":
            torch.cuda.synchronize()

    def _cuda_peak(self, reset: bool = False) -> int:
        self._synchronize()
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()


class Worker:
    """A `Side` in a process of its own; closing it ends the process.

    Args:
        make: builds the subject there; it must survive pickling.
        settings: how to measure.

    Raises:
        ValueError: by its methods, if the process fails; it holds what was raised there.
    """

    def __init__(self, make: Make, settings: Settings) -> None:
        # Not a fork, which would begin with the threads and the memory of this process.
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, make, settings), daemon=True)
        self.process.start()
        there.close()

    def warm(self, task: str) -> None:
        self._ask("warm", task)

    def seconds(self, task: str) -> float:
        return self._ask("seconds", task)

    def growth(self) -> float:
        return self._ask("growth")

    def call(self, name: str) -> Any:
        return self._ask("call", name)

    def _ask(self, *request: str) -> Any:
        try:
            self.pipe.send(request)
            answer, error = self.pipe.recv()
        except (EOFError, ConnectionError) as gone:
            raise ValueError(
                f"a process that measured was ended from outside ({self.process.exitcode}): "
                "see whether the memory suffices."
            ) from gone
        if error:
            raise ValueError(f"a process that measured failed: {error}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pipe.close()  # which it takes for the end
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def _serve(pipe: Any, make: Make, settings: Settings) -> None:
    """Answer requests until the pipe is closed; after a failure, with what failed."""
    failed, side = None, None
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        while True:
            try:
                if side is None:
                    side = Side(make, settings)
                method, *arguments = pipe.recv()
                answer = getattr(side, method)(*arguments)
            except (EOFError, ConnectionError):
                raise
            except Exception as error:
                traceback.print_exc()
                failed = f"{type(error).__name__}: {error}"
                break
            pipe.send((answer, None))
        while True:
            pipe.send((None, failed))
            pipe.recv()


def take_turns(
    sides: Mapping[str, Make], settings: Settings, tasks: Sequence[str] = ("step",)
) -> dict[str, dict[str, Rounds]]:
    """Seconds of one unit of each task, of each side, in each round: `times[task][side]`."""
    times: dict[str, dict[str, Rounds]] = {}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(make, settings)) for name, make in sides.items()
        }
        for task in tasks:
            for worker in workers.values():
                worker.warm(task)
            times[task] = {name: [] for name in workers}
            for _ in range(settings.rounds):
                for name, worker in workers.items():
                    times[task][name].append(worker.seconds(task))
    return times


def growths(sides: Mapping[str, Make], settings: Settings) -> dict[str, Rounds]:
    """How far the memory of each side grows, in MiB, each time in a fresh process.

    Several times, since it depends by some megabytes on where the heap happens to lie.
    """
    grown: dict[str, Rounds] = {name: [] for name in sides}
    for _ in range(min(settings.rounds, PROCESSES)):
        for name, make in sides.items():
            with Worker(make, settings) as worker:
                grown[name].append(worker.growth())
    return grown


def say(text: str) -> None:
    """Tell on the terminal what is being measured."""
    Console(stderr=True).print(text, style="dim", highlight=False)


def _peak(reset: bool = False) -> int:
    """The largest resident set of this process so far, in bytes; from now on, if reset."""
    if reset:
        # What was freed goes back first, or it would serve the steps without being counted.
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            say("The peak of memory cannot be reset here: growth counts from the earlier peak.")
    if not (file := Path("/proc/self/status")).is_file():
        raise ValueError("memory is counted by Linux: measure it there, or on a GPU.")
    status = dict(line.split(":", 1) for line in file.read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def default_threads() -> int:
    """As many as there are cores for this process, and no more than OMP_NUM_THREADS says."""
    allowed = int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())
    return max(1, min(allowed, cpu_count()))

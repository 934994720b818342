"""Quality against seconds of work: a clock that stops while a model is scored, and the points."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

POINTS, EARLIEST = 14, 1 / 60  # of the budget
# When learners look at the validation rows: at each point, and evenly.
SHARES = sorted({*np.geomspace(EARLIEST, 1, POINTS), *np.linspace(0.05, 1, 20)})


def processor() -> float:
    """Seconds of the processor, of this process and of those that it started and that ended.

    On one core without other work they are those of the clock; other work takes nothing from them.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CLOCKS = {"wall": time.perf_counter, "processor": processor}


class Curve:
    """The points of one contestant.

    Args:
        budget: seconds.
        clock: "wall" or "processor".

    Attributes:
        points: seconds of work, and the quality then.
    """

    def __init__(self, budget: float, clock: str = "wall") -> None:
        self.budget, self.clocks = budget, (CLOCKS[clock], *CLOCKS.values())
        self.marks = [*np.geomspace(EARLIEST * budget, budget, POINTS)]
        self.points: list[tuple[float, float]] = []
        self.starts = [clock() for clock in self.clocks]

    def clock(self) -> float:
        """Seconds of work so far."""
        return self.worked()[0]

    def worked(self) -> list[float]:
        """The same, by the clock that counts, that of the wall, and that of the processor."""
        return [clock() - start for clock, start in zip(self.clocks, self.starts, strict=True)]

    def go_on(self, worked: list[float]) -> None:
        """Take up work where it was, perhaps in a copy of the process, which has its own times."""
        self.starts = [clock() - w for clock, w in zip(self.clocks, worked, strict=True)]

    @property
    def due(self) -> bool:
        """Whether it is time for a point."""
        return bool(self.marks) and self.clock() >= self.marks[0]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done here is no work."""
        worked = self.worked()
        yield
        self.go_on(worked)

    def add(self, score: Callable[[], float]) -> None:
        """A point; the score always draws the same random numbers."""
        seconds = self.clock()
        with self.stopped(), torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            self.points.append((seconds, score()))
            self.marks = [mark for mark in self.marks if mark > seconds]

    @property
    def busy(self) -> float:
        """The share of the wall's seconds in which a processor worked: less, if others did."""
        return self.worked()[2] / max(1e-9, self.worked()[1])

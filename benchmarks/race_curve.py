"""Quality against seconds of work: a clock that stops while a model is scored, and the points."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

POINTS, EARLIEST = 14, 1 / 60  # of the budget
# When learners look at the validation rows: at each point, and evenly.
SHARES = sorted({*np.geomspace(EARLIEST, 1, POINTS), *np.linspace(0.05, 1, 20)})


class Curve:
    """The points of one contestant.

    Args:
        budget: seconds.

    Attributes:
        points: seconds of work, and the quality then.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.marks = [*np.geomspace(EARLIEST * budget, budget, POINTS)]
        self.points: list[tuple[float, float]] = []
        self.start, self.processor = time.perf_counter(), time.process_time()

    def clock(self) -> float:
        """Seconds of work so far."""
        return time.perf_counter() - self.start

    @property
    def due(self) -> bool:
        """Whether it is time for a point."""
        return bool(self.marks) and self.clock() >= self.marks[0]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done here is no work."""
        before = time.perf_counter(), time.process_time()
        yield
        self.start += time.perf_counter() - before[0]
        self.processor += time.process_time() - before[1]

    def add(self, score: Callable[[], float]) -> None:
        """A point; the score always draws the same random numbers."""
        seconds = self.clock()
        with self.stopped(), torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            self.points.append((seconds, score()))
            self.marks = [mark for mark in self.marks if mark > seconds]

    @property
    def busy(self) -> float:
        """The share of the seconds in which a processor worked: less, if other work disturbed."""
        return (time.process_time() - self.processor) / max(1e-9, self.clock())

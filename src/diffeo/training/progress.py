"""How far a training is."""

from __future__ import annotations

import time


class Progress:
    """What follows from what a training counts (see `Training`)."""

    every: int
    steps: int
    epoch: int
    step: int
    index: int
    earlier: float
    started: float

    @property
    def seconds(self) -> float:
        """How long it has trained, before it was resumed included."""
        return self.earlier + time.perf_counter() - self.started

    @property
    def where(self) -> str:
        return f"step {self.step} of epoch {self.epoch}"

    @property
    def done(self) -> float:
        """The share of the steps that are done, whatever the steps were before it was resumed."""
        return (self.epoch * self.every + self.index) / self.steps

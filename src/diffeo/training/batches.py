"""Batches of tensors that are in memory: no worker processes, and no Python code per row."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor


class Batches:
    """Cut tensors of equal length into batches.

    Args:
        x: the data `(rows, ...)`.
        context: its context `(rows, context_features)`, or None.
        batch_size: rows of a batch, in each process.
        seed: shuffle with it, anew each epoch, and leave out what does not fill a last batch; None
            keeps the order and every row.
        rank: which of `world` processes this is; together they see each row once.
        world: how many processes there are.

    The order follows from the seed and the epoch alone, so a run that is taken up again at the
    start of an epoch goes on as if it had never stopped.
    """

    def __init__(
        self,
        x: Tensor,
        context: Tensor | None,
        batch_size: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.x, self.context = x, context
        self.seed, self.epoch = seed, 0
        self.rank, self.world = rank, world
        self.batch_size = batch_size
        if seed is not None:
            self.batch_size = min(batch_size, max(1, len(x) // world))

    # Lightning looks for these two, and calls `sampler.set_epoch` at the start of each epoch.
    batch_sampler = None

    @property
    def sampler(self) -> Batches:
        """What decides the order: the object itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        step = self.batch_size * self.world
        return len(self.x) // step if self.seed is not None else math.ceil(len(self.x) / step)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        order = None
        if self.seed is not None:
            generator = Generator().manual_seed(mix(self.seed, self.epoch))
            order = torch.randperm(len(self.x), generator=generator)
        for i in range(len(self)):
            start = (i * self.world + self.rank) * self.batch_size
            where = slice(start, start + self.batch_size)
            rows = where if order is None else order[where]
            yield self.x[rows], None if self.context is None else self.context[rows]


def mix(*numbers: int) -> int:
    """One seed out of several numbers; near ones give unrelated seeds."""
    return hash(numbers) & 0x7FFF_FFFF_FFFF_FFFF

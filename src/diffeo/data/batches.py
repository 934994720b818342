"""Batches taken by index from what holds the rows: no worker processes, no Python code per row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Generator, Tensor


class Rows(Protocol):
    """A split of a table, or of images on the disk."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The data `(n, *shape)` at `indices` `(n,)`, and its context or None."""


class Batches:
    """Cut rows into batches.

    Args:
        rows: what to take them from.
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
        rows: Rows,
        batch_size: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.rows = rows
        self.seed, self.epoch = seed, 0
        self.rank, self.world = rank, world
        self.batch_size = batch_size
        if seed is not None:
            self.batch_size = min(batch_size, max(1, len(rows) // world))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        step = self.batch_size * self.world
        rows = len(self.rows)
        return rows // step if self.seed is not None else math.ceil(rows / step)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        generator = Generator()
        order = torch.arange(len(self.rows))
        if self.seed is not None:
            generator.manual_seed(mix(self.seed, self.epoch))
            order = torch.randperm(len(self.rows), generator=generator)
        for i in range(len(self)):
            start = (i * self.world + self.rank) * self.batch_size
            yield self.rows.take(order[start : start + self.batch_size])


def mix(*numbers: int) -> int:
    """One seed out of several numbers; near ones give unrelated seeds."""
    return hash(numbers) & 0x7FFF_FFFF_FFFF_FFFF

"""Batches taken by index from what holds the rows: no worker processes, no Python code per row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Generator, Tensor


class Rows(Protocol):
    """A split of a table, or of images on the disk."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The data `(n, *shape)` at `indices` `(n,)`, and its context or None."""


Augment = Callable[[Tensor, Generator], Tensor]


class Batches:
    """Cut rows into batches.

    Args:
        rows: what to take them from.
        batch_size: rows of a batch, in each process.
        seed: shuffle with it, anew each epoch, and leave out what does not fill a last batch; None
            keeps the order and every row.
        rank: which of `world` processes this is; together they see each row once.
        world: how many processes there are.
        augment: changes the data of a batch at random; its generator follows from seed and epoch.

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
        augment: Augment | None = None,
    ) -> None:
        self.rows, self.augment = rows, augment
        self.seed, self.epoch = seed, 0
        self.rank, self.world = rank, world
        self.batch_size = batch_size
        if seed is not None:
            self.batch_size = min(batch_size, max(1, len(rows) // world))

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
        rows = len(self.rows)
        return rows // step if self.seed is not None else math.ceil(rows / step)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        generator = Generator()
        order = torch.arange(len(self.rows))
        if self.seed is not None:
            generator.manual_seed(mix(self.seed, self.epoch))
            order = torch.randperm(len(self.rows), generator=generator)
            generator.manual_seed(mix(self.seed, self.epoch, self.rank))
        for i in range(len(self)):
            start = (i * self.world + self.rank) * self.batch_size
            x, context = self.rows.take(order[start : start + self.batch_size])
            yield x if self.augment is None else self.augment(x, generator), context


class Groups:
    """Hand out batches several at a time, so that a loop's own work is done once for all of them.

    Args:
        batches: what to take them from.
        size: how many, but for the last group of a pass.
    """

    batch_sampler = None  # see `Batches`

    def __init__(self, batches: Batches, size: int) -> None:
        self.batches, self.size = batches, size

    @property
    def sampler(self) -> Batches:
        """What decides the order."""
        return self.batches

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.size)

    def __iter__(self) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
        batches = iter(self.batches)
        while group := list(itertools.islice(batches, self.size)):
            yield group


def mix(*numbers: int) -> int:
    """One seed out of several numbers; near ones give unrelated seeds."""
    return hash(numbers) & 0x7FFF_FFFF_FFFF_FFFF

"""Datasets: what is asked for, rows in three splits, and the batches that are taken of them."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Generator, Tensor

from diffeo.context import ContextSpec
from diffeo.utils.ranges import Count, Positive, Seed, Seed32, Whole, check_arguments, checked

SPLITS = ("train", "val", "test")

SplitType = TypeVar("SplitType")


# Types are no strings in the modules of options: jsonargparse would look for the names of inherited
# ones in the module of the subclass, and take anything where it finds none.
@dataclass
class SourceOptions:
    """Which data to learn from, and how; tables and images add options of their own.

    Args:
        source: Where the data come from.
        context: What the density is conditional on: columns of a table, or attributes of images
            (labels, other columns of their table, a folder's metadata.csv).
        rows: How many rows or shapes are drawn, or how many of the first rows or images are used,
            of each split that the source gives.
        splits: The shares for training, validation and testing, where the source gives no splits.
        seed: The seed of what is drawn and of the split.
    """

    source: str = ""
    context: list[str] | None = None
    rows: Count | None = None
    splits: tuple[Positive, Positive, Positive] = (0.8, 0.1, 0.1)
    seed: Seed32 = 0

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self), "--data.")


def check_options(options: SourceOptions) -> None:
    """Refuses options that are wrong whatever the source holds."""
    check_arguments(type(options), vars(options), "--data.")  # which may have been changed
    if abs(sum(options.splits) - 1) > 1e-6:
        raise ValueError(
            f"{options.source}: --data.splits are {list(options.splits)}: "
            "pass three positive shares that sum to 1, such as [0.8, 0.1, 0.1]"
        )


@dataclass(frozen=True, kw_only=True)
class Dataset(Generic[SplitType]):
    """Data in three splits, some columns of which may be context.

    Args:
        name: short, for titles.
        train: what to learn from.
        val: what to choose by.
        test: what to report on.
        context: what the density is conditional on.
        notes: sentences for the user.
    """

    name: str
    train: SplitType
    val: SplitType
    test: SplitType
    context: ContextSpec = field(default_factory=ContextSpec)
    notes: list[str] = field(default_factory=list)

    def split(self, name: str) -> SplitType:
        """The split called train, val or test.

        Raises:
            ValueError: another name.
        """
        if name not in SPLITS:
            raise ValueError(f"there is no split '{name}': choose one of {', '.join(SPLITS)}")
        split: SplitType = getattr(self, name)
        return split


def split_sizes(
    source: str, unit: str, rows: int, shares: Sequence[float], given: Sequence[bool] = (False,) * 2
) -> list[int]:
    """How many of `rows` are for training, validation and testing, by the shares of each.

    `unit` is what is counted, `row` or `image`; `given` says whether the source has a split for
    validation, and one for testing, of its own.

    Raises:
        ValueError: if nothing is left to train on.
    """
    val, test = (
        0 if there else max(1, round(rows * share))
        for there, share in zip(given, shares[1:], strict=True)
    )
    train = rows - val - test
    if train < (2 if unit == "row" else 1):
        raise ValueError(
            f"{source} has {rows} {unit}{'s' * (rows != 1)}, too few to split by --data.splits "
            f"{list(shares)}: give more {unit}s"
        )
    return [train, val, test]


class Rows(Protocol):
    """A split of a table, or of images on the disk."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The data `[n, *shape]` at `indices` `[n]`, and its context or None."""


def weights_of(rows: Rows) -> Tensor | None:
    """How much each row counts `[rows]`, 1 on average in training; None where all count alike."""
    return getattr(rows, "weights", None)


def evenly(rows: Rows, most: int) -> Tensor:
    """Indices `[n]` of at most so many rows: the first, or where they have weights, by these."""
    n, weights = min(len(rows), most), weights_of(rows)
    if weights is None:
        return torch.arange(n)
    ends = weights.double().cumsum(0)
    return torch.searchsorted(ends, (torch.arange(n, dtype=ends.dtype) + 0.5) * ends[-1] / n)


def fingerprint(rows: Rows) -> str:
    """A short text that differs between rows that differ: of their number, and of 256 of them."""
    spread = torch.arange(min(len(rows), 256)) * len(rows) // max(1, min(len(rows), 256))
    digest = hashlib.sha256(str(len(rows)).encode())
    weights = weights_of(rows)
    for tensor in (*rows.take(spread), None if weights is None else weights[spread]):
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


class Batches:
    """Rows in batches, taken by index: no worker processes, no Python code per row.

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

    @checked
    def __init__(
        self,
        rows: Rows,
        batch_size: Count,
        *,
        seed: Seed | None = None,
        rank: Whole = 0,
        world: Count = 1,
    ) -> None:
        self.rows = rows
        self.seed = seed
        self.epoch: int = 0
        self.rank = rank
        self.world = world
        self.batch_size: int = batch_size
        if seed is not None:
            self.batch_size = min(batch_size, max(1, len(rows) // world))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        step = self.batch_size * self.world
        rows = len(self.rows)
        return rows // step if self.seed is not None else math.ceil(rows / step)

    @property
    def weights(self) -> Tensor | None:
        """Those of the rows of one pass, in its order; None where all count alike."""
        weights = weights_of(self.rows)
        return None if weights is None else torch.cat([weights[i] for i in self._indices()])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for indices in self._indices():
            yield self.rows.take(indices)

    def with_weights(self) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """The batches, each with the weights of its rows, or None."""
        weights = weights_of(self.rows)
        for indices in self._indices():
            yield *self.rows.take(indices), None if weights is None else weights[indices]

    def _indices(self) -> Iterator[Tensor]:
        order = torch.arange(len(self.rows))
        if self.seed is not None:
            generator = Generator().manual_seed(mix(self.seed, self.epoch))
            order = torch.randperm(len(self.rows), generator=generator)
        for i in range(len(self)):
            start = (i * self.world + self.rank) * self.batch_size
            yield order[start : start + self.batch_size]


def mix(*numbers: int) -> int:
    """One seed out of several numbers; near ones give unrelated seeds."""
    return hash(numbers) & 0x7FFF_FFFF_FFFF_FFFF

"""Datasets: data in three splits, and how many rows each split gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from diffeo.context import ContextSpec

SPLITS = ("train", "val", "test")

SplitType = TypeVar("SplitType")


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
    source: str,
    unit: str,
    rows: int,
    shares: Sequence[float],
    given: Sequence[bool] = (False, False),
) -> list[int]:
    """How many rows are for training, validation and testing, by the shares of each.

    Args:
        source: named in messages.
        unit: what is counted, `row` or `image`.
        rows: how many there are.
        shares: of each split.
        given: whether there is a split for validation, and one for testing, already.

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

"""What data have in common that are split in three."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from diffeo.context import ContextSpec

SplitType = TypeVar("SplitType")


@dataclass(frozen=True, kw_only=True)
class Divided(Generic[SplitType]):
    """Data in three splits, some columns of which may be context.

    Args:
        train: what to learn from.
        val: what to choose by.
        test: what to report on.
        context: what the density is conditional on.
    """

    train: SplitType
    val: SplitType
    test: SplitType
    context: ContextSpec = field(default_factory=ContextSpec)

    def split(self, name: str) -> SplitType:
        """The split called train, val or test.

        Raises:
            ValueError: another name.
        """
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise ValueError(f"there is no split '{name}': choose one of {', '.join(splits)}")
        return splits[name]

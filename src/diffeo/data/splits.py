"""What data have in common that are split in three."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

SplitType = TypeVar("SplitType")


@dataclass(frozen=True, kw_only=True)
class Divided(Generic[SplitType]):
    """Data in three splits, some columns of which may be context.

    Args:
        train: what to learn from.
        val: what to choose by.
        test: what to report on.
        context_columns: what the columns of the context are called.
    """

    train: SplitType
    val: SplitType
    test: SplitType
    context_columns: list[str] = field(default_factory=list)

    @property
    def context_features(self) -> int:
        """How many columns are context."""
        return len(self.context_columns)

    def split(self, name: str) -> SplitType:
        """The split called train, val or test.

        Raises:
            ValueError: another name.
        """
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise ValueError(f"there is no split '{name}': choose one of {', '.join(splits)}")
        return splits[name]

"""Options of any data; tables and images add their own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SourceOptions:
    """Which data to learn from, and how.

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
    rows: int | None = None
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0


def check_options(options: SourceOptions) -> None:
    """Refuses options that are wrong whatever the source holds."""
    source, splits = options.source, options.splits
    if len(splits) != 3 or not all(share > 0 for share in splits) or abs(sum(splits) - 1) > 1e-6:
        raise ValueError(
            f"{source}: --data.splits are {list(splits)}: "
            "pass three positive shares that sum to 1, such as [0.8, 0.1, 0.1]"
        )
    if options.rows is not None and options.rows < 1:
        raise ValueError(f"{source}: {options.rows} rows are none: pass a positive --data.rows")

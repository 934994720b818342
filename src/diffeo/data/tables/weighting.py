"""The column that says how much each row of a table counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffeo.data.datasets import SPLITS
from diffeo.data.files import Array


def split_weights(
    source: str, name: str, column: Array, order: Array, sizes: Sequence[int]
) -> list[Tensor]:
    """The weights of each split, float32 and 1 on average in training.

    Args:
        source: the table, for messages.
        name: of the column.
        column: finite weights `[rows]`.
        order: how the rows are permuted before they are split.
        sizes: of the splits.

    Raises:
        ValueError: if a weight is below 0, or all those of a split are 0.
    """
    if (column < 0).any():
        row = int((column < 0).argmax())
        raise ValueError(
            f"{source}: column '{name}' is {column[row]:g} in row {row + 1}, and a weight is never "
            "below 0: correct it, or name another column by --data.weights"
        )
    parts = torch.from_numpy(column[order]).split([*sizes])
    for split, part in zip(SPLITS, parts, strict=True):
        if not part.any():
            which = f" of the {split} split" if column.any() else ""
            raise ValueError(
                f"{source}: column '{name}' is 0 in every row{which}, and no row counts then: name "
                "another column by --data.weights"
            )
    return [(part / parts[0].mean()).float() for part in parts]

"""Checks of a column before a density is fitted to it, and the step of a quantized one."""

from __future__ import annotations

import shlex

import numpy as np
from numpy.typing import NDArray

from diffeo.data.files import Array
from diffeo.data.tables.source import Chunk

_CHOOSE = "with --data.columns or --data.context"


def check_numeric(source: str, chunk: Chunk, first_row: int, remedy: str) -> None:
    """Refuses text, categories, truth values and dates, since none has a density.

    `first_row` is the number of the chunk's first row, from 1, and `remedy` the end of the message,
    in which `{numeric}` becomes the columns that are numbers.
    """
    numeric = [name for name, column in chunk.items() if column.dtype.kind in "iuf"]
    for name, column in chunk.items():
        if name not in numeric and len(column):
            row, value = _example(column)
            names = shlex.quote(",".join(numeric) or "a,b,c")
            raise ValueError(
                f"{source}: column '{name}' is not numeric, row {first_row + row} holds '{value}': "
                + remedy.replace("{numeric}", names)
            )


def _example(column: Array) -> tuple[int, str]:
    """The first value that cannot be read as a number, or the first of all if each can."""
    for row, value in enumerate(column):
        if value is not None and not isinstance(value, int | float):
            try:
                float(value)
            except (TypeError, ValueError):
                return row, _short(value)
    return 0, _short(column[0])


def _short(value: object) -> str:
    text = " ".join(str(value)[:1_000].split())
    return text if len(text) <= 40 else text[:37] + "..."


def check_finite(source: str, name: str, column: Array, first_row: int = 1) -> None:
    """Refuses a column `[rows]` with values that are missing, infinite or infinite in float32."""
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(column.astype(np.float32))
    if bad.any():
        count, row = int(bad.sum()), int(bad.argmax())
        rows = "1 row" if count == 1 else f"{count} rows"
        raise ValueError(
            f"{source}: column '{name}' has {rows} without a finite float32 value, first in row "
            f"{first_row + row} ({column[row]:g}): remove such rows or fill them in"
        )


def check_spread(source: str, name: str, column: Array) -> None:
    """Refuses a column `[rows]` that is constant, or that float32 could not tell from constant."""
    low, high = float(column.min()), float(column.max())
    if low == high:
        raise ValueError(
            f"{source}: column '{name}' is {low:g} in every row, which has no density: "
            f"leave it out {_CHOOSE}"
        )
    peak = max(abs(low), abs(high))
    if np.spacing(np.float32(peak)) > 1e-3 * column.std():
        raise ValueError(
            f"{source}: column '{name}' varies by {column.std():.3g} around {column.mean():.8g}, "
            "too little for float32 to resolve: subtract an offset from it"
        )


def check_training(source: str, name: str, column: Array) -> None:
    """Refuses a column that varies in the table but not in its training split `[rows]`."""
    if column.min() == column.max():
        raise ValueError(
            f"{source}: column '{name}' is {column[0]:g} in every row of the training split: "
            f"leave it out {_CHOOSE}, or give more rows"
        )


def step_size(column: NDArray[np.float64]) -> float:
    """The step between the values of a column `[rows]`, or 0.0 for a continuous one.

    A column is quantized where fewer than half of its rows hold a value that no other row holds.
    Its step is the greatest one of which all gaps between its values are multiples, looked for
    among the smallest gap and its fractions down to a tenth; if there is none, the smallest gap.
    """
    values, counts = np.unique(column, return_counts=True)
    if len(values) < 2 or (counts == 1).sum() >= len(column) / 2:
        return 0.0
    gaps = np.diff(values)
    smallest = float(gaps.min())
    for fraction in range(1, 11):
        multiples = gaps * (fraction / smallest)
        whole = np.round(multiples)
        if np.abs(multiples - whole).max() < 1e-3:
            # The whole span measures the step better than one gap, which carries rounding errors.
            return float((values[-1] - values[0]) / whole.sum())
    return smallest

"""The grid on which the values of a column lie, if they do: decimals, whole multiples, steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEW = 10  # rows, which may count up by chance
MOST_DECIMALS = 12
ULPS = 8 * float(np.finfo(np.float64).eps)  # what computed decimals, such as 3 * 0.1, are off by
ULPS32 = 2 * float(
    np.finfo(np.float32).eps
)  # and decimals that were float32 once, such as 9.899999
ROUNDING = 1e-6  # of a step, by which values of a grid may be off
OFF = 1e-3  # of a step, by which those of new rows may be: float32 has no 0.1
EXACT = 2.0**53  # up to which whole numbers are exact
FINE, FINEST = 100_000, 2**20  # cells of a grid: for values of few repeats, and for all


def counts_rows(column: Floats) -> bool:
    """Whether a column `[rows]` counts up one by one, as an index does; not of few rows."""
    return len(column) > FEW and bool((np.diff(column) == 1.0).all())


def round_decimals(values: Floats, decimals: int) -> Floats:
    """The closest numbers of so many decimals, as a text of them is read: 0.3, not 0.1 + 0.2."""
    with np.errstate(over="ignore"):
        scaled = values * 10.0**decimals
    return np.where(np.abs(scaled) < EXACT, np.rint(scaled) / 10.0**decimals, values)


def find_decimals(values: Floats, ulps: float = 0.0) -> int | None:
    """How many decimals are enough for all values, or None if they are full floats.

    With `ulps`, values may be off by so much of the largest.
    """
    largest = float(np.abs(values).max(initial=0.0))
    for decimals in range(MOST_DECIMALS + 1):
        if largest * 10.0**decimals >= EXACT:
            return None
        off = np.abs(round_decimals(values, decimals) - values)
        if (off <= ulps * largest).all():
            return decimals
    return None


def grid_of(values: Floats) -> tuple[float, float]:
    """The greatest step, and a point, of a grid with all values; a step of 0 if there is none.

    Args:
        values: distinct ones in rising order, two at least.
    """
    largest = float(np.abs(values).max())
    for ulps in (ULPS32, ULPS, 0.0):
        decimals = find_decimals(values, ulps)
        if decimals is not None and 10.0**-decimals > 1e3 * ulps * largest:
            scale = 10**decimals
            whole = np.rint(values * float(scale)).astype(np.int64)
            common = int(np.gcd.reduce(np.diff(whole)))
            if common == 0:
                continue
            return common / scale, int(whole[0] % common) / scale
    step = common_step(values)
    if not step:
        return 0.0, 0.0
    places = np.rint((values - values[0]) / step)
    if np.abs(values - values[0] - places * step).max() > ROUNDING * step:
        return 0.0, 0.0
    shift = round(values[0] / step) * step
    zero = np.abs(values - shift - places * step).max() <= ROUNDING * step
    return step, 0.0 if zero else float(values[0])


def common_step(values: Floats, tolerance: float = ROUNDING) -> float:
    """The greatest step of which all gaps between values are multiples up to rounding, or 0.

    It is looked for among the smallest gap and its fractions down to a tenth.
    """
    gaps = np.diff(values)
    rounding = ULPS * float(np.abs(values).max())
    gaps = gaps[gaps > rounding]
    if not len(gaps):
        return 0.0
    smallest = float(gaps.min())
    for fraction in range(1, 11):
        multiples = gaps * (fraction / smallest)
        whole = np.round(multiples)
        # The smallest gap carries a rounding error that grows with the multiple.
        if (np.abs(multiples - whole) < tolerance + whole * (rounding / smallest)).all():
            # The whole span measures the step better than one gap, which carries rounding errors.
            return float((values[-1] - values[0]) / whole.sum())
    return 0.0


def step_size(column: Floats) -> float:
    """The step between the values of a column `[rows]`, or 0.0 for a continuous one.

    A column is quantized where fewer than half of its rows hold a value that no other row holds.
    Its step is the greatest one of which all gaps between its values are multiples, looked for
    among the smallest gap and its fractions down to a tenth; if there is none, the smallest gap.
    """
    values, counts = np.unique(column, return_counts=True)
    if len(values) < 2 or (counts == 1).sum() >= len(column) / 2:
        return 0.0
    return common_step(values, 1e-3) or float(np.diff(values).min())


def find_grid(values: Floats, counts: NDArray[np.int64], whole: bool) -> tuple[float, float]:
    """The step and a point of the grid of a column, or a step of 0 where it is continuous.

    Values that hardly repeat have a grid only where they are whole numbers or the grid is coarse
    for so many rows; and none has more than 2**20 cells.

    Args:
        values: the distinct values of a column, in rising order.
        counts: how many rows have each.
        whole: whether they are meant to be whole numbers.
    """
    if len(values) < 2:
        return 0.0, 0.0
    rows, alone = counts.sum(), (counts == 1).sum()
    if alone > 0.95 * rows and not whole and find_decimals(values) is None:
        return 0.0, 0.0
    step, origin = grid_of(values)
    if not step:
        return 0.0, 0.0
    cells = (values[-1] - values[0]) / step
    repeats = alone < rows / 2
    fits = cells <= FINE and (whole or alone <= 0.95 * rows or cells <= 10 * rows)
    if cells > FINEST or not (repeats or fits):
        return 0.0, 0.0
    return step, origin


def snap(values: Floats, step: float, origin: float, decimals: int | None) -> Floats:
    """The closest points of a grid; values that are off by rounding only stay where they are."""
    if not step:
        return values if decimals is None else round_decimals(values, decimals)
    points = origin + np.rint((values - origin) / step) * step
    points = np.where(np.abs(points - values) <= OFF * step, values, points)
    return points if decimals is None else round_decimals(points, decimals)


def find_atoms(
    values: Floats, counts: NDArray[np.int64], limits: tuple[float | None, ...]
) -> tuple[float, ...]:
    """The values of a continuous column that repeat far more than chance has it.

    A share of one percent, or of a limit a fifth of that.
    """
    rows = counts.sum()
    ends = np.isin(values, [*(x for x in limits if x is not None), values[0], values[-1], 0.0])
    enough = np.where(ends, max(5, 0.002 * rows), max(8, 0.01 * rows))
    return tuple(values[counts >= enough].tolist())

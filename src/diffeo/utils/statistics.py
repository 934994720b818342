"""First estimates from data, without values that are far from all others of their feature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

FAR = 10.0  # spreads from the median: values beyond do not count
MOST = 0.05  # share of the rows that may be far; where more are, they are no outliers
# Shares of the rows around the median whose range is the spread. A wider one is taken where a
# narrower has no width, or leaves too many out.
RANGES = (0.5, 0.9, 0.98)
WIDTH = 1.349  # of the middle half of normal data, in standard deviations
SAMPLE = 8_192  # rows that order statistics come from, taken evenly


class OutlierWarning(UserWarning):
    """Some values are so far from all others that first estimates leave them out."""


def weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    """Values times weights, all of the same shape; 0 where the weight is, whatever the value."""
    return values if weights is None else torch.where(weights > 0, values * weights, 0.0)


def check_spread(x: Tensor) -> None:
    """Refuse rows x `[rows, features]` of which no first estimates can be made.

    Raises:
        ValueError: if there are fewer than two, or a feature is constant or not finite.
    """
    if len(x) < 2:
        raise ValueError(f"first estimates need at least 2 rows, not {len(x)}: pass more.")
    varies = x.isfinite().all(0) & (x.amin(0) < x.amax(0))
    if not varies.all():
        flat = int((~varies).nonzero()[0])
        raise ValueError(f"feature {flat} is constant or not finite: leave it out.")


def far_values(x: Tensor) -> Tensor:
    """Which values of x `[rows, features]` are far from all others of their feature.

        |x - median| > 10 spread,   spread = (range of the middle half) / 1.349

    where no more than a twentieth of the rows are. The estimate of spread holds
    up to outliers in a quarter of the rows, and that of normal data is their standard deviation
    (Rousseeuw & Croux 1993).
    """
    ordered = x[:: math.ceil(len(x) / SAMPLE)].sort(dim=0).values
    rows, far = len(ordered), torch.zeros_like(x, dtype=torch.bool)
    median, last = ordered[rows // 2], rows - 1
    open_features = torch.ones_like(median, dtype=torch.bool)
    for share in RANGES:
        low, high = (round(last * (1 + sign * share) / 2) for sign in (-1, 1))
        spread = (ordered[high] - ordered[low]) / WIDTH
        beyond = (x - median).abs() > FAR * spread
        few = beyond.sum(0) <= MOST * len(x)
        chosen = open_features & (spread > 0) & few
        far |= beyond & chosen
        open_features &= ~chosen
    return far


def first_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of each feature of x `[rows, features]`, and what is far.

    Returns:
        Mean and standard deviation `[features]`, without the values that are far, and which these
        are, `[rows, features]`.
    """
    far = far_values(x)
    if not far.any():
        std, mean = torch.std_mean(x, dim=0, correction=0)
        return mean, std, far
    count = (~far).sum(0)
    mean = x.masked_fill(far, 0.0).sum(0) / count
    std = ((x - mean).masked_fill(far, 0.0).square().sum(0) / count).sqrt()
    return mean, std, far


def describe_far(x: Tensor, far: Tensor, names: Sequence[str], first: int = 0) -> list[str]:
    """A sentence for each feature of x `[rows, features]` with values that are far.

    Args:
        x: the values.
        far: which are far, of the same shape.
        names: of the features, as sentences begin.
        first: the number of the first row.
    """
    sentences = []
    for feature in far.any(0).nonzero().flatten().tolist():
        rows = far[:, feature].nonzero().flatten().tolist()
        count, listed = len(rows), ", ".join(f"{row + first}" for row in rows[:5])
        values = "1 value lies" if count == 1 else f"{count:,} values lie"
        sentences.append(
            f"{names[feature]}: {values} more than {FAR:g} spreads from the median, in row"
            f"{'s' * (count > 1)} {listed}{' and others' * (count > 5)} "
            f"({float(x[rows[0], feature]):g} in row {rows[0] + first}): remove them if they are "
            "errors."
        )
    return sentences


def warn_of_far(x: Tensor, far: Tensor, names: Sequence[str]) -> None:
    """Warn with the sentences of `describe_far`, an `OutlierWarning` each."""
    for sentence in describe_far(x, far, names):
        warnings.warn(sentence, OutlierWarning, stacklevel=3)

"""Rows that count more than once: repeated ones, and those with weights."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight

Array = NDArray[Any]
COPIES = 10  # of a row whose weight is the mean
MANY = 100_000  # copies at which exact whole weights are no longer worth their time


class Distinct(NamedTuple):
    """The distinct rows of a table, with how often each counts.

    A row of weight 2 is two rows, and a held-out row must not be among those that are learned: so
    equal rows are one, with the sum of their weights.
    """

    x: Array  # (n, d)
    context: Array | None  # (n, k)
    copies: Array  # (n,), whole numbers above 0
    places: Array  # (rows of the table,): of each row, or -1 where its weight is 0

    @classmethod
    def of(cls, x: Array, context: Array | None, weights: Array | None) -> Self:
        """Those of the rows x `(m, d)` and context `(m, k)` with weights `(m,)`.

        A table of distinct rows without weights keeps its order. Raises `ValueError` if fewer than
        two rows have a weight above 0.
        """
        used = np.arange(len(x)) if weights is None else np.flatnonzero(weights)
        if len(used) < 2:
            raise ValueError("sample_weight must be above 0 for at least 2 rows.")
        table = (x if context is None else np.hstack([x, context]))[used]
        _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
        plain = weights is None or (weights[used] == 1).all()
        if len(first) == 1 or (plain and len(first) == len(used)):
            first = inverse = np.arange(len(used))
        totals = np.bincount(inverse, None if weights is None else weights[used])
        places = np.full(len(x), -1)
        places[used] = inverse
        chosen = used[first]
        copies = totals if weights is None else copies_of(totals)
        return cls(x[chosen], None if context is None else context[chosen], copies, places)


def copies_of(weights: Array) -> Array:
    """How many copies of each row `(n,)` stand for its weight, which is above 0.

    Small whole weights are numbers of copies; of others there are about 10 for a row of the mean
    weight, and at least 1.
    """
    most = max(2 * COPIES * len(weights), MANY)
    if (weights == weights.round()).all() and weights.sum() <= most:
        return weights.astype(np.int64)
    ends = np.cumsum(weights) * (COPIES * len(weights) / weights.sum())
    copies: Array = np.maximum(np.diff(np.round(ends), prepend=0.0), 1).astype(np.int64)
    return copies


def checked_weights(sample_weight: ArrayLike | None, x: Array) -> Array | None:
    """The weight of each row of x `(n,)`, or None; raises `ValueError` for negative ones."""
    if sample_weight is None:
        return None
    weights: Array = _check_sample_weight(
        sample_weight, x, dtype=np.float64, ensure_non_negative=True
    )
    return weights

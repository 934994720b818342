"""Rows that count more than once: repeated ones, and those with weights."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight

Array = NDArray[Any]
MOST = 10  # copies of a row on average, as which whole weights are taken


class Distinct(NamedTuple):
    """The distinct rows of a table, with how often each counts.

    A row of weight 2 is two rows, and a held-out row must not be among those that are learned: so
    equal rows are one, with the sum of their weights. Of tables without a continuous column, whose
    rows are equal by chance, they are as many as they are.
    """

    x: Array  # (n, d)
    context: Array | None  # (n, k)
    counts: Array  # (n,), above 0
    places: Array  # (rows of the table,): of each row, or -1 where its weight is 0

    @classmethod
    def of(
        cls, x: Array, context: Array | None, weights: Array | None, *, merge: bool = True
    ) -> Self:
        """Those of the rows x `(m, d)` and context `(m, k)` with weights `(m,)`.

        A table of distinct rows without weights keeps its order.
        """
        used = np.arange(len(x)) if weights is None else np.flatnonzero(weights)
        if not merge:
            return cls._each(x, context, np.ones(len(x)) if weights is None else weights, used)
        table = (x if context is None else np.hstack([x, context]))[used]
        # An empty cell is like another one.
        table = np.nan_to_num(table, nan=np.finfo(float).max)
        _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
        plain = weights is None or (weights[used] == 1).all()
        if len(first) == 1 or (plain and len(first) == len(used)):
            first = inverse = np.arange(len(used))
        totals = np.bincount(inverse, None if weights is None else weights[used]).astype(float)
        places = np.full(len(x), -1)
        places[used] = inverse
        chosen = used[first]
        if not (totals == totals.round()).all():
            totals *= len(used) / totals.sum()  # as many as there are rows
        return cls(x[chosen], None if context is None else context[chosen], totals, places)

    @classmethod
    def _each(cls, x: Array, context: Array | None, weights: Array, used: Array) -> Self:
        """All rows, those of whole weights as often as these say."""
        counts, times = weights[used], np.ones(len(used), dtype=np.int64)
        if (counts == counts.round()).all() and counts.sum() <= MOST * len(used):
            times, counts = counts.astype(np.int64), np.ones(int(counts.sum()))
        else:
            counts = counts / counts.mean()
        places = np.full(len(x), -1)
        places[used] = times.cumsum() - times
        index = used.repeat(times)
        return cls(x[index], None if context is None else context[index], counts, places)


def checked_weights(sample_weight: ArrayLike | None, x: ArrayLike) -> Array | None:
    """The weight of each row of x `(n,)`, or None; raises `ValueError` for negative ones."""
    if sample_weight is None:
        return None
    weights: Array = _check_sample_weight(
        sample_weight, x, dtype=np.float64, ensure_non_negative=True
    )
    return weights

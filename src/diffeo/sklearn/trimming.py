"""Rows that lie farther from the others than the rest, found before anything is learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.covariance import MinCovDet

from diffeo.sklearn.weights import Distinct

Array = NDArray[np.float64]
ROWS_EACH = 10  # rows for each column, without which a covariance says little
TIES = 0.5  # share of one value, from which on a column has no place in a covariance


def far_rows(numbers: Array, weights: Array | None, share: float) -> NDArray[np.bool_]:
    """Which of some rows are the share that is farthest from the others `(n,)`.

    The distance is that of Mahalanobis between the normal scores of the ranks of numbers, with the
    covariance of 1 - 2 * share of the rows, half of them at least, for which its determinant is
    least, so that rows which gather far out do not draw it to them (Rousseeuw & Van Driessen 1999).
    Distinct rows count once. None is far where there are less than 10 distinct rows for each
    column.

    Args:
        numbers: `(n, columns)`; NaN is a middle value.
        weights: rows with a weight of 0 are not far.
        share: at most 0.5.
    """
    if not numbers.shape[1]:
        return np.zeros(len(numbers), dtype=bool)
    distinct = Distinct.of(numbers, None, weights)
    order = np.lexsort(distinct.x.T[::-1])  # the same for copies, in whatever order they come
    rows, far = distinct.x[order], np.zeros(len(order), dtype=bool)
    ranks = rankdata(rows, axis=0, nan_policy="omit")
    scores = np.nan_to_num(ndtri((ranks - 0.5) / np.maximum(1, (~np.isnan(rows)).sum(0))))
    tied = [np.unique(column, return_counts=True)[1].max() for column in scores.T]
    scores = scores[:, np.array(tied, dtype=float) < TIES * len(scores)]
    if scores.shape[1] and len(scores) >= ROWS_EACH * scores.shape[1]:
        support = max(0.5, 1 - 2 * share)
        distance = MinCovDet(support_fraction=support, random_state=0).fit(scores).dist_
        far[order[np.argsort(-distance, kind="stable")[: round(share * len(rows))]]] = True
    return far[distinct.places] & (distinct.places >= 0)

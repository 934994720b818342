"""Rows that lie farther from the others than the rest, found before anything is learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.covariance import MinCovDet

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
    far = np.zeros(len(numbers), dtype=bool)
    used = np.ones(len(numbers), dtype=bool) if weights is None else weights > 0
    rows, places = np.unique(numbers[used], axis=0, return_inverse=True, equal_nan=True)
    ranks = rankdata(rows, axis=0, nan_policy="omit")
    scores = np.nan_to_num(ndtri((ranks - 0.5) / np.maximum(1, (~np.isnan(rows)).sum(0))))
    tied = [np.unique(column, return_counts=True)[1].max() for column in scores.T if len(column)]
    scores = scores[:, np.array(tied, dtype=float) < TIES * len(scores)]
    if not scores.shape[1] or len(scores) < ROWS_EACH * scores.shape[1]:
        return far
    distance = MinCovDet(support_fraction=max(0.5, 1 - 2 * share), random_state=0).fit(scores).dist_
    count = round(share * len(scores))
    farthest = np.zeros(len(scores), dtype=bool)
    farthest[np.argsort(-distance, kind="stable")[:count]] = True
    far[used] = farthest[places.ravel()]
    return far

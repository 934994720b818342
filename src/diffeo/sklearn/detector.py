"""FlowOutlierDetector: outliers by the density of a flow, as a scikit-learn estimator."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import _num_samples, check_is_fitted

from diffeo.schema import NumberColumn
from diffeo.sklearn.density import FlowDensity
from diffeo.sklearn.trimming import far_rows
from diffeo.sklearn.weights import checked_weights
from diffeo.utils.ranges import Proportion, Range, Seed32, check_arguments, checked

Array = NDArray[Any]
AUTO = 0.01  # share of the rows


class FlowOutlierDetector(OutlierMixin, BaseEstimator):
    """Outliers by the density that a flow learns.

        decision_function(x) = log p(x) - offset_,   an outlier where it is below 0

    A training row is scored by the members of the model that left it out, whenever it comes, since
    those that learned it find nothing odd in it. So new rows are flagged as often as training rows.

    Parameters
    ----------
    density : FlowDensity or None, default=None
        Learns the density; None is `FlowDensity()`. Its context, if any, must be columns of X:
        then rows are outliers given their context.
    contamination : float or "auto", default=0.1
        Share of the rows to call outliers, above 0 and at most 0.5. "auto" assumes that there are
        none among the training rows: an outlier scores less than 99 of 100 of them.
    trim : float or "auto", default="auto"
        Share of the training rows that are not learned, at most 0.5: those farthest from the others
        by a robust distance (see `diffeo.sklearn.trimming.far_rows`), since outliers that gather
        are likely to a density that has learned them. "auto" is `contamination`, or none where that
        is "auto".
    random_state : int, RandomState instance or None, default=None
        Replaces that of `density`, unless it is None.

    Attributes
    ----------
    density_ : FlowDensity
        The fitted density.
    offset_ : float
        Rows with a lower score are outliers.
    decision_scores_ : ndarray
        The surprise -log p of each training row, higher for outliers, as pyod has it.
    labels_ : ndarray
        1 for each training row that is an outlier, and 0 for others, as pyod has it.

    Examples
    --------
    >>> import numpy as np
    >>> from diffeo.sklearn import FlowDensity, FlowOutlierDetector
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> detector = FlowOutlierDetector(contamination=0.02, random_state=0)
    >>> detector.fit(X).predict([[0.0, 0.0], [6.0, -6.0]])
    array([ 1, -1])
    """

    density_: FlowDensity
    offset_: float
    decision_scores_: Array
    labels_: Array
    _held_out: dict[bytes, float]
    _ends: tuple[float, float]  # of decision scores of rows that count

    def __init__(
        self,
        density: FlowDensity | None = None,
        *,
        contamination: Annotated[float, Range(0, 0.5, above=True)] | Literal["auto"] = 0.1,
        trim: Annotated[float, Range(0, 0.5)] | Literal["auto"] = "auto",
        random_state: Seed32 | np.random.RandomState | None = None,
    ) -> None:
        self.density = density
        self.contamination = contamination
        self.trim = trim
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn the density of X `(n, columns)` and the offset of its outliers; y is ignored.

        `sample_weight` `(n,)` is how often each row counts.
        """
        check_arguments(FlowOutlierDetector.__init__, self.get_params(deep=False))
        density = FlowDensity() if self.density is None else clone(self.density)
        if isinstance(density.context, str):
            raise ValueError(
                f"a detector has no y, which context={density.context!r} needs: name columns of X "
                "instead."
            )
        if self.random_state is not None:
            density.set_params(random_state=self.random_state)
        weights = checked_weights(sample_weight, X)
        far = self._far(density, X, weights)
        if len(far):
            counted = np.ones(_num_samples(X)) if weights is None else weights.copy()
            counted[far] = 0.0
            sample_weight = counted
        self.density_ = density.fit(X, sample_weight=sample_weight)
        self.n_features_in_: int = density.n_features_in_
        if hasattr(density, "feature_names_in_"):
            self.feature_names_in_: np.ndarray = density.feature_names_in_
        held_out = density.validation_indices_
        keys = self._keys(X)
        scores = dict(zip([keys[i] for i in held_out], density.held_out_scores_, strict=True))
        self._held_out = scores
        weights = np.ones(len(keys)) if weights is None else weights
        self.decision_scores_ = -self.score_samples(X)
        # Held-out rows stand for all that were learned.
        learned = weights.sum() - weights[far].sum()
        counts = np.r_[weights[held_out] * learned / weights[held_out].sum(), weights[far]]
        share = AUTO if self.contamination == "auto" else self.contamination
        honest = -self.decision_scores_[np.r_[held_out, far]]
        self.offset_ = _quantile(honest, counts, float(share))
        self.labels_ = (-self.decision_scores_ < self.offset_).astype(int)
        known = self.decision_scores_[(weights > 0) & np.isfinite(self.decision_scores_)]
        self._ends = float(known.min()), float(known.max())
        return self

    def _far(self, density: FlowDensity, X: ArrayLike, weights: Array | None) -> Array:  # noqa: N803
        """The places of the rows that are not learned."""
        share = self.contamination if self.trim == "auto" else self.trim
        if share == "auto" or share == 0:
            return np.zeros(0, dtype=np.int64)
        x, _ = density._read(X, None, fit=True, weights=weights)
        columns = density.schema_.modelled
        numbers = [i for i, column in enumerate(columns) if isinstance(column, NumberColumn)]
        return np.flatnonzero(far_rows(x[:, numbers], weights, float(share)))

    def _keys(self, X: ArrayLike) -> list[bytes]:  # noqa: N803
        """What rows are known by."""
        x, context = self.density_._read(X, None)
        return [row.tobytes() for row in (x if context is None else np.hstack([x, context]))]

    def fit_predict(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike | None = None,
        **options: Any,
    ) -> Array:
        """Fit, and return 1 for each inlier of X and -1 for each outlier, `(n,)`."""
        labels: Array = 1 - 2 * self.fit(X, y, **options).labels_
        return labels

    def score_samples(self, X: ArrayLike) -> Array:  # noqa: N803
        """The log-density of each row, `(n,)`, in nats: higher is more like the training rows."""
        check_is_fitted(self)
        scores = self.density_.score_samples(X)
        pairs = zip(self._keys(X), scores, strict=True)
        return np.array([self._held_out.get(key, score) for key, score in pairs])

    def decision_function(self, X: ArrayLike) -> Array:  # noqa: N803
        """The score of each row minus the offset, `(n,)`: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """1 for each inlier and -1 for each outlier, `(n,)`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def predict_proba(self, X: ArrayLike) -> Array:  # noqa: N803
        """How far each row is from the least to the most surprising training row `(n, 2)`.

        The second column is 0 for rows as likely as the likeliest of them, and 1 for such as are
        no more likely than the least likely; the first is the rest, as pyod has it.
        """
        check_is_fitted(self)
        low, high = self._ends
        share = np.clip((-self.score_samples(X) - low) / max(high - low, 1e-300), 0, 1)
        return np.column_stack([1 - share, share])

    @checked
    def explain(self, X: ArrayLike, level: Proportion = 0.9) -> Any:  # noqa: N803
        """How odd each cell is given the others of its row (see `FlowDensity.explain`)."""
        check_is_fitted(self)
        return self.density_.explain(X, level)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _quantile(scores: Array, weights: Array, share: float) -> float:
    """The score below which about this share of the weight lies, as near as one comes to it."""
    values, places = np.unique(scores, return_inverse=True)
    upper = np.cumsum(np.bincount(places, weights))
    below = np.r_[0.0, upper[:-1]]
    return float(values[np.abs(below - share * upper[-1]).argmin()])

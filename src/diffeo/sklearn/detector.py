"""FlowOutlierDetector: outliers by the density of a flow, as a scikit-learn estimator."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted

from diffeo.data import Split
from diffeo.evaluation.likelihood import Batch
from diffeo.evaluation.scores import Kind, Reference, needs_reference, scores
from diffeo.sklearn.density import FlowDensity
from diffeo.sklearn.tables import as_tensors
from diffeo.utils.ranges import Range, Seed32, check_arguments

Array = NDArray[Any]
AUTO = 0.01  # share of the held-out rows


class FlowOutlierDetector(OutlierMixin, BaseEstimator):
    """Outliers by the density that a flow learns.

        decision_function(x) = score_samples(x) - offset_,   an outlier where it is below 0

    Parameters
    ----------
    density : FlowDensity or None, default=None
        Learns the density; None is `FlowDensity()`. Its context, if any, must be columns of X:
        then rows are outliers given their context.
    kind : "log_prob", "typicality" or "complexity", default="log_prob"
        Which score, in nats, higher for rows more like the training rows (see
        `diffeo.evaluation.scores.score`). "typicality" also finds rows that are too likely;
        "complexity" subtracts what each column contributes on its own, and finds rows whose columns
        do not fit each other. Both compare with the rows that `density` held out.
    contamination : float or "auto", default=0.1
        Share of the training rows to call outliers, above 0 and at most 0.5. "auto" assumes none:
        an outlier scores less than 99 of 100 rows that `density` held out, and did not learn.
    random_state : int, RandomState instance or None, default=None
        Replaces that of `density`, unless it is None.

    Attributes
    ----------
    density_ : FlowDensity
        The fitted density.
    reference_ : diffeo.evaluation.scores.Reference or None
        The likelihoods of the held-out rows, where `kind` needs them.
    offset_ : float
        Rows with a lower score are outliers.

    Notes
    -----
    The parameter is not called `score`, since scikit-learn expects a method of that name.

    Examples
    --------
    >>> import numpy as np
    >>> from diffeo.sklearn import FlowDensity, FlowOutlierDetector
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> detector = FlowOutlierDetector(FlowDensity(max_iter=20), contamination=0.02, random_state=0)
    >>> detector.fit(X).predict([[0.0, 0.0], [6.0, -6.0]])
    array([ 1, -1])
    """

    density_: FlowDensity
    reference_: Reference | None
    offset_: float

    def __init__(
        self,
        density: FlowDensity | None = None,
        *,
        kind: Kind = "log_prob",
        contamination: Annotated[float, Range(0, 0.5, above=True)] | Literal["auto"] = 0.1,
        random_state: Seed32 | np.random.RandomState | None = None,
    ) -> None:
        self.density = density
        self.kind = kind
        self.contamination = contamination
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
        self.density_ = density.fit(X, sample_weight=sample_weight)
        self.n_features_in_ = density.n_features_in_
        if hasattr(density, "feature_names_in_"):
            self.feature_names_in_ = density.feature_names_in_
        self.reference_ = self._measure(X)
        score = self.score_samples(X)
        weights = np.ones(len(score)) if sample_weight is None else np.asarray(sample_weight, float)
        share: Any = self.contamination
        if share == "auto":
            held_out, share = density.validation_indices_, AUTO
            score, weights = score[held_out], weights[held_out]
        self.offset_ = _quantile(score, weights, share)
        return self

    def score_samples(self, X: ArrayLike) -> Array:  # noqa: N803
        """The score of each row, `(n,)`, in nats: higher is more like the training rows."""
        check_is_fitted(self)
        [pair] = scores(self.density_.flow_, [self._batch(X)], self.kind, self.reference_)
        score = pair[1].numpy()
        return np.where(np.isnan(score), -np.inf, score)

    def decision_function(self, X: ArrayLike) -> Array:  # noqa: N803
        """The score of each row minus the offset, `(n,)`: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """1 for each inlier and -1 for each outlier, `(n,)`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _batch(self, X: ArrayLike) -> Batch:  # noqa: N803
        return as_tensors(*self.density_._read(X, None))

    def _measure(self, X: ArrayLike) -> Reference | None:  # noqa: N803
        flow = self.density_.flow_
        if not needs_reference(flow, self.kind):
            return None
        rows = Split(*self._batch(X))
        held_out = torch.zeros(len(rows), dtype=torch.bool)
        held_out[self.density_.validation_indices_] = True
        return Reference.measure(flow, [rows.take(held_out)], [rows.take(~held_out)])


def _quantile(score: Array, weights: Array, share: float) -> float:
    """The score below which this share of the weight lies, between two scores if need be.

    With equal weights it is that of `np.quantile`.
    """
    order = np.argsort(score)[weights[np.argsort(score)] > 0]
    upper = np.cumsum(weights[order])
    # Each score stands for the place where the weight of those below it ends.
    below = upper - weights[order]
    return float(np.interp(share * below[-1], below, score[order]))

"""FlowOutlierDetector: rows that a flow finds strange, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from diffeo.evaluation.scores import Kind, Reference, check_kind, needs_reference, scores
from diffeo.sklearn.density import FlowDensity
from diffeo.sklearn.tables import TableReader

Array = NDArray[Any]


class FlowOutlierDetector(OutlierMixin, TableReader, BaseEstimator):
    """Outliers by the density that a flow learns.

        decision_function(x) = score_samples(x) - offset_,   an outlier where it is below 0

    Parameters
    ----------
    density : FlowDensity or None, default=None
        Learns the density; None is `FlowDensity()`. Its context, if it has one, must be columns of
        X: then a row is strange for its context.
    kind : "log_prob", "typicality" or "complexity", default="log_prob"
        What is compared (see `diffeo.evaluation.scores.score`); higher is more
        like the training rows, in nats. "typicality" finds rows that are too
        likely too; "complexity" takes off what columns
        say each by itself, and finds rows whose columns do not fit together. They are seen against
        the rows that `density` held out.
    contamination : float, default=0.1
        Share of the training rows to call outliers, above 0 and at most 0.5.
    random_state : int, RandomState instance or None, default=None
        Replaces that of `density`, unless it is None.

    Attributes
    ----------
    density_ : FlowDensity
        The fitted density.
    reference_ : diffeo.evaluation.scores.Reference or None
        What is usual, where `kind` needs it.
    offset_ : float
        The score under which a row is an outlier.
    n_features_in_, feature_names_in_
        As usual.

    Raises
    ------
    ValueError
        If a parameter or the data cannot be used.

    Notes
    -----
    The parameter is not called `score`, since scikit-learn takes whatever an estimator has of that
    name for a method.

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
        contamination: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.density = density
        self.kind = kind
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:  # noqa: N803
        """Learn the density of X `(n, columns)`, and where its outliers begin; y is ignored."""
        check_kind(self.kind)
        share = self.contamination
        if not isinstance(share, Real) or not 0 < share <= 0.5:
            raise ValueError(f"contamination is {share!r}: choose a share above 0 and up to 0.5.")
        density = FlowDensity() if self.density is None else clone(self.density)
        if isinstance(density.context, str):
            raise ValueError(
                f"a detector is given no y, on which context={density.context!r} rests: name "
                "columns of X instead."
            )
        if self.random_state is not None:
            density.set_params(random_state=self.random_state)
        self.density_ = density.fit(X)
        x, context = self._read(X, None, fit=True)
        self.reference_ = self._reference(x, context)
        self.offset_ = float(np.percentile(self._scores(x, context), 100 * share))
        return self

    def score_samples(self, X: ArrayLike) -> Array:  # noqa: N803
        """The score of each row, `(n,)`, in nats: higher is more like the training rows."""
        check_is_fitted(self)
        return self._scores(*self._read(X, None))

    def decision_function(self, X: ArrayLike) -> Array:  # noqa: N803
        """The score of each row over the offset, `(n,)`: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """1 for each inlier and -1 for each outlier, `(n,)`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    @property
    def context(self) -> Any:  # type: ignore[override]
        """Which columns of X a row is seen in the light of: those of the density."""
        return None if self.density is None else self.density.context

    def _reference(self, x: Array, context: Array | None) -> Reference | None:
        flow = self.density_.flow_
        if not needs_reference(flow, self.kind):
            return None
        held_out = np.zeros(len(x), dtype=bool)
        held_out[self.density_.validation_indices_] = True
        parts = [
            list(self._batches(x[rows], None if context is None else context[rows]))
            for rows in (held_out, ~held_out)
        ]
        return Reference.measure(flow, *parts)

    def _scores(self, x: Array, context: Array | None) -> Array:
        pairs = scores(self.density_.flow_, self._batches(x, context), self.kind, self.reference_)
        found = torch.cat([score for _, score in pairs]).numpy()
        # So far out that not even a float64 holds it.
        return np.nan_to_num(found, nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    def _batches(self, x: Array, context: Array | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        size = self.density_.flow_.chunk
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            yield (
                torch.tensor(x[rows]),
                None if context is None else torch.tensor(context[rows]),
            )

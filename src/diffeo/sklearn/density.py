"""FlowDensity: the density of a table as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted

from diffeo.models.mixed import MixedFlow
from diffeo.schema import NumberColumn
from diffeo.sklearn.fitting import Printed, usual_defaults
from diffeo.sklearn.predicting import Predictor
from diffeo.sklearn.tables import as_tensors
from diffeo.sklearn.weights import Distinct, checked_weights
from diffeo.training.mixed import Settings, fit_mixed, threads_for
from diffeo.utils.machine import Device
from diffeo.utils.modules import in_chunks
from diffeo.utils.ranges import (
    Count,
    NonNegative,
    Positive,
    Seed32,
    Whole,
    check_arguments,
    checked,
)
from diffeo.utils.statistics import far_values, warn_of_far

Array = NDArray[Any]
Auto = Literal["auto"]
FARTHEST = 37.0  # noise, whose probability a float64 holds


class FlowDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, Predictor, BaseEstimator
):
    """Density of a table, learned by a normalizing flow; conditional on request.

        log p(row) = log sum_m w_m prod_i p_m(x_i | x_j before i)

    It is a `diffeo.MixedFlow`: its members are mixtures of normal distributions, and masked
    networks where there are rows enough. Each leaves out a part of the rows, which choose how many
    components there are, when networks stop, and how much each member counts. X may be a DataFrame
    of numbers, text, truth values, dates and empty cells (`kinds`). `log p` is the probability of
    what is discrete, dates included, times the density of what is not; of numbers on a grid, the
    probability of a value over the step.

    Parameters
    ----------
    context : None, "target", "classes" or list of columns, default=None
        What the density is conditional on. None: nothing, and `y` is ignored, as by scikit-learn's
        densities. "target": p(X | y) with `y` of one column or several. "classes": p(X | y) with
        labels `y` of any type. A list: p(other columns | these columns of X), by name or, in an
        array, by position.
    target : str, int or None, default=None
        The column that `predict` and its like answer for, by name or, in an array, by position. It
        is learned as the others are, so `set_params(target=...)` asks for another one without a new
        fit. Where X has no such column, `fit(X, y)` takes y as one of this name.
    kinds : dict or None, default=None
        What columns are, where that is not found by itself: for a name (x0, x1, ... of an array)
        one of "number", "integer", "category", "date" and "left out", or fields of the column, such
        as `{"low": 0, "high": 100}` (see `diffeo.data.find_schema`).
    networks : int or "auto", default="auto"
        How many members are networks; none below 1,500 rows without dates.
    hidden : int or "auto", default="auto"
        Width of the layers of networks.
    max_iter : int or "auto", default="auto"
        Most steps of Adam.
    batch_size : int or "auto", default="auto"
        Rows of a step.
    learning_rate : float, default=0.01
        Largest rate of Adam; it rises over the first tenth of the steps and falls as a cosine.
    n_iter_no_change : int or "auto", default="auto"
        Stop after this many steps in which the likelihood of rows that were left out has not risen.
    random_state : int, RandomState instance or None, default=None
        Of the parts that are left out, the first weights and the order of the rows. torch's own
        random state is neither used nor changed.
    device : "auto", "cpu", "cuda" or "mps", default="auto"
        Where networks learn; "auto" is a GPU where there is one. The fitted flow is on the CPU.
    verbose : int, default=0
        1 prints the likelihood at each validation of networks.

    Attributes
    ----------
    flow_ : diffeo.MixedFlow
        The flow, in float64; `flow_.save_pretrained(folder)` saves it, with names and kinds of the
        columns, and without pickle.
    schema_, conditions_ : diffeo.schema.Schema
        What the columns are that are modelled, and those that are context, or None.
    n_iter_, best_iter_ : int
        How many steps networks took, at least 1, and after which the held-out likelihood was
        highest.
    validation_scores_ : ndarray
        Mean log-likelihood of rows under the networks that left them out, at each validation.
    validation_indices_ : ndarray
        Which rows were left out by some member.
    held_out_scores_ : ndarray
        The log-likelihood of each of these rows under the members that left it out.

    Notes
    -----
    `score` is the mean, as that of GaussianMixture, and not the sum, as that of KernelDensity, so
    that folds of different sizes compare.

    Examples
    --------
    >>> import numpy as np
    >>> from diffeo.sklearn import FlowDensity
    >>> X = np.random.default_rng(0).normal([5, -2], [1, 3], (500, 2))
    >>> density = FlowDensity(random_state=0).fit(X)
    >>> bool(abs(density.score(X) + 0.5 * 2 * np.log(2 * np.pi * np.e) + np.log(3)) < 0.1)
    True
    >>> Z = density.transform(X)  # standard noise
    >>> np.allclose(density.inverse_transform(Z), X)
    True
    >>> density.sample(3, random_state=0).shape
    (3, 2)
    >>> conditional = FlowDensity(context=[0], random_state=0).fit(X)
    >>> conditional.sample(2, context=[[5.0]], random_state=0)[:, 0]
    array([5., 5.])
    """

    def __init__(
        self,
        *,
        context: Literal["target", "classes"] | Sequence[Any] | None = None,
        target: str | Whole | None = None,
        kinds: Mapping[str, Any] | None = None,
        networks: Whole | Auto = "auto",
        hidden: Count | Auto = "auto",
        max_iter: Count | Auto = "auto",
        batch_size: Count | Auto = "auto",
        learning_rate: Positive = 1e-2,
        n_iter_no_change: Count | Auto = "auto",
        random_state: Seed32 | np.random.RandomState | None = None,
        device: Device = "auto",
        verbose: Whole | bool = 0,
    ) -> None:
        self.context = context
        self.target = target
        self.kinds = kinds
        self.networks = networks
        self.hidden = hidden
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn the density of the rows of X `(n, columns)`, given y if `context` asks for it.

        With y as a column of theirs if it is named as `target`.

        X is an array, or a DataFrame of any columns; empty cells are NaN. `sample_weight` `(n,)` is
        how often each row counts; rows of weight 0 do not.
        """
        check_arguments(FlowDensity.__init__, self.get_params(deep=False))
        weights = checked_weights(sample_weight, X)
        if weights is not None and np.count_nonzero(weights) < 2:
            raise ValueError("sample_weight must be above 0 for at least 2 rows.")
        x, context = self._read(X, y, fit=True, weights=weights)
        self._warn(x)
        continuous = any(
            isinstance(column, NumberColumn) and not column.step and not column.atoms
            for column in self.schema_.modelled
        )
        distinct = Distinct.of(x, context, weights, merge=continuous)
        threads = threads_for(len(distinct.x))
        with threads, torch.enable_grad(), usual_defaults():
            rows, given = as_tensors(distinct.x, distinct.context)
            fitted = fit_mixed(
                self.schema_,
                rows,
                conditions=self.conditions_,
                context=given,
                weights=torch.from_numpy(distinct.counts),
                seed=_seed(self.random_state),
                settings=self._settings(),
            )
        self.flow_: MixedFlow = fitted.flow
        position = {int(row): i for i, row in enumerate(fitted.held_out_rows)}
        self.validation_indices_: np.ndarray = np.flatnonzero(
            np.isin(distinct.places, fitted.held_out_rows)
        )
        order = [position[row] for row in distinct.places[self.validation_indices_]]
        self.held_out_scores_: np.ndarray = fitted.held_out[order].numpy()
        best = fitted.best
        self.n_iter_: int = 1 if best is None else max(1, best.steps)
        self.best_iter_: int = 0 if best is None else best.step
        self.validation_scores_: np.ndarray = np.array([] if best is None else best.scores)
        self._n_features_out = x.shape[1]
        return self

    def _warn(self, x: Array) -> None:
        """Warn of numbers that are far from all others of their column."""
        for column, values in zip(self.schema_.modelled, x.T, strict=True):
            known = torch.from_numpy(values[~np.isnan(values)])[:, None]
            if isinstance(column, NumberColumn) and len(known):
                warn_of_far(known, far_values(known), [f"column {column.name}"])

    def _settings(self) -> Settings:
        def chosen(name: str) -> Any:
            value = getattr(self, name)
            return None if isinstance(value, str) else value

        return Settings(
            networks=chosen("networks"),
            hidden=chosen("hidden"),
            steps=chosen("max_iter"),
            lr=self.learning_rate,
            patience=chosen("n_iter_no_change"),
            batch_size=chosen("batch_size"),
            device=self.device,
            observers=[Printed()] if self.verbose else [],
        )

    def score_samples(self, X: ArrayLike, y: ArrayLike | None = None) -> Array:  # noqa: N803
        """Log-density of each row, `(n,)`, in nats and in units of X; conditional if it is."""
        check_is_fitted(self)
        log_prob = self._apply(self.flow_.log_prob, *self._read(X, y))
        # NaN where a row is so far out that a float64 does not hold its density.
        return np.where(np.isnan(log_prob), -np.inf, log_prob)

    def score(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean log-density of the rows, in nats; weighted by `sample_weight` `(n,)`."""
        log_prob = self.score_samples(X, y)
        return float(np.average(log_prob, weights=checked_weights(sample_weight, log_prob)))

    @checked
    def sample(
        self,
        n_samples: Whole = 1,
        context: ArrayLike | None = None,
        random_state: Seed32 | np.random.RandomState | None = None,
        temperature: NonNegative = 1.0,
    ) -> Any:
        """Draw rows `(n_samples, columns)`.

        `context` has one row for each of them, or one for all; columns of X that are context are
        part of the result. `temperature` is the standard deviation of the noise: less draws more
        typical rows. The result is a DataFrame with the types of that which was fitted, or an array
        (or what `set_output` asks for).
        """
        check_is_fitted(self)
        encoded, frame = self._context_of(context, n_samples)
        if n_samples < 0 or not 0 <= temperature < np.inf:
            raise ValueError(
                f"n_samples and temperature must be 0 or more, not {n_samples} and {temperature}."
            )
        generator = torch.Generator().manual_seed(_seed(random_state))
        if temperature == 1:
            given = None
            if encoded is not None:
                given = self.flow_.as_context(torch.tensor(encoded))
            with torch.no_grad():
                drawn = self.flow_.sample(n_samples, given, generator=generator)
            return self._to_output(drawn.numpy(), frame)
        noise = self.flow_.noise(n_samples, generator).detach()
        z = self.flow_.base.scaled(noise, temperature).numpy()
        if not (np.abs(z) < FARTHEST).all():
            raise ValueError(
                f"samples at temperature {temperature:g} leave the range of float64: take one "
                "nearer to 1."
            )
        return self._to_output(self._apply(self.flow_.decode, z, encoded), frame)

    def transform(self, X: ArrayLike, y: ArrayLike | None = None) -> Any:  # noqa: N803
        """The noise of each row, `(n, modelled columns)`: standard normal if the flow is right."""
        check_is_fitted(self)
        return self._apply(self.flow_.encode, *self._read(X, y))

    def fit_transform(self, X: ArrayLike, y: ArrayLike | None = None) -> Any:  # noqa: N803
        """Fit, and return the noise of the same rows."""
        return self.fit(X, y).transform(X, y)

    def inverse_transform(self, X: ArrayLike, context: ArrayLike | None = None) -> Any:  # noqa: N803
        """The rows of noise X `(n, modelled columns)`, in the form of `sample`."""
        check_is_fitted(self)
        z = check_array(X, dtype=np.float64, input_name="X")
        encoded, frame = self._context_of(context, len(z))
        return self._to_output(self._apply(self.flow_.decode, z, encoded), frame)

    @torch.no_grad()
    def _apply(self, function: Any, x: Array, context: Array | None) -> Array:
        size, device = self.flow_.chunk, self.flow_.device
        rows, given = as_tensors(x, context)
        if given is not None:
            given = self.flow_.as_context(given)
        return in_chunks(function, rows, given, size, device).numpy()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = isinstance(self.context, str)
        tags.input_tags.allow_nan = True
        return tags


def _seed(random_state: int | np.random.RandomState | None) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))

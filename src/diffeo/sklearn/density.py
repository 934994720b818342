"""FlowDensity: the density of a table as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Sequence
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

from diffeo.sklearn.fitting import Settings, fit_flow
from diffeo.sklearn.tables import TableReader, as_tensors
from diffeo.sklearn.weights import Distinct, checked_weights
from diffeo.utils.machine import Device
from diffeo.utils.modules import in_chunks
from diffeo.utils.ranges import (
    Count,
    NonNegative,
    Positive,
    Proportion,
    Seed32,
    Share,
    Whole,
    check_arguments,
    checked,
)
from diffeo.utils.statistics import far_values, warn_of_far

Array = NDArray[Any]
Auto = Literal["auto"]


class FlowDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, TableReader, BaseEstimator
):
    """Density of a table, learned by a normalizing flow; conditional on request.

        log p(x) = log N(f(x); 0, I) + log|det df/dx|

    with f a `diffeo.TableFlow`: it starts as a Gaussian of transformed columns, and couplings learn
    the rest by maximum likelihood. Some rows are held out; training stops when their likelihood no
    longer rises, and the best weights are used, or the start where the gain may be chance. "auto"
    depends on the numbers of rows and columns alone (`diffeo.sklearn.fitting`).

    Parameters
    ----------
    context : None, "target", "classes" or list of columns, default=None
        What the density is conditional on. None: nothing, and `y` is ignored, as by scikit-learn's
        densities. "target": p(X | y) with numbers `y`, one column or several. "classes":
        p(X | y) with labels `y` of any type. A list: p(other columns | these columns of X), by
        name or, in an array, by position; text, categories and truth values are classes.
    layers : int or "auto", default="auto"
        Number of couplings.
    hidden : int or "auto", default="auto"
        Width of both hidden layers of each coupling's network.
    noise : float or "auto", default="auto"
        Standard deviation, below 1, of the noise on whitened training rows in the last step. It
        falls to this from 0.5, so that coarse structure is learned first.
    max_iter : int or "auto", default="auto"
        Most steps of Adam.
    batch_size : int, default=512
        Rows of a step.
    learning_rate : float or "auto", default="auto"
        Largest rate of Adam; it rises over the first tenth of the steps and falls as a cosine.
    validation_fraction : float or "auto", default="auto"
        Share of the rows that is held out to choose the best weights.
    n_iter_no_change : int or "auto", default="auto"
        Stop after this many steps in which the held-out likelihood has not risen.
    random_state : int, RandomState instance or None, default=None
        Of the split, the first weights, the order of the rows and the noise. torch's own random
        state is neither used nor changed.
    device : "auto", "cpu", "cuda" or "mps", default="auto"
        Where the couplings learn; "auto" is a GPU where there is one. The fitted flow is on the
        CPU.
    verbose : int, default=0
        1 prints the likelihood at each validation.

    Attributes
    ----------
    flow_ : diffeo.TableFlow
        The flow, in float64; `flow_.save_pretrained(folder)` saves it without pickle.
    n_iter_, best_iter_ : int
        How many steps were taken, and after which the held-out likelihood was highest.
    validation_scores_ : ndarray
        Mean held-out log-likelihood at each validation, in nats; the first is that of the start.
    validation_indices_ : ndarray
        Which rows were held out.

    Notes
    -----
    `score` is the mean, as that of GaussianMixture, and not the sum, as that of KernelDensity, so
    that folds of different sizes compare. Repeated values, such as those of rounded columns, have
    an unbounded density: spread them over their step first.

    Examples
    --------
    >>> import numpy as np
    >>> from diffeo.sklearn import FlowDensity
    >>> X = np.random.default_rng(0).normal([5, -2], [1, 3], (500, 2))
    >>> density = FlowDensity(max_iter=50, random_state=0).fit(X)
    >>> bool(abs(density.score(X) + 0.5 * 2 * np.log(2 * np.pi * np.e) + np.log(3)) < 0.1)
    True
    >>> Z = density.transform(X)  # standard noise
    >>> np.allclose(density.inverse_transform(Z), X)
    True
    >>> density.sample(3, random_state=0).shape
    (3, 2)
    >>> conditional = FlowDensity(context=[0], max_iter=50, random_state=0).fit(X)
    >>> conditional.sample(2, context=[[5.0]], random_state=0)[:, 0]
    array([5., 5.])
    """

    def __init__(
        self,
        *,
        context: Literal["target", "classes"] | Sequence[Any] | None = None,
        layers: Count | Auto = "auto",
        hidden: Count | Auto = "auto",
        noise: Share | Auto = "auto",
        max_iter: Count | Auto = "auto",
        batch_size: Count = 512,
        learning_rate: Positive | Auto = "auto",
        validation_fraction: Proportion | Auto = "auto",
        n_iter_no_change: Count | Auto = "auto",
        random_state: Seed32 | np.random.RandomState | None = None,
        device: Device = "auto",
        verbose: Whole | bool = 0,
    ) -> None:
        self.context = context
        self.layers = layers
        self.hidden = hidden
        self.noise = noise
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
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

        `sample_weight` `(n,)` is how often each row counts; rows of weight 0 do not.
        """
        check_arguments(FlowDensity.__init__, self.get_params(deep=False))
        x, context = self._read(X, y, fit=True)
        distinct = Distinct.of(x, context, checked_weights(sample_weight, x))
        spec = self.encoder_.spec if context is not None else None
        settings, seed = Settings.of(self, len(distinct.x)), _seed(self.random_state)
        (rows, _), names = as_tensors(x, None), self._names()
        if spec is not None and not isinstance(self.context, str):
            names = self._modelled(names)
        warn_of_far(rows, far_values(rows), [f"column {name}" for name in names])
        self.flow_, held_out, best = fit_flow(distinct, spec, settings, seed)
        self.validation_indices_ = np.flatnonzero(np.isin(distinct.places, held_out))
        self.n_iter_, self.best_iter_ = best.steps, best.step
        self.validation_scores_ = np.array(best.scores)
        self._n_features_out = x.shape[1]
        return self

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
        typical rows. The result is an array, or a DataFrame after `set_output` or if some of its
        columns are no numbers.
        """
        check_is_fitted(self)
        encoded, frame = self._context_of(context, n_samples)
        if n_samples < 0 or not 0 <= temperature < np.inf:
            raise ValueError(
                f"n_samples and temperature must be 0 or more, not {n_samples} and {temperature}."
            )
        generator = torch.Generator().manual_seed(_seed(random_state))
        noise = self.flow_.noise(n_samples, generator).detach()
        z = self.flow_.base.scaled(noise, temperature).numpy()
        x = self._apply(self.flow_.decode, z, encoded)
        if not np.isfinite(x).all():
            raise ValueError(
                f"samples at temperature {temperature:g} leave the range of float64: take one "
                "nearer to 1."
            )
        return self._to_output(x, frame)

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
        return in_chunks(function, *as_tensors(x, context), size, device).numpy()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = isinstance(self.context, str)
        return tags


def _seed(random_state: int | np.random.RandomState | None) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))

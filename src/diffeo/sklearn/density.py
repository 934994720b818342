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
from torch import Generator

from diffeo.sklearn.learning import build, learn, one_thread
from diffeo.sklearn.settings import Settings
from diffeo.sklearn.tables import TableReader

Array = NDArray[Any]
Auto = Literal["auto"]


class FlowDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, TableReader, BaseEstimator
):
    """Density of a table, learned by a normalizing flow; conditional if wanted.

        log p(x) = log N(f(x); 0, I) + log|det df/dx|

    with f a `diffeo.TableFlow`: it starts as a Gaussian whose columns were bent, and couplings
    learn the rest by maximum likelihood. Some rows are held out; training stops when their
    likelihood rises no more, and the best weights are kept, or the start where the gain may be
    chance. "auto" follows from the numbers of rows and columns alone
    (`diffeo.sklearn.settings`).

    Parameters
    ----------
    context : None, "target", "classes" or list of columns, default=None
        What the density is conditional on. None: nothing, and `y` is ignored, as scikit-learn's
        densities do. "target": p(X | y) with numbers `y`, one column or several. "classes":
        p(X | y) with labels `y`, of any kind. A list: p(other columns | these columns of X), by
        name or, of an array, by position; text, categories and truth values are classes.
    layers : int or "auto", default="auto"
        Number of couplings.
    hidden : int or "auto", default="auto"
        Width of both hidden layers of each coupling's network.
    noise : float or "auto", default="auto"
        Noise is mixed into the training rows, below 1 in units of the whitened columns. It starts
        at 0.5, where only what is coarse can be learned, and falls to this at max_iter; training
        stops where the finer detail is only that of the training rows.
    max_iter : int or "auto", default="auto"
        Most steps of Adam.
    batch_size : int, default=512
        Rows of a step.
    learning_rate : float or "auto", default="auto"
        Largest rate of Adam; it rises over the first tenth of the steps and falls as a cosine.
    validation_fraction : float or "auto", default="auto"
        Share of the rows that is held out to choose the best weights by.
    n_iter_no_change : int or "auto", default="auto"
        Stop after so many steps in which the held-out likelihood has not risen.
    random_state : int, RandomState instance or None, default=None
        Of the split, the first weights, the order of the rows and the noise. torch's own random
        state is neither used nor changed.
    verbose : int, default=0
        1 prints the likelihood some twenty times, 2 at each look at the held-out rows.

    Attributes
    ----------
    flow_ : diffeo.TableFlow
        The flow, in float64; `flow_.save_pretrained(folder)` keeps it without pickle.
    n_iter_, best_iter_ : int
        How many steps were taken, and after which the held-out likelihood was highest.
    validation_scores_ : ndarray
        Mean held-out log-likelihood at each look, in nats; the first is that of the start.
    validation_indices_ : ndarray
        Which rows were held out.
    n_features_in_, feature_names_in_
        As usual.

    Raises
    ------
    ValueError
        If a parameter or the data cannot be used.

    Notes
    -----
    `score` is the mean, as that of GaussianMixture is, and not the sum of KernelDensity: folds of
    different sizes compare. Nothing is made of sample weights. Values that repeat, as of rounded
    columns, have a density without bound: spread them over their step first.

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
    >>> given = FlowDensity(context=[0], max_iter=50, random_state=0).fit(X)
    >>> given.sample(2, context=[[5.0]], random_state=0)[:, 0]
    array([5., 5.])
    """

    def __init__(
        self,
        *,
        context: Literal["target", "classes"] | Sequence[Any] | None = None,
        layers: int | Auto = "auto",
        hidden: int | Auto = "auto",
        noise: float | Auto = "auto",
        max_iter: int | Auto = "auto",
        batch_size: int = 512,
        learning_rate: float | Auto = "auto",
        validation_fraction: float | Auto = "auto",
        n_iter_no_change: int | Auto = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
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
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:  # noqa: N803
        """Learn the density of the rows of X `(n, columns)`, given y if `context` says so."""
        x, context = self._read(X, y, fit=True)
        settings = Settings.of(self, len(x))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with one_thread(), torch.enable_grad(), torch.device("cpu"):
            flow = build(x, context, settings, seed)
            learned = learn(flow, x, context, settings, seed)
        self.flow_ = learned.flow
        self.n_iter_, self.best_iter_ = learned.steps, learned.best_step
        self.validation_scores_ = -np.array(learned.losses)
        self.validation_indices_ = learned.held_out
        self._n_features_out = x.shape[1]
        return self

    # Density ------------------------------------------------------------------------------------

    def score_samples(self, X: ArrayLike, y: ArrayLike | None = None) -> Array:  # noqa: N803
        """Log-density of each row, `(n,)`: in nats, in units of X; given y if it was fitted so."""
        check_is_fitted(self)
        log_prob = self._chunks(self.flow_.log_prob, *self._read(X, y))
        # So far out that not even a float64 holds it.
        return np.nan_to_num(log_prob, nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    def score(self, X: ArrayLike, y: ArrayLike | None = None) -> float:  # noqa: N803
        """Mean log-density of the rows, in nats."""
        return float(self.score_samples(X, y).mean())

    def sample(
        self,
        n_samples: int = 1,
        context: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        temperature: float = 1.0,
    ) -> Any:
        """Draw rows `(n_samples, columns)`.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        context : array-like or DataFrame, default=None
            What they are conditional on: a row for each of them, or one for all. Columns of X that
            are context come back in the rows.
        random_state : int, RandomState instance or None, default=None
            The same draws the same.
        temperature : float, default=1.0
            Standard deviation of the noise: less draws more typical rows.

        Returns
        -------
        ndarray, or a DataFrame after `set_output` or if some of its columns are no numbers
        """
        check_is_fitted(self)
        given, frame = self._given(context, n_samples)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        with torch.no_grad():
            x = self.flow_.sample(
                n_samples,
                given,
                temperature=temperature,
                generator=Generator().manual_seed(seed),
            )
        return self._rows_out(x.numpy(), frame)

    # Noise --------------------------------------------------------------------------------------

    def transform(self, X: ArrayLike, y: ArrayLike | None = None) -> Any:  # noqa: N803
        """The noise of each row, `(n, columns that are no context)`: standard if f is right."""
        check_is_fitted(self)
        return self._chunks(self.flow_.encode, *self._read(X, y))

    def fit_transform(self, X: ArrayLike, y: ArrayLike | None = None) -> Any:  # noqa: N803
        """Fit, and the noise of the same rows."""
        return self.fit(X, y).transform(X, y)

    def inverse_transform(self, X: ArrayLike, context: ArrayLike | None = None) -> Any:  # noqa: N803
        """The rows of some noise X `(n, columns that are no context)`, in the form of `sample`."""
        check_is_fitted(self)
        z = check_array(X, dtype=np.float64, input_name="X")
        given, frame = self._given(context, len(z))
        context = None if given is None else given.numpy()
        return self._rows_out(self._chunks(self.flow_.decode, z, context), frame)

    # --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _chunks(self, function: Any, x: Array, context: Array | None) -> Array:
        """A function of the flow, applied to so many rows at once that their activations fit."""
        size = self.flow_.chunk
        parts = []
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            given = None if context is None else torch.from_numpy(context[rows])
            parts.append(function(torch.tensor(x[rows]), given).numpy())
        return np.concatenate(parts)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = isinstance(self.context, str)
        return tags

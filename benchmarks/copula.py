"""A Gaussian copula of mixed columns with gaps, whose discrete margins are exact.

Each column is a function of one coordinate of a normal vector: a number through its margin, a
density of kernels, a category through the frequencies of its values. The correlations are learned
by stochastic EM: coordinates of categories and gaps are drawn by Gibbs sampling. The probability of
a row is the density of its numbers times that of its categories given these, by GHK: one category
after another, with draws of the coordinates before; the logarithm is taken of the mean over draws.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri
from scipy.stats import norm

Rows = NDArray[np.float64]
SWEEPS, BURN_IN, DRAWS, KERNELS, TINY = 40, 15, 200, 1_000, 1e-12


class NumberMargin:
    """A density of kernels, whose width is chosen by leaving each row out.

    Widths vary as the gaps between quantiles do, so that tails are wide and modes are narrow.
    """

    def __init__(self, x: Rows) -> None:
        self.values = np.sort(x)
        self.centres = np.quantile(x, (np.arange(KERNELS) + 0.5) / KERNELS)
        span = max(1, KERNELS // 50)
        padded = np.pad(self.centres, span, mode="edge")
        local = np.maximum(padded[2 * span :] - padded[: -2 * span], 1e-3 * x.std())
        random = np.random.default_rng(0)
        order = random.permutation(len(x))
        val, rest = x[order[: len(x) // 5]], x[order[len(x) // 5 :]]
        centres = np.quantile(rest, (np.arange(KERNELS) + 0.5) / KERNELS)
        scales = [f * local for f in (0.15, 0.3, 0.5, 0.8, 1.2, 2.0)]
        scales += [np.full(KERNELS, f * x.std()) for f in (0.01, 0.03, 0.1, 0.2, 0.4)]
        self.widths = max(scales, key=lambda w: self._log_density(val, centres, w).mean())

    @staticmethod
    def _log_density(x: Rows, centres: Rows, widths: Rows) -> Rows:
        parts = [
            norm.logpdf(p[:, None], centres, widths) for p in np.array_split(x, 1 + len(x) // 500)
        ]
        kernels = np.concatenate([logsumexp(p, axis=1) for p in parts]) - np.log(len(centres))
        # One part in a thousand has wide tails, for values far from all.
        wide = norm.logpdf(x, centres.mean(), 5 * centres.std()) + np.log(1e-3)
        return np.logaddexp(kernels + np.log1p(-1e-3), wide)

    def log_density(self, x: Rows) -> Rows:
        """Of values."""
        return self._log_density(x, self.centres, self.widths)

    def score(self, x: Rows) -> Rows:
        """The coordinate of values."""
        parts = np.array_split(x, 1 + len(x) // 500)
        p = [ndtr((part[:, None] - self.centres) / self.widths).mean(1) for part in parts]
        wide = ndtr((x - self.centres.mean()) / (5 * self.centres.std()))
        p = (1 - 1e-3) * np.concatenate(p) + 1e-3 * wide
        return ndtri(np.clip(p, TINY, 1 - TINY))

    def quantile(self, z: Rows) -> Rows:
        """An observed value for each coordinate."""
        places = (ndtr(z) * len(self.values)).astype(int)
        return self.values[np.clip(places, 0, len(self.values) - 1)]


class CategoryMargin:
    """The frequencies of values, in the order of numbers, else of frequency."""

    def __init__(self, values: pd.Series) -> None:
        counts = values.value_counts()
        numbers = pd.to_numeric(pd.Series(counts.index), errors="coerce")
        order = numbers.argsort() if numbers.notna().mean() > 0.5 else np.arange(len(counts))
        self.levels = list(counts.index[order])
        self.p = (counts.to_numpy(dtype=float)[order] + 0.5) / (len(values) + 0.5 * len(counts))
        self.edges = ndtri(np.clip(np.r_[0.0, self.p.cumsum()], 0, 1))
        self.edges[-1] = np.inf

    def bounds(self, values: pd.Series) -> tuple[Rows, Rows]:
        """Those of the coordinate."""
        place = values.map({level: i for i, level in enumerate(self.levels)}).to_numpy(dtype=int)
        return self.edges[place], self.edges[place + 1]

    def quantile(self, z: Rows) -> list[str]:
        """The value for each coordinate."""
        return [
            self.levels[i] for i in np.clip(np.searchsorted(self.edges, z) - 1, 0, len(self.p) - 1)
        ]


def truncated(random: np.random.Generator, low: Rows, high: Rows) -> Rows:
    """Draws of a standard normal between bounds."""
    flip = low > 0  # where the lower tail has more digits
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    p, q = ndtr(a), ndtr(b)
    z = ndtri(np.clip(p + (q - p) * random.random(a.shape), 1e-300, 1 - 1e-16))
    return np.clip(np.where(flip, -z, z), np.maximum(low, -37), np.minimum(high, 37))


def log_interval(low: Rows, high: Rows) -> Rows:
    """log(Phi(high) - Phi(low))."""
    flip = low > 0
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    top, bottom = log_ndtr(b), log_ndtr(a)
    return top + np.log1p(-np.exp(np.minimum(bottom - top, -1e-15)))


class GaussianCopula:
    """The copula of a frame; floats are numbers, the others categories."""

    def __init__(self, frame: pd.DataFrame, seed: int = 0) -> None:
        self.columns = list(frame)
        self.numbers = [c for c in frame if pd.api.types.is_float_dtype(frame[c])]
        self.indicators = [c for c in self.numbers if frame[c].isna().any()]
        frame = self._with_indicators(frame)
        self.discrete = [c for c in frame if c not in self.numbers]
        self.margins = {
            c: NumberMargin(frame[c].dropna().to_numpy())
            if c in self.numbers
            else CategoryMargin(frame[c])
            for c in self.numbers + self.discrete
        }
        self.correlation = self._learn(frame, np.random.default_rng(seed))

    def _with_indicators(self, frame: pd.DataFrame) -> pd.DataFrame:
        gaps = {
            f"{c} is a gap": frame[c].isna().map({True: "1", False: "0"}) for c in self.indicators
        }
        return frame.assign(**gaps)

    def _coordinates(self, frame: pd.DataFrame) -> tuple[Rows, Rows]:
        """Bounds of all coordinates; equal for a number, infinite for a gap."""
        low = np.full((len(frame), len(self.margins)), -np.inf)
        high = -low
        for j, (column, margin) in enumerate(self.margins.items()):
            if isinstance(margin, NumberMargin):
                known = frame[column].notna().to_numpy()
                score = margin.score(frame[column].to_numpy()[known])
                low[known, j] = high[known, j] = score
            else:
                low[:, j], high[:, j] = margin.bounds(frame[column])
        return low, high

    def _learn(self, frame: pd.DataFrame, random: np.random.Generator) -> Rows:
        low, high = self._coordinates(frame)
        free = [j for j in range(low.shape[1]) if (low[:, j] < high[:, j]).any()]
        z = np.where(low == high, low, truncated(random, low, high))
        total, counted = np.zeros((low.shape[1],) * 2), 0
        for sweep in range(SWEEPS):
            correlation = self._correlation(z)
            if sweep >= BURN_IN:
                total, counted = total + correlation, counted + 1
            inverse = np.linalg.inv(correlation)
            for j in free:
                sd = inverse[j, j] ** -0.5
                mean = z[:, j] - z @ inverse[j] / inverse[j, j]
                drawn = mean + sd * truncated(
                    random, (low[:, j] - mean) / sd, (high[:, j] - mean) / sd
                )
                z[:, j] = np.where(low[:, j] == high[:, j], low[:, j], drawn)
        return total / counted

    @staticmethod
    def _correlation(z: Rows) -> Rows:
        ridge = 1e-3
        return (1 - ridge) * np.corrcoef(z.T) + ridge * np.eye(z.shape[1])

    def log_prob(self, frame: pd.DataFrame, seed: int = 0) -> Rows:
        """Of each row."""
        random = np.random.default_rng(seed)
        frame = self._with_indicators(frame)
        low, high = self._coordinates(frame)
        gaps = frame[self.numbers].isna().to_numpy(dtype=bool)
        result = np.zeros(len(frame))
        for j, column in enumerate(self.numbers):
            known, x = ~gaps[:, j], frame[column].to_numpy()
            density = self.margins[column].log_density(x[known])
            result[known] += density - norm.logpdf(low[known, j])
        first = len(self.numbers)
        categories = [*range(first, low.shape[1])]
        for pattern in np.unique(gaps, axis=0):
            rows = np.flatnonzero((gaps == pattern).all(1))
            used = [*np.flatnonzero(~pattern), *categories]
            factor = np.linalg.cholesky(self.correlation[np.ix_(used, used)])
            for part in np.array_split(rows, 1 + len(rows) // 500):
                bounds = low[np.ix_(part, used)], high[np.ix_(part, used)]
                result[part] += self._sequential(
                    factor, *bounds, len(used) - len(categories), random
                )
        return result

    @staticmethod
    def _sequential(
        factor: Rows, low: Rows, high: Rows, exact: int, random: np.random.Generator
    ) -> Rows:
        """The log-density of the first coordinates and probability of the bounds of the others."""
        e = np.zeros((DRAWS, *low.shape))
        log_p = np.zeros((DRAWS, len(low)))
        for j in range(low.shape[1]):
            mean, sd = e[..., :j] @ factor[j, :j], factor[j, j]
            a, b = (low[:, j] - mean) / sd, (high[:, j] - mean) / sd
            if j < exact:
                e[..., j] = a
                log_p += norm.logpdf(a) - np.log(sd)
            else:
                e[..., j] = truncated(random, a, b)
                log_p += log_interval(a, b)
        return logsumexp(log_p, axis=0) - np.log(DRAWS)

    def sample(self, count: int, seed: int = 0) -> pd.DataFrame:
        """Rows of observed values."""
        random = np.random.default_rng(seed)
        z = random.normal(size=(count, len(self.margins))) @ np.linalg.cholesky(self.correlation).T
        drawn = {c: m.quantile(z[:, j]) for j, (c, m) in enumerate(self.margins.items())}
        frame = pd.DataFrame(drawn)
        for column in self.indicators:
            frame.loc[frame[f"{column} is a gap"] == "1", column] = np.nan
        return frame[self.columns]

"""The density of an adversarial random forest (Watson et al. 2023), learned by arfpy.

A tree is a mixture of its leaves, with a truncated normal for each number and frequencies for each
category of a leaf; the forest is the mean of its trees. A gap is an indicator, a category; its
number is filled with random observed values to learn, and is integrated out of the density.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm, truncnorm

from benchmarks.copula import log_interval

Rows = NDArray[np.float64]
MANY, PSEUDO, NARROW = 2_000, 0.1, 1e-3


class Forest:
    """The forest of a frame; floats are numbers, the others categories.

    Of more than 2,000 rows it has 10 trees and 3 rounds at most, not arfpy's 30 and 10, which take
    hours there.
    """

    def __init__(self, frame: pd.DataFrame, seed: int = 0) -> None:
        from arfpy.arf import arf

        np.in1d = np.isin  # type: ignore[attr-defined]  # which arfpy 0.1.1 calls by its old name
        self.random = np.random.default_rng(seed)
        np.random.seed(seed)  # pandas draws for arfpy by it
        self.columns = list(frame)
        self.numbers = [c for c in frame if pd.api.types.is_float_dtype(frame[c])]
        self.indicators = [c for c in self.numbers if frame[c].isna().any()]
        frame = self._with_indicators(frame)
        self.categories = [c for c in frame if c not in self.numbers]
        self.levels = {c: sorted(frame[c].unique()) for c in self.categories}
        for column in self.numbers:
            known = frame[column].dropna().to_numpy()
            drawn = self.random.choice(known, len(frame))
            frame[column] = frame[column].fillna(pd.Series(drawn, frame.index))
        for column in self.categories:
            frame[column] = pd.Categorical(frame[column], self.levels[column])
        many = len(frame) > MANY
        options = {"num_trees": 10 if many else 30, "max_iters": 3 if many else 10}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forest = arf(frame, verbose=False, min_node_size=5, random_state=seed, **options)
            self._measure(forest, frame)

    def _with_indicators(self, frame: pd.DataFrame) -> pd.DataFrame:
        gaps = {
            f"{c} is a gap": frame[c].isna().map({True: "1", False: "0"}) for c in self.indicators
        }
        return frame.assign(**gaps)

    def _places(self, frame: pd.DataFrame) -> NDArray[np.int64]:
        places = [pd.Categorical(frame[c], self.levels[c]).codes for c in self.categories]
        return np.array(places, dtype=np.int64).reshape(len(self.categories), len(frame)).T

    def _measure(self, forest: Any, frame: pd.DataFrame) -> None:
        """The parameters of all leaves."""
        from arfpy.utils import bnd_fun

        x, places = frame[self.numbers].to_numpy(dtype=float), self._places(frame)
        leaves = forest.clf.apply(forest.x_real)
        least = NARROW * x.std(0)
        weights, means, widths, lows, highs = [], [], [], [], []
        tables: list[list[Rows]] = [[] for _ in self.categories]
        for tree in range(leaves.shape[1]):
            names = forest.orig_colnames
            bounds = bnd_fun(tree, len(names), forest.clf, names).set_index(["leaf", "variable"])
            for leaf in np.unique(leaves[:, tree]):
                rows = leaves[:, tree] == leaf
                count = rows.sum()
                if count < 2:
                    continue
                weights.append(count / len(x) / leaves.shape[1])
                means.append(x[rows].mean(0))
                widths.append(np.maximum(x[rows].std(0, ddof=1), least))
                of = bounds.loc[leaf].loc[self.numbers]
                lows.append(of["min"].to_numpy())
                highs.append(of["max"].to_numpy())
                for j, column in enumerate(self.categories):
                    k = len(self.levels[column])
                    p = np.bincount(places[rows, j], minlength=k) + PSEUDO
                    tables[j].append(p / (count + PSEUDO * k))
        self.weights = np.array(weights) / np.sum(weights)
        self.means, self.widths, self.lows, self.highs = map(np.array, (means, widths, lows, highs))
        self.tables = [np.array(table) for table in tables]
        standard = (self.lows - self.means) / self.widths, (self.highs - self.means) / self.widths
        self.mass = log_interval(*standard)

    def log_prob(self, frame: pd.DataFrame) -> Rows:
        """Of each row."""
        frame = self._with_indicators(frame)
        parts = np.array_split(np.arange(len(frame)), 1 + len(frame) // 200)
        return np.concatenate([self._log_prob(frame.iloc[part]) for part in parts])

    def _log_prob(self, frame: pd.DataFrame) -> Rows:
        total = np.log(self.weights)[None].repeat(len(frame), 0)
        for j, column in enumerate(self.numbers):
            x = frame[column].to_numpy()[:, None]
            value = norm.logpdf(x, self.means[:, j], self.widths[:, j]) - self.mass[:, j]
            value[(x < self.lows[:, j]) | (x > self.highs[:, j])] = -np.inf
            total += np.where(np.isnan(x), 0.0, value)
        places = self._places(frame)
        for j, table in enumerate(self.tables):
            total += np.log(table[:, places[:, j]]).T
        return logsumexp(total, axis=1)

    def sample(self, count: int) -> pd.DataFrame:
        """Rows."""
        leaf = self.random.choice(len(self.weights), count, p=self.weights)
        drawn: dict[str, Any] = {}
        for j, column in enumerate(self.numbers):
            mean, width = self.means[leaf, j], self.widths[leaf, j]
            a, b = (self.lows[leaf, j] - mean) / width, (self.highs[leaf, j] - mean) / width
            drawn[column] = truncnorm(a, b, mean, width).rvs(count, random_state=self.random)
        for table, column in zip(self.tables, self.categories, strict=True):
            above = self.random.random(count)[:, None] > table[leaf].cumsum(1)
            places = np.minimum(above.sum(1), len(self.levels[column]) - 1)
            drawn[column] = np.array(self.levels[column], dtype=object)[places]
        frame = pd.DataFrame(drawn)
        for column in self.indicators:
            frame.loc[frame[f"{column} is a gap"] == "1", column] = np.nan
        return frame[self.columns]

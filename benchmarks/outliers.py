"""Outliers of tables: our detector with its defaults against those of scikit-learn and pyod.

Seven sets of rows, two of real tables. Each detector learns from 1,000 rows, in which there are no
outliers ("clean") or 5 % ("contaminated"), and scores 1,000 others with as many outliers: AUROC,
with the standard error of 200 bootstraps. With `contamination=0.05`, learned from clean rows, the
share of held-out normal rows that are flagged. If our detector has `explain`, of normal rows with
one corrupted cell the share where that is the most surprising.

    python -m benchmarks outliers [--only ours] [--sets moons ...] [--seeds 2]

Results are added to benchmarks/results/outliers.csv.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer, make_moons
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

from benchmarks.real import DATA, numeric

RESULTS = Path(__file__).parent / "results"
ROWS, SHARE, BOOTSTRAPS, CORRUPTED, FEW = 1_000, 0.05, 200, 300, 20
Rows = NDArray[np.float64]
Random = np.random.Generator


def auroc(inside: Rows, outside: Rows) -> tuple[float, float]:
    """The chance that an event scores above an outlier, and its bootstrapped standard error."""
    # What is infinitely unlikely, or cannot be computed, counts as an outlier.
    inside, outside = (np.where(np.isnan(x), -np.inf, x) for x in (inside, outside))
    random = np.random.default_rng(0)

    def area(a: Rows, b: Rows) -> float:
        b = np.sort(b)  # ties count half
        below = [np.searchsorted(b, a, side).mean() for side in ("left", "right")]
        return float(np.mean(below) / len(b))

    again = [
        area(random.choice(inside, len(inside)), random.choice(outside, len(outside)))
        for _ in range(BOOTSTRAPS)
    ]
    return area(inside, outside), float(np.std(again, ddof=1))


# Sets: normal rows, and outliers, as many as asked for ------------------------------------------


def blobs(random: Random, spread: float = 1.0) -> Callable[[int], Rows]:
    """Four clusters in five dimensions."""
    centres = np.random.default_rng(5).normal(0, 3, (4, 5))
    factors = np.random.default_rng(6).normal(0, 0.5, (4, 5, 5))

    def draw(count: int) -> Rows:
        k = random.integers(4, size=count)
        noise = spread * random.normal(size=(count, 5))
        return centres[k] + np.einsum("nij,nj->ni", factors[k], noise)

    return draw


def scattered(random: Random, folder: Path) -> tuple[Rows, Rows]:
    """Clusters, and uniform points in their box."""
    x = blobs(random)(3 * ROWS)
    return x, random.uniform(x.min(0), x.max(0), (2 * ROWS, 5))


def local(random: Random, folder: Path) -> tuple[Rows, Rows]:
    """Clusters, and points around them that are five times as wide."""
    return blobs(random)(3 * ROWS), blobs(random, 5.0)(2 * ROWS)


def shifted(random: Random, folder: Path) -> tuple[Rows, Rows]:
    """Heavy tails, and rows that lie together in a corner."""
    factor = np.random.default_rng(7).normal(size=(6, 6)) / 2
    x = np.exp(random.normal(size=(5 * ROWS, 6)) @ factor)
    y = x[3 * ROWS :] * np.exp([1.5, -1.5, 1.5, 0, 0, 0])
    return x[: 3 * ROWS], y


def moons(random: Random, folder: Path) -> tuple[Rows, Rows]:
    """Two moons, a number that depends on their place, and the same with permuted columns."""
    x, _ = make_moons(3 * ROWS, noise=0.07, random_state=int(random.integers(2**31)))
    x = np.column_stack((x, np.sin(2 * x[:, 0]) + 0.2 * random.normal(size=len(x))))
    return x, random.permuted(x, axis=0)[: 2 * ROWS]


def dependent(random: Random, folder: Path) -> tuple[Rows, Rows]:
    """Uniform columns that follow each other, and independent ones."""
    z = random.normal(size=(3 * ROWS, 6)).cumsum(1) / np.sqrt(np.arange(1, 7))
    return norm.cdf(z), random.random((2 * ROWS, 6))


def permuted(x: Rows, random: Random, count: int) -> Rows:
    """Rows whose columns are permuted each by itself."""
    times = -(-count // len(x))
    return np.concatenate([random.permuted(x, axis=0) for _ in range(times)])[:count]


def power_plant(random: Random, folder: Path) -> tuple[Rows, Rows]:
    """Rows of power-plant, and such with permuted columns."""
    x = random.permutation(numeric("power-plant", folder).jittered)
    return x[: 3 * ROWS], permuted(x[3 * ROWS :], random, 2 * ROWS)


def tumours(random: Random, folder: Path) -> tuple[Rows, Rows]:
    """breast_cancer: benign ones, and malignant ones."""
    x, y = load_breast_cancer(return_X_y=True)
    return random.permutation(x[y == 1]), random.permutation(x[y == 0])


SETS = {
    "scattered": scattered,
    "local": local,
    "shifted": shifted,
    "moons": moons,
    "dependent": dependent,
    "power-plant": power_plant,
    "breast_cancer": tumours,
}


# Detectors --------------------------------------------------------------------------------------


class Theirs:
    """A detector of scikit-learn or pyod, on standardized columns."""

    def __init__(self, detector: Any) -> None:
        self.detector, self.scaler = detector, StandardScaler()

    def fit(self, x: Rows) -> Theirs:
        """Learn from rows."""
        self.detector.fit(self.scaler.fit_transform(x))
        return self

    def scores(self, x: Rows) -> Rows:
        """Higher for normal rows."""
        x = self.scaler.transform(x)
        if hasattr(self.detector, "score_samples"):
            return self.detector.score_samples(x)
        # ECOD and COPOD of pyod count new rows into their distributions: let these be few.
        parts = np.array_split(x, 1 + len(x) // FEW)
        return -np.concatenate([self.detector.decision_function(part) for part in parts])

    def flags(self, x: Rows) -> NDArray[np.bool_]:
        """Which rows are outliers to it."""
        if hasattr(self.detector, "score_samples"):
            return self.detector.predict(self.scaler.transform(x)) == -1
        return self.scores(x) < -self.detector.threshold_


class Ours:
    """Ours, with its defaults."""

    def __init__(self, seed: int) -> None:
        from diffeo.sklearn import FlowOutlierDetector

        self.detector = FlowOutlierDetector(contamination=SHARE, random_state=seed)

    def fit(self, x: Rows) -> Ours:
        """Learn from rows."""
        self.detector.fit(x)
        return self

    def scores(self, x: Rows) -> Rows:
        """Higher for normal rows."""
        return self.detector.score_samples(x)

    def flags(self, x: Rows) -> NDArray[np.bool_]:
        """Which rows are outliers to it."""
        return self.detector.predict(x) == -1

    def first(self, x: Rows) -> NDArray[np.int64] | None:
        """The column that is named first, of each row; None where it cannot explain."""
        explain = getattr(self.detector, "explain", None)
        if explain is None:
            return None
        found = explain(x).sort_values("surprise").groupby("row")["column"].last()
        return found.str.removeprefix("x").astype(int).to_numpy()


def rivals(seed: int) -> dict[str, Callable[[], Theirs]]:
    """Those that are installed."""
    found: dict[str, Callable[[], Theirs]] = {
        "IsolationForest": lambda: Theirs(IsolationForest(contamination=SHARE, random_state=seed)),
        "LOF": lambda: Theirs(LocalOutlierFactor(novelty=True, contamination=SHARE)),
    }
    if find_spec("pyod") is None:
        print("Without pyod, which pip installs, KNN, ECOD and COPOD are left out.")
        return found
    from pyod.models.copod import COPOD
    from pyod.models.ecod import ECOD
    from pyod.models.knn import KNN

    more = {"KNN": KNN, "ECOD": ECOD, "COPOD": COPOD}
    return found | {n: lambda kind=k: Theirs(kind(contamination=SHARE)) for n, k in more.items()}


def corrupted(x: Rows, random: Random) -> tuple[Rows, NDArray[np.int64]]:
    """Rows with one cell moved away from the median by 2.5 to 5 deviations, and its column."""
    column = random.integers(x.shape[1], size=len(x))
    rows, place = x.copy(), np.arange(len(x))
    cell, middle = x[place, column], np.median(x, axis=0)[column]
    side = np.where(cell < middle, -1, 1) * random.uniform(2.5, 5, len(x))
    rows[place, column] = cell + side * x.std(0)[column]
    return rows, column


def measure(name: str, detector: str, make: Callable[[], Any], seed: int, folder: Path) -> Any:
    """The lines of one detector on one set."""
    random = np.random.default_rng(seed)
    x, y = SETS[name](random, folder)
    fit = min(ROWS, len(x) // 2)
    train, test = x[:fit], x[fit : fit + ROWS]
    bad = int(SHARE * fit)
    few, test_y = y[:bad], y[bad : bad + ROWS]
    line = {"set": name, "seed": seed, "detector": detector}
    for kind, rows in (("clean", train), ("contaminated", np.r_[train[bad:], few])):
        learned = make().fit(rows)
        area, error = auroc(learned.scores(test), learned.scores(test_y))
        found = line | {"rows": kind, "auroc": round(area, 4), "stderr": round(error, 4)}
        if kind == "clean":
            found["flagged"] = round(float(learned.flags(test).mean()), 4)
            if isinstance(learned, Ours):
                rows, column = corrupted(test[:CORRUPTED], random)
                first = learned.first(rows)
                if first is not None:
                    found["named first"] = round(float((first == column).mean()), 4)
        print(*found.values(), sep="  ", flush=True)
        yield found


def table(results: pd.DataFrame) -> str:
    """AUROC of each set and each detector, the best of each line in bold, and shares of ours."""
    lines = []
    names = sorted(dict.fromkeys(results["detector"]), key=lambda name: name != "diffeo")
    for rows, some in results.groupby("rows", sort=False):
        wide = some.pivot_table(index="set", columns="detector", values="auroc", sort=False)
        wide = wide.reindex(columns=names)
        lines += [f"\n| {rows} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for name, row in wide.iterrows():
            cells = [f"**{v:.3f}**" if v == row.max() else f"{v:.3f}" for v in row]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    clean = results[results["rows"] == "clean"]
    wide = clean.pivot_table(index="set", columns="detector", values="flagged", sort=False)
    wide = wide.reindex(columns=names)
    lines += ["", "| flagged of normal rows | " + " | ".join(names) + " |"]
    lines += ["|---" * (len(names) + 1) + "|"]
    for name, row in wide.iterrows():
        lines.append(f"| {name} | {' | '.join(f'{v:.1%}' for v in row)} |")
    if "named first" in clean:
        named = clean.groupby("set", sort=False)["named first"].mean().dropna()
        lines += [
            "",
            *(f"{name}: the corrupted cell is first in {v:.0%}" for name, v in named.items()),
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks outliers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--only", choices=("ours", "rivals", "print"), default="")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DATA, help="where the CSV files are")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; benchmarks/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    file = options.out / "outliers.csv"
    known = pd.read_csv(file).to_dict("records") if file.is_file() else []
    for name in options.sets:
        for seed in range(options.seeds):
            detectors: dict[str, Callable[[], Any]] = {}
            if options.only in ("", "ours"):
                detectors["diffeo"] = lambda seed=seed: Ours(seed)
            if options.only in ("", "rivals"):
                detectors |= rivals(seed)
            for detector, make in detectors.items():
                try:
                    new = [*measure(name, detector, make, seed, options.data)]
                except ValueError as error:
                    print(f"{name}: {detector}: {error}")
                    continue
                key = name, seed, detector
                known = [k for k in known if (k["set"], k["seed"], k["detector"]) != key] + new
                file.parent.mkdir(parents=True, exist_ok=True)
                pd.DataFrame(known).to_csv(file, index=False, lineterminator="\n")
    if known:
        print(table(pd.DataFrame(known)))

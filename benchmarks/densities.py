"""FlowDensity with its defaults against KernelDensity and GaussianMixture, on held-out rows.

Each rounded column is spread over its step and each row that occurs twice is taken once, the same
for all: else whoever puts the narrowest spike on a value, or on a row that is in both parts, wins
without bound. All learn from columns that are standardized by the training rows, and report the
mean log-likelihood of the test rows in nats and in the units of the columns. KernelDensity's
bandwidth is chosen by cross-validation; the number and the covariances of GaussianMixture's
components by BIC. Results are added to those of other tables in the file.

    python -m benchmarks densities [--tables wine ...] [--splits 5] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from diffeo.data.tables.loading import step_size
from diffeo.figures import DATA, GREY, MODEL, save
from diffeo.figures.style import house_style, panel
from diffeo.sklearn import FlowDensity

RESULTS = Path(__file__).parent / "results"
UCI = Path(__file__).parents[2] / "shared" / "data" / "uci"
TABLES = ("iris", "wine", "diabetes", "breast_cancer", "power-plant", "protein-tertiary-structure")
BANDWIDTHS = np.geomspace(0.05, 1.2, 12)
COMPONENTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)
MANY = 3_000
COLOURS = {"FlowDensity": MODEL, "KernelDensity": DATA, "GaussianMixture": GREY}


def load(name: str, folder: Path = UCI) -> np.ndarray:
    """The rows of a table, each once, in random order, rounded columns spread over their steps."""
    if name in TABLES[:4]:
        x = getattr(datasets, f"load_{name}")().data
    else:
        x = pd.read_csv(folder / f"{name}.csv").to_numpy()
    random = np.random.default_rng(0)
    x = random.permutation(np.unique(x.astype(np.float64), axis=0))
    steps = np.array([step_size(column) for column in x.T])
    return x + steps * (random.random(x.shape) - 0.5)


def flow(train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Log-likelihoods of the test rows, and what was chosen."""
    density = FlowDensity(random_state=seed).fit(train)
    return density.score_samples(test), f"step {density.best_iter_} of {density.n_iter_}"


def kernels(train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """The same of kernels whose bandwidth cross-validates best."""
    many = len(train) > MANY
    folds = ShuffleSplit(2, test_size=1_000, random_state=seed) if many else 5
    search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=folds).fit(train)
    width = search.best_params_["bandwidth"]
    return search.best_estimator_.score_samples(test), f"bandwidth {width:.2f}"


def mixture(train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """The same of the Gaussian mixture with the lowest BIC."""
    best, lowest = None, np.inf
    for kind in ("full", "tied", "diag", "spherical"):
        worse = 0
        before = np.inf
        for count in COMPONENTS:
            if worse == 2 or count * 5 > len(train):
                break
            fitted = GaussianMixture(count, covariance_type=kind, random_state=seed).fit(train)
            bic = fitted.bic(train)
            worse = worse + 1 if bic > before else 0
            before = min(before, bic)
            if bic < lowest:
                best, lowest = fitted, bic
    assert best is not None
    return best.score_samples(test), f"{best.n_components} components, {best.covariance_type}"


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, str]]] = {
    "FlowDensity": flow,
    "KernelDensity": kernels,
    "GaussianMixture": mixture,
}


def compare(
    name: str, split: int, methods: Sequence[str], folder: Path = UCI
) -> list[dict[str, object]]:
    """A line for each method: the mean over a fifth of the rows, and its standard error."""
    x = load(name, folder)
    order = np.random.default_rng(split).permutation(len(x))
    test, train = np.split(x[order], [len(x) // 5])
    scaler = StandardScaler().fit(train)
    shift = np.log(scaler.scale_).sum()
    lines: list[dict[str, object]] = []
    for method in methods:
        start = time.perf_counter()
        log_prob, chosen = METHODS[method](scaler.transform(train), scaler.transform(test), split)
        log_prob = log_prob - shift
        line = {"table": name, "split": split, "method": method}
        line |= {"log_likelihood": round(float(log_prob.mean()), 4)}
        line |= {"stderr": round(float(log_prob.std() / len(test) ** 0.5), 4), "chosen": chosen}
        lines.append(line | {"seconds": round(time.perf_counter() - start, 1)})
        print(*lines[-1].values(), flush=True)
    return lines


@house_style()
def plot(results: pd.DataFrame) -> Figure:
    """How far the others are from FlowDensity: mean and standard error over the splits."""
    tables = [name for name in TABLES if name in set(results["table"])]
    wide = results.pivot_table(index=["table", "split"], columns="method", values="log_likelihood")
    height = 0.4 * len(tables)
    figure = Figure(figsize=(6.5, height + 1.0))
    axes = panel(figure, 2.0, 0.55, 4.2, height)
    axes.axvline(0, color=COLOURS["FlowDensity"], lw=1.4)
    wide = wide.reindex(columns=list(METHODS))
    for offset, method in ((-0.12, "KernelDensity"), (0.12, "GaussianMixture")):
        gap = (wide[method] - wide["FlowDensity"]).groupby("table")
        mean, error = gap.mean()[tables], gap.sem().fillna(0.0)[tables]
        where = np.arange(len(tables)) + offset
        axes.errorbar(mean, where, xerr=error, fmt="o", color=COLOURS[method], label=method)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_ylim(len(tables) - 0.5, -0.5)
    axes.set_yticks(range(len(tables)), tables)
    axes.set_xlabel("held-out log-likelihood over that of FlowDensity, nats")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of results, and write them with a plot."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks densities", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tables", nargs="*", default=TABLES, choices=TABLES)
    parser.add_argument("--methods", nargs="*", default=tuple(METHODS), choices=tuple(METHODS))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--data", type=Path, default=UCI, help="where UCI's files are")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; benchmarks/results")
    options = parser.parse_args(arguments)
    file = options.out / "densities.csv"
    known = pd.read_csv(file).to_dict("records") if file.is_file() else []
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    for name in options.tables:
        for split in range(options.splits):
            new = compare(name, split, options.methods, options.data)
            keys = {(line["table"], line["split"], line["method"]) for line in new}
            known = [k for k in known if (k["table"], k["split"], k["method"]) not in keys] + new
            write(file, known)
    results = pd.DataFrame(known)
    save(plot(results), file.with_suffix(".png"))
    groups = results.groupby(["table", "method"])["log_likelihood"]
    print(groups.agg(["mean", "sem", "count"]).round(3).to_string())


def write(file: Path, lines: Sequence[dict[str, object]]) -> None:
    """All lines, in the order of the tables."""
    file.parent.mkdir(parents=True, exist_ok=True)
    methods = list(METHODS)
    lines = sorted(
        lines, key=lambda k: (TABLES.index(k["table"]), k["split"], methods.index(k["method"]))
    )
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)

"""FlowDensity with its defaults against mixtures, kernels and flows, on held-out rows of tables.

Of each table the complete numeric columns. Each value that lies on a grid is spread over its cell,
columns are standardized by the training rows, and all learn from the same such rows and are scored
on the same such rows, in nats, in the standardized units. Printed are the mean over the splits of
the best rival and of ours, the difference, and its standard error by pairs of test rows.

GaussianMixture by BIC, or by cross-validation of components and regularization; KernelDensity by
cross-validation of the bandwidth, also on whitened rows; NSF and MAF of zuko and flowjax, of a few
settings the one with the best validation (a part of the training rows, also for early stopping).

`--grid` fits FlowDensity to the values as they are written, with log P(cell) - log(step) as its
log-likelihood: that of a density of spread values is a lower bound of it.

    python -m benchmarks numeric [--only ours] [--again] [--tables wine ...] [--seconds 20]

Results are added to benchmarks/results/numeric-rivals.csv and numeric-ours.csv; what is there is
not measured again: ours only with --again, rivals with `--only rivals --again`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold, ShuffleSplit

from benchmarks.real import DATA, NUMERIC, NumericTable, Rows, numeric, split, splits
from benchmarks.store import Store
from benchmarks.timed import Learner, Setting, TorchLearner, fit, zuko_flow, zuko_log_prob
from benchmarks.verdicts import Verdict, markdown, verdict

RESULTS = Path(__file__).parent / "results"
FEW = 2_000  # rows for training, up to which there is time for more tries
SMALL_COUNTS, LARGE_COUNTS = tuple(range(1, 16)), (1, 4, 8, 15, 30)
BANDWIDTHS = np.geomspace(0.03, 1.5, 18)
STEPS, PATIENCE = 1_000, 12


@dataclass(frozen=True)
class Problem:
    """What a method gets: standardized rows, and what was written.

    Args:
        train, test: jittered and standardized.
        exact_train, exact_test: as they are written, in their units.
        scale: the standard deviations, by which densities of these differ.
        seed: of the split.
        seconds: of the processor, of one fit of a flow.
    """

    train: Rows
    test: Rows
    exact_train: Rows
    exact_test: Rows
    scale: Rows
    seed: int
    seconds: float

    @classmethod
    def of(cls, table: NumericTable, seed: int, seconds: float) -> Problem:
        """That of one split of a table."""
        rows, (train, test) = table.jittered, split(len(table.exact), seed)
        mean, scale = rows[train].mean(0), rows[train].std(0)
        x, exact = (rows - mean) / scale, table.exact
        return cls(x[train], x[test], exact[train], exact[test], scale, seed, seconds)

    @property
    def folds(self) -> list[tuple[Rows, Rows]]:
        """Training rows to fit and to validate: four folds, of many rows one part."""
        many = len(self.train) > FEW
        folds = ShuffleSplit(1, test_size=0.1, random_state=0) if many else KFold(4, shuffle=True)
        if not many:
            folds.random_state = 0
        return [(self.train[a], self.train[b]) for a, b in folds.split(self.train)]


Method = Callable[[Problem], tuple[Rows, str]]


def flow(problem: Problem) -> tuple[Rows, str]:
    """Ours, with its defaults."""
    from diffeo.sklearn import FlowDensity

    density = FlowDensity(random_state=problem.seed).fit(problem.train)
    return density.score_samples(problem.test), "defaults"


def grid_flow(problem: Problem) -> tuple[Rows, str]:
    """Ours, of the values as they are written."""
    from diffeo.sklearn import FlowDensity

    density = FlowDensity(random_state=problem.seed).fit(problem.exact_train)
    shift = np.log(problem.scale).sum()
    return density.score_samples(problem.exact_test) + shift, "defaults, values as written"


def counts(problem: Problem) -> Sequence[int]:
    """Numbers of components, with five rows for each at least."""
    some = SMALL_COUNTS if len(problem.train) <= FEW else LARGE_COUNTS
    return [k for k in some if 5 * k <= len(problem.train)]


def bic_mixture(problem: Problem) -> tuple[Rows, str]:
    """The Gaussian mixture with the lowest BIC."""
    fitted = [
        GaussianMixture(k, covariance_type=kind, random_state=0).fit(problem.train)
        for kind in ("full", "diag")
        for k in counts(problem)
    ]
    best = min(fitted, key=lambda mixture: mixture.bic(problem.train))
    chosen = f"{best.n_components} components, {best.covariance_type}"
    return best.score_samples(problem.test), chosen


def validated_mixture(problem: Problem) -> tuple[Rows, str]:
    """The Gaussian mixture with the best cross-validation."""
    many = len(problem.train) > FEW
    few_components = [k for k in counts(problem) if many or k <= 8 or k % 3 == 0]

    def value(setting: tuple[int, float]) -> float:
        k, ridge = setting
        fitted = (
            GaussianMixture(k, reg_covar=ridge, random_state=0).fit(a).score(b)
            for a, b in problem.folds
        )
        return float(np.mean([*fitted]))

    ridges = (1e-6, 1e-3) if many else (1e-6, 1e-3, 1e-2, 3e-2, 1e-1)
    k, ridge = max(((k, ridge) for k in few_components for ridge in ridges), key=value)
    best = GaussianMixture(k, reg_covar=ridge, random_state=0, n_init=1 if many else 3)
    chosen = f"{k} components, ridge {ridge:g}"
    return best.fit(problem.train).score_samples(problem.test), chosen


def kernels(problem: Problem, whiten: bool = False) -> tuple[Rows, str]:
    """Kernels whose bandwidth cross-validates best."""
    train, test, shift = problem.train, problem.test, 0.0
    if whiten:
        pca = PCA(whiten=True).fit(train)
        train, test = pca.transform(train), pca.transform(test)
        shift = -0.5 * np.log(pca.explained_variance_).sum()
    val = np.random.default_rng(0).permutation(len(train))[:1_000]
    squares = cdist(train[val], train, "sqeuclidean")
    squares[np.arange(len(val)), val] = np.inf  # each row is left out of its own density
    width = max(BANDWIDTHS, key=lambda w: kernel_density(squares, w, train.shape[1]).mean())
    parts = np.array_split(test, 1 + len(test) // 500)
    found = [kernel_density(cdist(p, train, "sqeuclidean"), width, train.shape[1]) for p in parts]
    return np.concatenate(found) + shift, f"bandwidth {width:.3f}"


def kernel_density(squares: Rows, width: float, features: int) -> Rows:
    """Log-densities by squared distances `(rows, centres)`, as KernelDensity's but at once."""
    constant = features * np.log(width * np.sqrt(2 * np.pi)) + np.log(squares.shape[1])
    return logsumexp(-0.5 / width**2 * squares, axis=1) - constant


def zuko_learner(name: str, train: Rows, val: Rows, setting: Setting) -> Learner:
    """A flow of zuko."""
    torch.manual_seed(0)
    parts = [torch.as_tensor(x, dtype=torch.float32) for x in (train, val)]
    return TorchLearner(zuko_flow(name, train.shape[1], setting), zuko_log_prob, *parts)


def flowjax_learner(train: Rows, val: Rows, setting: Setting) -> Learner:
    """A flow of flowjax."""
    from benchmarks.flowjax_learner import FlowjaxLearner

    return FlowjaxLearner(setting, train, val)


def flows(
    make: Callable[[Rows, Rows, Setting], Learner],
    small: Sequence[Setting],
    large: Sequence[Setting],
    problem: Problem,
) -> tuple[Rows, str]:
    """Of some settings of a flow that with the best validation."""
    many = len(problem.train) > FEW
    [fold] = ShuffleSplit(1, test_size=0.1 if many else 0.2, random_state=0).split(problem.train)
    train, val = (problem.train[rows] for rows in fold)
    best, result, chosen = -np.inf, np.full(len(problem.test), -np.inf), "none"
    for setting in large if many else small:
        learner = make(train, val, setting)
        steps = np.inf if many else STEPS
        value, taken = fit(learner, len(train), setting, problem.seconds, steps, PATIENCE)
        if value > best:
            best, result, chosen = value, learner.score(problem.test), f"{setting}, {taken} steps"
    return result, chosen


# Few for many rows: what served best on power-plant and protein by `splits-nll`.
SMALL_NSF = [
    Setting(3, (64, 64), 1e-3, 256, {"bins": 8}),  # its own defaults
    Setting(3, (64, 64), 4e-3, 64, {"bins": 8}),
]
LARGE_NSF = [
    Setting(3, (128, 128), 8e-3, 512, {"bins": 8}),
    Setting(3, (128, 128), 1.6e-2, 256, {"bins": 8}),
]
SMALL_MAF = [Setting(3, (64, 64), 1e-3, 256, {}), Setting(5, (64, 64), 4e-3, 64, {})]
LARGE_MAF = [Setting(3, (128, 128), 1.6e-2, 256, {})]
JAX_SMALL_NSF = [Setting(4, (50,), 4e-3, 64, {"knots": 8})]
JAX_LARGE_NSF = [Setting(4, (128, 128), 8e-3, 256, {"knots": 8})]
JAX_SMALL_MAF = [Setting(8, (50,), 4e-3, 64, {})]
JAX_LARGE_MAF = [Setting(8, (128, 128), 8e-3, 256, {})]

RIVALS: dict[str, Method] = {
    "GaussianMixture BIC": bic_mixture,
    "GaussianMixture CV": validated_mixture,
    "KernelDensity": kernels,
    "KernelDensity whitened": partial(kernels, whiten=True),
    "zuko MAF": partial(flows, partial(zuko_learner, "MAF"), SMALL_MAF, LARGE_MAF),
    "zuko NSF": partial(flows, partial(zuko_learner, "NSF"), SMALL_NSF, LARGE_NSF),
    "flowjax MAF": partial(flows, flowjax_learner, JAX_SMALL_MAF, JAX_LARGE_MAF),
    "flowjax NSF": partial(flows, flowjax_learner, JAX_SMALL_NSF, JAX_LARGE_NSF),
}
OURS: dict[str, Method] = {"diffeo": flow}
GRID: dict[str, Method] = {"diffeo on grids": grid_flow}


def chosen_methods(only: str, grid: bool) -> tuple[dict[str, Method], dict[str, Method]]:
    """Rivals and ours; what is missing is said."""
    missing = [name for name in ("zuko", "flowjax") if find_spec(name) is None]
    if missing and only != "ours":
        print(f"Without {' and '.join(missing)}, which pip installs, their flows are left out.")
    rivals = {n: m for n, m in RIVALS.items() if n.split()[0] not in missing}
    ours = OURS | (GRID if grid else {})
    return ({} if only == "ours" else rivals), ({} if only == "rivals" else ours)


def measured(method: Method, table: NumericTable, seed: int, seconds: float) -> tuple[Rows, str]:
    """A method on one split of a table."""
    return method(Problem.of(table, seed, seconds))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is unknown, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks numeric", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tables", nargs="*", default=NUMERIC, choices=NUMERIC)
    parser.add_argument("--only", choices=("ours", "rivals", "print"), default="")
    parser.add_argument("--rivals", nargs="*", default=[*RIVALS], choices=[*RIVALS])
    parser.add_argument(
        "--again", action="store_true", help="measure ours again, or the rivals with --only"
    )
    parser.add_argument("--grid", action="store_true", help="ours on the values as written, too")
    parser.add_argument("--splits", type=int, help="5; 2 of more than 5,000 rows")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one fit of a flow; 20")
    parser.add_argument("--data", type=Path, default=DATA, help="where the CSV files are")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; benchmarks/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    rivals, ours = chosen_methods(options.only, options.grid)
    if options.only == "print":
        rivals, ours = {}, {}
    theirs_store = Store(options.out / "numeric-rivals.csv")
    our_store = Store(options.out / "numeric-ours.csv")
    tables: dict[str, NumericTable] = {}
    for name in options.tables:
        try:
            tables[name] = numeric(name, options.data)
        except ValueError as error:
            print(error)
    seeds = {n: range(options.splits or splits(len(t.exact))) for n, t in tables.items()}
    rivals = {name: rivals[name] for name in options.rivals if name in rivals}
    for methods, store, again in (
        (ours, our_store, options.again),
        (rivals, theirs_store, options.again and not ours),
    ):
        for method, run in methods.items():
            for of, seed in ((name, seed) for name in tables for seed in seeds[name]):
                make = partial(measured, run, tables[of], seed, options.seconds)
                store.measure((of, seed, method), make, again)
    verdicts: list[Verdict] = []
    for name, table in tables.items():
        for column, reason in table.dropped.items():
            print(f"{name}: column {column} is dropped: {reason}.")
        label = f"{name}, {len(table.exact):,} x {len(table.columns)}"
        for method in OURS | GRID:
            found = verdict(label, name, seeds[name], method, our_store, theirs_store)
            verdicts += [found] if found else []
    print(f"Nats a row; each flow of zuko and flowjax had {options.seconds:g} s for each setting.")
    for method in OURS | GRID:
        print(markdown([v for v in verdicts if v.method == method]))

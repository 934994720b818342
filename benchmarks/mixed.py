"""FlowDensity with its defaults on mixed tables, against random forests, a copula and SDV.

Held-out log-probability: that of categories times the density of numbers, in nats and in the units
of the columns, against arfpy's adversarial random forest and a Gaussian copula. All learn from and
are scored on the same rows, whose numbers are spread over the cells of their grids; rows with a
category that no training row has are left out.

Samples, of what all learned from the rows as they are written: the AUC of a random forest that
tells them from as many held-out rows (beside: training rows from held-out rows), the mean
difference of correlations over that of training rows, and the share of cells outside the schema
(limits, grid, categories). Tables of fewer than 2,000 rows are split five times, since a forest
learns little from 81 rows. Samples of rivals are rounded to the grid. Beside them SDV's
GaussianCopula, CTGAN and TVAE, which run by the interpreter that DIFFEO_SDV names, since SDV does
not go along with this project's pins.

    python -m benchmarks mixed [--only ours] [--again] [--tables wage ...]
    python -m benchmarks mixed --samples [--draws 1000000] ...
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from benchmarks.copula import GaussianCopula
from benchmarks.forests import Forest
from benchmarks.mixed_tables import MIXED, MixedTable, mixed
from benchmarks.real import DATA, Rows, split
from benchmarks.store import Store
from benchmarks.verdicts import Verdict, markdown, verdict

RESULTS = Path(__file__).parent / "results"
SDV = ("SDV GaussianCopula", "SDV CTGAN", "SDV TVAE")
SPLITS, MOST_SAMPLES, SECONDS, TREES = 2, 3_000, 240, 200
FEW, FEW_SPLITS = 2_000, 5
Scored = tuple[Rows, str]


def parts(table: MixedTable, frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows and test rows; all categories of these are known from those."""
    train, test = (frame.iloc[rows] for rows in split(len(frame), seed))
    seen = np.all([test[c].isin(train[c].unique()) for c in table.categories], axis=0)
    # A first gap is a value that no training row has, too.
    gaps = [test[c].notna() | train[c].isna().any() for c in table.numbers]
    usable = seen & np.all(gaps, axis=0)
    return train.reset_index(drop=True), test[usable].reset_index(drop=True)


# Densities --------------------------------------------------------------------------------------


def flow(table: MixedTable, seed: int) -> Scored:
    """Ours, with its defaults."""
    from diffeo.sklearn import FlowDensity

    train, test = parts(table, table.jittered, seed)
    return FlowDensity(random_state=seed).fit(train).score_samples(test), "defaults"


def copula(table: MixedTable, seed: int) -> Scored:
    """The Gaussian copula."""
    train, test = parts(table, table.jittered, seed)
    return GaussianCopula(train).log_prob(test), "200 draws"


def forest(table: MixedTable, seed: int) -> Scored:
    """The adversarial random forest."""
    train, test = parts(table, table.jittered, seed)
    learned = Forest(train)
    return learned.log_prob(test), f"{len(learned.weights)} leaves"


RIVALS: dict[str, Callable[[MixedTable, int], Scored]] = {
    "Gaussian copula": copula,
    "arfpy ARF": forest,
}
OURS: dict[str, Callable[[MixedTable, int], Scored]] = {"diffeo": flow}


# Samples ----------------------------------------------------------------------------------------


def our_samples(table: MixedTable, count: int, seed: int) -> pd.DataFrame:
    """Of ours, of the rows as they are written, dates as dates."""
    from diffeo.sklearn import FlowDensity

    train, _ = parts(table, table.exact, seed)
    train = train.assign(**{c: pd.to_datetime(train[c], unit="D") for c in table.dates})
    drawn = FlowDensity(random_state=0).fit(train).sample(count, random_state=0)
    days = {c: (drawn[c] - pd.Timestamp(0)).dt.days.astype(float) for c in table.dates}
    return drawn.assign(**days)


def rounded(table: MixedTable, frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers on their grids."""
    frame = frame.copy()
    for column, step in table.steps.items():
        if step:
            origin = table.exact[column].min()
            frame[column] = ((frame[column] - origin) / step).round() * step + origin
    return frame


def rival_samples(
    learn: Callable[[pd.DataFrame], GaussianCopula | Forest],
    table: MixedTable,
    count: int,
    seed: int,
) -> pd.DataFrame:
    """Of the copula or the forest."""
    train, _ = parts(table, table.jittered, seed)
    return rounded(table, learn(train).sample(count))


def training_rows(table: MixedTable, count: int, seed: int) -> pd.DataFrame:
    """Rows that the others learned from."""
    train, _ = parts(table, table.exact, seed)
    return train.sample(count, random_state=0)


def sdv_samples(name: str, table: MixedTable, count: int, seed: int) -> pd.DataFrame:
    """Of a synthesizer of SDV, by another interpreter.

    Raises:
        ValueError: if there is none, or it takes too long.
    """
    python = os.environ.get("DIFFEO_SDV", "")
    if not python:
        raise ValueError(f"{name} is left out: DIFFEO_SDV names no interpreter that has SDV")
    train, _ = parts(table, table.exact, seed)
    script = Path(__file__).with_name("sdv_samples.py")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("train.csv", "samples.csv")]
        # With a letter before it, a category that is a number is text to SDV, too.
        train.assign(**{c: "=" + train[c] for c in table.categories}).to_csv(files[0], index=False)
        command = [python, script, name.split()[1], *files, str(count), str(SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
        made = pd.read_csv(files[1])
    texts = {c: made[c].str.removeprefix("=") for c in table.categories}
    return made.astype(dict.fromkeys(table.numbers, float)).assign(**texts)[list(table.exact)]


SAMPLERS: dict[str, Callable[[MixedTable, int, int], pd.DataFrame]] = {
    "diffeo": our_samples,
    "training rows": training_rows,
    "Gaussian copula": partial(rival_samples, GaussianCopula),
    "arfpy ARF": partial(rival_samples, Forest),
    **{name: partial(sdv_samples, name) for name in SDV},
}


def encoded(table: MixedTable, frame: pd.DataFrame) -> Rows:
    """Categories as their places, and numbers, gaps of which are NaN."""
    columns = []
    for column in table.exact:
        if column in table.steps:
            columns.append(frame[column].to_numpy(dtype=float))
        else:
            levels = sorted(table.exact[column].unique())
            columns.append(pd.Categorical(frame[column].astype(str), levels).codes.astype(float))
    return np.column_stack(columns)


def separation(real: Rows, made: Rows) -> float:
    """The AUC of a random forest, cross-validated."""
    x, y = np.concatenate((real, made)), np.repeat([0, 1], [len(real), len(made)])
    trees = RandomForestClassifier(TREES, min_samples_leaf=3, random_state=0)
    order = np.random.default_rng(0).permutation(len(x))
    p = cross_val_predict(trees, x[order], y[order], cv=5, method="predict_proba")[:, 1]
    return float(roc_auc_score(y[order], p))


def correlations(x: Rows) -> NDArray[np.float64]:
    """Of all pairs of columns, gaps left out by pairs."""
    return pd.DataFrame(x).corr().to_numpy()[np.triu_indices(x.shape[1], 1)]


def outside(table: MixedTable, frame: pd.DataFrame) -> float:
    """The share of cells outside the schema."""
    bad = 0
    for column, known in table.exact.items():
        values = frame[column]
        if column in table.steps:
            x, step = values.dropna().to_numpy(dtype=float), table.steps[column]
            room = 1e-9 * np.ptp(known.dropna())
            wrong = (x < known.min() - room) | (x > known.max() + room)
            if step:
                places = (x - known.min()) / step
                wrong |= np.abs(places - places.round()) > 1e-3
            bad += int(wrong.sum()) + (0 if known.isna().any() else int(values.isna().sum()))
        else:
            bad += int((~values.astype(str).isin(known.unique())).sum())
    return bad / frame.size


def judge(table: MixedTable, frame: pd.DataFrame, seed: int) -> dict[str, float]:
    """AUC, correlations and cells outside, of samples."""
    train, test = (encoded(table, part) for part in parts(table, table.exact, seed))
    made = encoded(table, frame.iloc[: len(test)])
    real = correlations(test)
    between = np.nanmean(np.abs(correlations(train) - real))
    apart = np.nanmean(np.abs(correlations(made) - real))
    return {
        "auc": separation(test, made),
        "correlations": float(apart / between),
        "outside": outside(table, frame),
    }


def measure_samples(
    table: MixedTable, names: Sequence[str], file: Path, again: bool, draws: int
) -> None:
    """A line for each split and method, added to a file; of ours, `draws` rows are looked through.

    SDV, whose networks take minutes, learns the first split alone.
    """
    known = pd.read_csv(file).to_dict("records") if file.is_file() else []
    splits = FEW_SPLITS if len(table.exact) < FEW else 1
    for name, seed in ((n, s) for n in names for s in range(1 if n in SDV else splits)):
        key = {"table": table.name, "split": seed, "method": name}
        old = [line for line in known if key.items() <= line.items()]
        if old and not (again and name in OURS):
            continue
        count = min(len(parts(table, table.exact, seed)[1]), MOST_SAMPLES)
        try:
            frame = SAMPLERS[name](table, max(count, draws if name in OURS else 0), seed)
        except Exception as error:  # whatever libraries raise
            print(f"{table.name}: {name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        found = {
            k: round(v, 8 if k == "outside" else 4) for k, v in judge(table, frame, seed).items()
        }
        known = [line for line in known if line not in old] + [key | found]
        print(*known[-1].values(), sep="  ", flush=True)
        pd.DataFrame(known).to_csv(file, index=False, lineterminator="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is unknown, and print tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks mixed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tables", nargs="*", default=MIXED, choices=MIXED)
    parser.add_argument("--only", choices=("ours", "rivals", "print"), default="")
    parser.add_argument(
        "--again", action="store_true", help="measure ours again, or the rivals with --only"
    )
    parser.add_argument("--samples", action="store_true", help="samples, not densities")
    parser.add_argument("--draws", type=int, default=0, help="of ours, to look for cells outside")
    parser.add_argument("--splits", type=int, default=SPLITS, help=f"{SPLITS}")
    parser.add_argument("--data", type=Path, default=DATA, help="where the CSV files are")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; benchmarks/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rivals, ours = RIVALS, OURS
    if find_spec("arfpy") is None and options.only in ("", "rivals"):
        print("Without arfpy, which pip installs, its forests are left out.")
        rivals = {name: run for name, run in RIVALS.items() if name != "arfpy ARF"}
    rivals = {} if options.only in ("ours", "print") else rivals
    ours = {} if options.only in ("rivals", "print") else ours
    stores = [Store(options.out / f"mixed-{which}.csv") for which in ("ours", "rivals")]
    verdicts: list[Verdict] = []
    for name in options.tables:
        try:
            table = mixed(name, options.data)
        except ValueError as error:
            print(error)
            continue
        if options.samples:
            left_out = {*OURS, *RIVALS} - {*ours, *rivals}
            names = (
                [*ours] if options.only == "ours" else [n for n in SAMPLERS if n not in left_out]
            )
            file = options.out / "mixed-samples.csv"
            measure_samples(table, names, file, options.again, options.draws)
            continue
        for methods, store in ((ours, stores[0]), (rivals, stores[1])):
            for method, run in methods.items():
                for seed in range(options.splits):
                    again = options.again and (method in OURS or not ours)
                    store.measure((name, seed, method), partial(run, table, seed), again)
        label = f"{name}, {len(table.exact):,} x {table.exact.shape[1]}"
        found = verdict(label, name, range(options.splits), "diffeo", *stores)
        verdicts += [found] if found else []
    if options.samples:
        print_samples(options.out / "mixed-samples.csv")
    print(markdown(verdicts))


def print_samples(file: Path) -> None:
    """A line for each table, a column for each method: AUC, correlations, outside."""
    if file.is_file():
        frame = pd.read_csv(file)
        for what in ("auc", "correlations", "outside"):
            print(f"\n{what}")
            print(frame.pivot_table(what, "table", "method").to_string())

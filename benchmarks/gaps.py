"""Filled gaps: ours against scikit-learn's imputers and means, on cells that were removed.

A fifth of the cells of five tables is removed at random, in training rows and in test rows alike.
All learn from the training rows and fill the test rows. Of removed cells that held a value: the
root mean squared error of numbers, in standard deviations, and the share of categories that are
right. Ours fills the mean of numbers and the mode of categories; it finds by itself what they are
(text of years is numbers to it). To scikit-learn's imputers a category is a column of 0 and 1 for
each of its values but the first (with all, linear models predict each from the others, which are
missing, too); the largest wins. Numbers are standardized. Means and errors are over five seeds.

    python -m benchmarks gaps [--only ours] [--again] [--tables wine ...]

Results are added to benchmarks/results/gaps.csv; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from benchmarks.mixed_tables import GAP, MixedTable, mixed
from benchmarks.real import BUNDLED, DATA, numeric, split

RESULTS = Path(__file__).parent / "results"
TABLES = ("penguins", "wine", "cars", "seattle-weather", "wage", "iris", "diabetes")
SHARE, SEEDS = 0.2, 5
Fill = Callable[[pd.DataFrame, pd.DataFrame, int], pd.DataFrame]


def load(name: str, folder: Path) -> MixedTable:
    """A table, mixed or of numbers alone."""
    if name not in BUNDLED:
        return mixed(name, folder)
    table = numeric(name)
    frame = pd.DataFrame(table.exact, columns=table.columns)
    steps = dict(zip(table.columns, table.steps, strict=True))
    return MixedTable(name, frame, frame, steps, {})


def remove(table: MixedTable, seed: int) -> pd.DataFrame:
    """The rows with fewer cells: NaN in numbers, None in categories."""
    frame = table.exact.replace({c: {GAP: None} for c in table.categories})
    removed = np.random.default_rng(seed).random(frame.shape) < SHARE
    return frame.mask(removed)


def imputer(make: Callable[[int], Any]) -> Fill:
    """Fills by an imputer of scikit-learn."""

    def fill(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> pd.DataFrame:
        numbers = [c for c in train if pd.api.types.is_float_dtype(train[c])]
        texts = [c for c in train if c not in numbers]
        levels = {c: sorted(train[c].dropna().unique()) for c in texts}
        mean, std = train[numbers].mean(), train[numbers].std()

        def encode(frame: pd.DataFrame) -> np.ndarray:
            columns = [((frame[c] - mean[c]) / std[c]).to_numpy() for c in numbers]
            for c in texts:
                unknown = ~frame[c].isin(levels[c]).to_numpy()
                columns += [np.where(unknown, np.nan, frame[c] == v) for v in levels[c][1:]]
            return np.column_stack(columns).astype(float)

        made = make(seed).fit(encode(train)).transform(encode(test))
        filled, at = test.copy(), len(numbers)
        for j, c in enumerate(numbers):
            filled[c] = test[c].fillna(pd.Series(made[:, j] * std[c] + mean[c], test.index))
        for c in texts:
            rest = made[:, at : at + len(levels[c]) - 1]
            best = np.column_stack((1 - rest.sum(1), rest)).argmax(1)
            filled[c] = test[c].fillna(pd.Series(np.array(levels[c])[best], test.index))
            at += len(levels[c]) - 1
        return filled

    return fill


def ours(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Fills by FlowDensity with its defaults.

    Raises:
        ValueError: as long as it cannot.
    """
    from diffeo.sklearn import FlowDensity

    if not hasattr(FlowDensity, "fill"):
        raise ValueError("FlowDensity has no method `fill` yet")
    density = FlowDensity(random_state=seed).fit(train)
    filled, likeliest = density.fill(test), density.fill(test, "mode")
    texts = [c for c in test if not pd.api.types.is_float_dtype(test[c])]
    return filled.assign(**{c: likeliest[c] for c in texts})


RIVALS: dict[str, Fill] = {
    "mean or mode": imputer(lambda seed: SimpleImputer()),
    "KNNImputer": imputer(lambda seed: KNNImputer()),
    "IterativeImputer": imputer(lambda seed: IterativeImputer(random_state=seed)),
}
OURS: dict[str, Fill] = {"diffeo": ours}


def errors(table: MixedTable, fill: Fill, seed: int) -> dict[str, float]:
    """RMSE and accuracy on removed cells of test rows."""
    holed = remove(table, seed)
    train, test = split(len(holed), seed)
    filled = fill(holed.iloc[train], holed.iloc[test], seed)
    truth, gaps = table.exact.iloc[test], holed.iloc[test].isna()
    squares, right = [], []
    for column in table.exact:
        if column in table.steps:
            rows = gaps[column] & truth[column].notna()
            gap = (filled[column] - truth[column])[rows].astype(float)
            squares += [*(gap / table.exact[column].std()) ** 2]
        else:
            rows = gaps[column] & (truth[column] != GAP)
            right += [*(filled[column] == truth[column])[rows]]
    accuracy = float(np.mean(right)) if right else np.nan
    return {"rmse": float(np.sqrt(np.mean(squares))), "accuracy": accuracy}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is unknown, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gaps", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tables", nargs="*", default=TABLES, choices=TABLES)
    parser.add_argument("--only", choices=("ours", "rivals", "print"), default="")
    parser.add_argument("--again", action="store_true", help="measure ours again")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--data", type=Path, default=DATA, help="where the CSV files are")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; benchmarks/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of convergence
    methods = {"ours": OURS, "rivals": RIVALS, "print": {}, "": OURS | RIVALS}[options.only]
    file = options.out / "gaps.csv"
    lines = pd.read_csv(file).to_dict("records") if file.is_file() else []
    known = {(k["table"], k["method"], k["seed"]): k for k in lines}
    for name in options.tables:
        try:
            table = load(name, options.data)
        except ValueError as error:
            print(error)
            continue
        for method, fill in methods.items():
            for seed in range(options.seeds):
                key = name, method, seed
                if key in known and not (options.again and method in OURS):
                    continue
                try:
                    found = errors(table, fill, seed)
                except ValueError as error:
                    print(f"{name}: {method}: {error}")
                    break
                line = dict(zip(("table", "method", "seed"), key, strict=True))
                known[key] = line | {k: round(v, 4) for k, v in found.items()}
                print(*known[key].values(), sep="  ", flush=True)
                file.parent.mkdir(parents=True, exist_ok=True)
                pd.DataFrame(known.values()).to_csv(file, index=False, lineterminator="\n")
    if known:
        print(summary(pd.DataFrame(known.values())))


def summary(results: pd.DataFrame) -> str:
    """Means and standard errors, the best of each line in bold."""
    names = [*dict.fromkeys(results["method"])]
    lines = [f"| table | | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for table, some in results.groupby("table", sort=False):
        for what, sign in (("rmse", -1), ("accuracy", 1)):
            groups = some.groupby("method", sort=False)[what].agg(["mean", "sem"]).reindex(names)
            if groups["mean"].notna().any():
                best = (sign * groups["mean"]).max()
                cells = [f"{r['mean']:.3f} ± {r['sem']:.3f}" for _, r in groups.iterrows()]
                marked = [
                    f"**{c}**" if sign * m == best else c
                    for c, m in zip(cells, groups["mean"], strict=True)
                ]
                lines.append(f"| {table} | {what} | {' | '.join(marked)} |")
    return "\n".join(lines)

"""Coverage of 90 % intervals of p(y | x) on held-out rows: ours against linear regression.

One column of each table is the target, the others are known. Both learn from the training rows of a
split; of the test rows of all splits together: the share inside of the interval with its binomial
standard error, the mean width of the interval, and the continuous ranked probability score. The
rival is linear regression with normal errors, whose intervals count the uncertainty of its weights;
gaps are filled by means, and categories are columns of 0 and 1.

    python -m benchmarks coverage [--tables wine ...] [--splits 5]

Results are added to benchmarks/results/coverage.csv.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from benchmarks.mixed_tables import GAP, mixed
from benchmarks.real import BUNDLED, DATA, numeric, split

RESULTS = Path(__file__).parent / "results"
LEVEL, TESTED, ROWS, LARGE = 0.9, 400, 4_000, 1_000
TARGETS = {
    "iris": "petal width (cm)",
    "wine": "alcohol",
    "penguins": "body_mass_g",
    "cars": "Miles_per_Gallon",
    "diabetes": "bmi",
    "breast_cancer": "mean smoothness",
    "seattle-weather": "temp_max",
    "wage": "age",
    "power-plant": "PE",
}


def load(name: str, folder: Path) -> pd.DataFrame:
    """The rows of a table that have the target, gaps as such."""
    if name in (*BUNDLED, "power-plant"):
        table = numeric(name, folder)
        frame = pd.DataFrame(table.exact, columns=table.columns)
    else:
        made = mixed(name, folder)
        frame = made.exact.replace({c: {GAP: None} for c in made.categories})
    if TARGETS[name] not in frame:
        raise ValueError(f"{name} has no column {TARGETS[name]}: {', '.join(frame)}")
    frame = frame[frame[TARGETS[name]].notna()]
    some = np.random.default_rng(0).permutation(len(frame))[:ROWS]
    return frame.iloc[some].reset_index(drop=True)


def ours(train: pd.DataFrame, test: pd.DataFrame, target: str, seed: int) -> dict[str, np.ndarray]:
    """The intervals and scores of FlowDensity with its defaults."""
    from diffeo.sklearn import FlowDensity

    density = FlowDensity(target=target, random_state=seed).fit(train)
    low, high = density.predict_interval(test, LEVEL).T
    return {"low": low, "high": high, "crps": density.crps(test, test[target])}


def linear(
    train: pd.DataFrame, test: pd.DataFrame, target: str, seed: int
) -> dict[str, np.ndarray]:
    """Those of linear regression with normal errors."""
    both = pd.concat([train, test]).drop(columns=target)
    columns = [np.ones(len(both))]
    for _, values in both.items():
        if pd.api.types.is_numeric_dtype(values):
            known = values.iloc[: len(train)]
            columns.append(((values - known.mean()) / known.std()).fillna(0).to_numpy())
        else:
            levels = sorted(values.iloc[: len(train)].dropna().unique())
            columns += [(values == level).to_numpy(dtype=float) for level in levels[1:]]
    x = np.column_stack(columns)
    a, b = x[: len(train)], x[len(train) :]
    inverse = np.linalg.pinv(a.T @ a)
    weights, free = inverse @ a.T @ train[target].to_numpy(), len(a) - np.linalg.matrix_rank(a)
    errors = train[target].to_numpy() - a @ weights
    mean = b @ weights
    scale = np.sqrt(errors @ errors / free * (1 + (b @ inverse * b).sum(1)))
    reach = stats.t(free).ppf((1 + LEVEL) / 2) * scale
    z = (test[target].to_numpy() - mean) / scale
    score = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    return {"low": mean - reach, "high": mean + reach, "crps": scale * score}


METHODS = {"diffeo": ours, "linear regression": linear}


def measure(name: str, splits: int, folder: Path) -> list[dict]:
    """Both methods on a table; one split of large ones."""
    frame, target, lines = load(name, folder), TARGETS[name], []
    count = 1 if len(frame) > LARGE else splits
    for method, predict in METHODS.items():
        start, parts, values = time.perf_counter(), [], []
        for seed in range(count):
            train, test = split(len(frame), seed)
            rows = frame.iloc[test[:TESTED]]
            parts.append(pd.DataFrame(predict(frame.iloc[train], rows, target, seed)))
            values.append(rows[target].to_numpy())
        found, y = pd.concat(parts), np.concatenate(values)
        share = float(((found["low"] <= y) & (y <= found["high"])).mean())
        lines.append(
            {
                "table": name,
                "target": target,
                "rows": len(frame),
                "tested": len(y),
                "method": method,
                "coverage": round(share, 4),
                "error": round(float(np.sqrt(share * (1 - share) / len(y))), 4),
                "width": round(float((found["high"] - found["low"]).mean()), 4),
                "crps": round(float(found["crps"].mean()), 5),
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
        print(*lines[-1].values(), sep="  ", flush=True)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and add to what is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks coverage", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tables", nargs="*", default=[*TARGETS], choices=[*TARGETS])
    parser.add_argument("--splits", type=int, default=5, help="of tables of up to 1,000 rows")
    parser.add_argument("--data", type=Path, default=DATA, help="where the CSV files are")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; benchmarks/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    file = options.out / "coverage.csv"
    known = pd.read_csv(file).to_dict("records") if file.is_file() else []
    for name in options.tables:
        try:
            new = measure(name, options.splits, options.data)
        except ValueError as error:
            print(error)
            continue
        known = [line for line in known if line["table"] != name] + new
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(known).to_csv(file, index=False, lineterminator="\n")

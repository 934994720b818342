"""RealNVP against zuko's NICE on tables, for the same time of training.

zuko's `NICE` is its affine coupling flow. Both see the same splits and report the mean negative
log-likelihood of the test rows in nats and in the units of the data. diffeo trains first, by
`diffeo.run.train` as the command line does, its whole time counted (figures, checkpoints and
validation with it); zuko then has that time for the steps of `benchmarks.timed`, its data
standardized. zuko's learning rate, number of transforms and batch size are tried in several
combinations, and its best by validation stands.

    python -m benchmarks tables-nll [--data power-plant.csv ...] [--out results.csv]
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.timed import Setting, TorchLearner, fit, zuko_flow, zuko_log_prob
from diffeo import RealNVP
from diffeo.data import DataOptions, Table, load_table
from diffeo.run import train

DATA = Path(__file__).parents[2] / "shared" / "data" / "uci"
DEFAULTS = [str(DATA / "power-plant.csv"), str(DATA / "protein-tertiary-structure.csv")]
ZUKO = [
    Setting(3, (64, 64), 1e-3, 256, {}),  # its own defaults
    Setting(8, (64, 64), 1e-3, 256, {}),
    Setting(8, (64, 64), 4e-3, 1024, {}),
    Setting(8, (64, 64), 8e-3, 1024, {}),
    Setting(8, (128, 128), 2e-3, 512, {}),
]


def run_diffeo(options: DataOptions) -> tuple[float, float, float]:
    """Validation and test NLL, and the seconds that training took."""
    with tempfile.TemporaryDirectory() as folder:
        out = train(RealNVP, options, Path(folder) / "run", console=Console(quiet=True))
        results = json.loads((out / "results.json").read_text())
    return results["val"]["nll"], results["test"]["nll"], results["training"]["seconds"]


def run_zuko(table: Table, seconds: float, setting: Setting) -> tuple[float, float]:
    """Validation and test NLL after so many seconds of training."""
    torch.manual_seed(0)
    std, mean = torch.std_mean(table.train.x, dim=0)
    x, val, test = ((s.x - mean) / std for s in (table.train, table.val, table.test))
    shift = float(std.double().log().sum())
    flow = zuko_flow("NICE", table.features, setting)
    learner = TorchLearner(flow, zuko_log_prob, x, val)
    best, _ = fit(learner, len(x), setting, seconds)
    return shift - best, shift - float(learner.score(test.numpy()).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of results, and write them where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tables-nll", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", nargs="*", default=DEFAULTS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for source in options.data:
        data = DataOptions(source=source)
        table = load_table(data)
        val, test, seconds = run_diffeo(data)
        rows.append((table.name, "diffeo RealNVP, defaults", val, test, seconds))
        print(*rows[-1], flush=True)
        for setting in ZUKO:
            val, test = run_zuko(table, seconds, setting)
            label = f"zuko NICE, {setting}"
            rows.append((table.name, label, val, test, seconds))
            print(*rows[-1], flush=True)
        ours, *theirs = [row for row in rows if row[0] == table.name]
        best = min(theirs, key=lambda row: row[2])
        verdict = "lower" if ours[3] < best[3] else "NOT lower"
        print(f"{table.name}: {ours[3]:.4f} is {verdict} than {best[3]:.4f} of {best[1]}\n")
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["data", "model", "val_nll", "test_nll", "seconds"])
            writer.writerows(rows)

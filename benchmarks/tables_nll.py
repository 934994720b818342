"""RealNVP against zuko's NICE on tables, for the same wall time of training.

zuko's `NICE` is its affine coupling flow. Both see the same splits and report the mean negative
log-likelihood of the test rows in nats and in the units of the data. diffeo trains first, by
`diffeo.run.train` as the command line does, its whole time counted (figures, checkpoints and
validation with it); zuko then has that time for bare steps: data standardized, Adam, a linear
warm-up and a cosine over the time, gradients clipped, the best of the validated weights kept.
zuko's learning rate, number of transforms and batch size are tried in several combinations, and
its best by validation stands.

    python -m benchmarks tables-nll [--data power-plant.csv ...] [--out results.csv]
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import zuko
from rich.console import Console

from diffeo.data import DataOptions, Table, load_table
from diffeo.run import train

DATA = Path(__file__).parents[2] / "shared" / "data" / "uci"
DEFAULTS = [str(DATA / "power-plant.csv"), str(DATA / "protein-tertiary-structure.csv")]
# (transforms, hidden widths, learning rate, batch size); the first has zuko's own defaults.
ZUKO = [
    (3, (64, 64), 1e-3, 256),
    (8, (64, 64), 1e-3, 256),
    (8, (64, 64), 4e-3, 1024),
    (8, (64, 64), 8e-3, 1024),
    (8, (128, 128), 2e-3, 512),
]


def run_diffeo(options: DataOptions) -> tuple[float, float, float]:
    """Validation and test NLL, and the seconds that training took."""
    with tempfile.TemporaryDirectory() as folder:
        out = train(data=options, out=Path(folder) / "run", console=Console(quiet=True))
        results = json.loads((out / "results.json").read_text())
    return results["val"]["nll"], results["test"]["nll"], results["training"]["seconds"]


def run_zuko(
    table: Table, seconds: float, transforms: int, hidden: tuple[int, ...], lr: float, batch: int
) -> tuple[float, float]:
    """Validation and test NLL after so many seconds of training."""
    torch.manual_seed(0)
    std, mean = torch.std_mean(table.train.x, dim=0)
    x, val, test = ((s.x - mean) / std for s in (table.train, table.val, table.test))
    shift = float(std.double().log().sum())
    flow = zuko.flows.NICE(table.features, transforms=transforms, hidden_features=hidden)
    optimizer = torch.optim.Adam(flow.parameters(), lr=lr, fused=True)
    best, stored, last = math.inf, copy.deepcopy(flow.state_dict()), 0.0
    start = time.perf_counter()
    while (share := (time.perf_counter() - start) / seconds) < 1:
        order = torch.randperm(len(x))
        for rows in order.split(min(batch, len(x)))[: max(1, len(x) // batch)]:
            share = (time.perf_counter() - start) / seconds
            factor = share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * min(share, 1)))
            optimizer.param_groups[0]["lr"] = lr * factor
            loss = -flow().log_prob(x[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimizer.step()
        # Validate about fifty times, which costs next to nothing, and at the end.
        if share > last + 0.02 or share >= 1:
            last = share
            with torch.no_grad():
                nll = -float(flow().log_prob(val).mean())
            if nll < best:
                best, stored = nll, copy.deepcopy(flow.state_dict())
    flow.load_state_dict(stored)
    with torch.no_grad():
        return best + shift, -float(flow().log_prob(test).mean()) + shift


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of results, and write them where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tables-nll", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", nargs="*", default=DEFAULTS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for source in options.data:
        data = DataOptions(source=source)
        table = load_table(data)
        val, test, seconds = run_diffeo(data)
        rows.append((table.name, "diffeo RealNVP, defaults", val, test, seconds))
        print(*rows[-1], flush=True)
        for transforms, hidden, lr, batch in ZUKO:
            val, test = run_zuko(table, seconds, transforms, hidden, lr, batch)
            label = f"zuko NICE, {transforms} x {hidden}, lr {lr:g}, batch {batch}"
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

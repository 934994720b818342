"""`diffeo train` on moons, whole, over a plain loop of the same steps.

Both run as whole processes, in turns, with default settings: from the start of Python to its end,
imports and data counted in; and within that, the seconds of training itself. `diffeo train` draws
eight images on its way, writes metrics, TensorBoard's events and checkpoints, and at the end
evaluates and draws the best model. The plain loop (`plain_loop`) does none of that; that both learn
the same is seen by their validation NLL.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Rounds, Settings, say
from benchmarks.report import Measured, Report, over

SLOWER = 1.25
SMALL_ROWS, SMALL_EPOCHS = 6_000, 5
ROOT = Path(__file__).parents[1]

Outcome = tuple[float, float, int, float]  # whole and training seconds, steps, best validation NLL


def measure(settings: Settings) -> Report:
    """Whole processes take turns."""
    report = Report("loop", "diffeo train on moons, over a plain loop", settings)
    sides: dict[str, Callable[[], Outcome]] = {
        "diffeo train": lambda: command(settings),
        "plain loop": lambda: plain(settings),
    }
    outcomes: dict[str, list[Outcome]] = {side: [] for side in sides}
    for i in range(settings.rounds + (not settings.small)):
        say(f"loop: round {i}")
        for side, run in sides.items():
            outcome = run()
            # A first round fills the disk's cache, and does not count.
            if i or settings.small:
                outcomes[side].append(outcome)
    learned = {(outcome[2], f"{outcome[3]:.2f}") for of in outcomes.values() for outcome in of}
    report.notes.append(
        "Steps and best validation NLL: "
        + "; ".join(f"{side} {of[0][2]}, {of[0][3]:.4f}" for side, of in outcomes.items())
        + "."
    )
    if len(learned) > 1:
        report.notes.append("They did not learn the same: these ratios do not count.")
    for what, place in (("whole process", 0), ("training alone", 1)):
        times: dict[str, Rounds] = {s: [o[place] for o in of] for s, of in outcomes.items()}
        for side, seconds in times.items():
            report.measured.append(Measured(what, side, seconds, "s"))
        ours, theirs = times["diffeo train"], times["plain loop"]
        report.ratios.append(over(f"{what}: diffeo train / plain", ours, theirs, SLOWER, "<="))
    return report


def command(settings: Settings) -> Outcome:
    """`diffeo train`, into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        arguments = ["-m", "diffeo.cli", "train", "--data", "moons", "--out", str(out)]
        if settings.small:
            arguments += ["--data.rows", str(SMALL_ROWS)]
            arguments += ["--trainer.max_epochs", str(SMALL_EPOCHS)]
        seconds, _ = whole(arguments, settings)
        results = json.loads((out / "results.json").read_text())
        with (out / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    best = min(float(row["val_nll"]) for row in rows)
    return seconds, results["training"]["seconds"], int(rows[-1]["step"]), best


def plain(settings: Settings) -> Outcome:
    """The plain loop, likewise."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-m", "benchmarks.plain_loop", folder]
        if settings.small:
            arguments += ["--rows", str(SMALL_ROWS), "--epochs", str(SMALL_EPOCHS)]
        seconds, printed = whole(arguments, settings)
    reached = json.loads(printed)
    return seconds, reached["seconds"], reached["steps"], reached["val_nll"]


def whole(arguments: list[str], settings: Settings) -> tuple[float, str]:
    """The seconds of a Python process from its start to its end, and what it printed."""
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads), "PYTHONPATH": path}
    line = [sys.executable, "-W", "ignore", *arguments]
    start = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no word"]
        raise ValueError(f"{' '.join(arguments[:3])} failed: {lines[-1]}")
    return seconds, done.stdout

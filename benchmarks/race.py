"""Time to quality: held-out likelihood against seconds, of our defaults and of other libraries.

On moons, power-plant and protein, three mixed tables, MNIST, and CIFAR-10 (JPEG). Each contestant
has a process and one core of its own, one at a time; with several rounds they take turns. Seconds
count from the making of the model on, with all that starts and compiles it; imports, the loading
of data and the scoring of held-out rows do not count. A point is what a learner would hand over
then: rivals the weights with the best validation so far, ours averaged weights or, on tables, the
answer of a fit that is stopped there, which `--scale` does not shorten. Likelihoods are nats a row,
of standardized columns or, of mixed tables, in their units; of images bits/dim of the first 1,000
for the test, of which those of Glow and RealNVP are a bound, by one noisy copy of each. JPEG
smooths images: these bits/dim compare with each other, and not with those of CIFAR-10.

    pip install -e ".[bench]" flowjax torchflows arfpy
    python -m benchmarks race [--sets moons ...] [--only diffeo zuko ...] [--scale 0.1] [--again]

Results are added to benchmarks/results/race.csv, and what is there is not measured again. A goal is
reached at the first point that is at most 0.01 nats or bits/dim worse.
"""

from __future__ import annotations

import argparse
import importlib
import os
import warnings
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import race_data, race_table
from benchmarks.harness import Settings, Worker, say
from benchmarks.race_curve import CLOCKS, Curve
from benchmarks.real import DATA
from benchmarks.report import save_small
from benchmarks.timed import Setting

RESULTS = Path(__file__).parent / "results"
KEYS = ["data", "contestant", "round"]
DISTURBED = 0.9


def contestants(name: str) -> dict[str, Any]:
    """Those of a data set; each runs on a `Race` and a `Curve`, and says with which setting."""
    from benchmarks import race_ours as ours
    from benchmarks import race_rivals as rivals

    kind = race_data.kind_of(name)
    if kind == "images":
        mine: dict[str, Any] = {"diffeo PixelFlow": partial(ours.preset, "pixel-mnist")}
        if name != "MNIST":
            mine = {"diffeo Glow": ours.glow}
            mine |= {"diffeo PixelFlow": partial(ours.preset, "pixel-cifar10")}
        return mine | rivals.IMAGES
    mine = {"diffeo": ours.moons if kind == "moons" else ours.density}
    if kind == "moons":
        mine |= {"diffeo NSF": partial(ours.preset, "nsf-moons")}
    return mine | (rivals.MIXED if kind == "mixed" else rivals.ROWS)


class Contestant:
    """One of them, in the process where it works: on one core, with its library imported."""

    def __init__(
        self,
        data: str,
        name: str,
        budget: float,
        clock: str,
        folder: Path,
        setting: Setting | None = None,
    ) -> None:
        # JAX takes all cores that it sees.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        warnings.simplefilter("ignore")  # of what libraries will change
        self.race, self.budget, self.clock = race_data.load(data, folder), budget, clock
        self.runner, self.setting = contestants(data)[name], setting
        if library := library_of(name):
            importlib.import_module(library)

    def choose(self) -> Setting | None:
        """The setting with the best validation; None where there are no others."""
        choose = getattr(self.runner, "choose", None)
        return choose and choose(self.race, self.budget)

    def run(self) -> tuple[list[tuple[float, float]], str, float]:
        """Its points, its setting, and how busy the processor was with it."""
        curve = Curve(self.budget, self.clock)
        if self.setting is None:
            chosen = self.runner(self.race, curve) or "defaults"
        else:
            chosen = str(self.setting)
            self.runner.run(self.race, curve, self.setting)
        return curve.points, chosen, curve.busy


def library_of(contestant: str) -> str | None:
    """The package that has to be there."""
    first = contestant.split()[0]
    return None if first == "Gaussian" else first


def measure(
    key: tuple[str, str, int], budget: float, clock: str, folder: Path
) -> list[dict[str, Any]]:
    """A line for each point of one contestant, or none where it fails."""
    data, name, _ = key
    say(f"race: {data}: {name}")
    try:
        settings = Settings(threads=1, keep=True)
        make, setting = partial(Contestant, data, name, budget, clock, folder), None
        if not race_table.ours(name):
            with Worker(make, settings) as worker:  # another one, which compiles for itself
                setting = worker.call("choose")
        with Worker(partial(make, setting), settings) as worker:
            points, chosen, busy = worker.call("run")
    except ValueError as error:
        print(f"{data}: {name} is left out: {error}")
        return []
    if busy < DISTURBED:
        again = "; measure it again" if clock == "wall" else ""
        print(f"{data}: {name}: other work took {1 - busy:.0%} of the seconds{again}.")
    unit = race_data.unit_of(data)
    print(
        data,
        name,
        f"{points[-1][0]:.1f} s  {points[-1][1]:.4f} {unit}",
        chosen,
        sep="  ",
        flush=True,
    )
    return [
        dict(zip(KEYS, key, strict=True))
        | {"seconds": round(seconds, 3), "quality": round(quality, 4), "unit": unit}
        | {"chosen": chosen, "clock": clock, "busy": round(busy, 3)}
        for seconds, quality in points
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is unknown, and print the table and draw the curves."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks race", description=__doc__.splitlines()[0]
    )
    sets = [*race_data.BUDGETS]
    parser.add_argument("--sets", nargs="*", default=sets, choices=sets)
    parser.add_argument("--only", nargs="*", help="contestants, or their libraries")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="the budget, in place of that of each set")
    parser.add_argument("--scale", type=float, default=1.0, help="of all budgets, to try it out")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor, where other work goes on; wall"
    )
    parser.add_argument("--again", action="store_true", help="measure what is known, too")
    parser.add_argument("--data", type=Path, default=DATA, help="with tables/, uci/, mnist/ ...")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; benchmarks/results")
    options = parser.parse_args(arguments)
    file = options.out / "race.csv"
    known = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=KEYS)
    for key in chosen_keys(options):
        old = (known[KEYS] == list(key)).all(axis=1)
        if old.any() and not options.again:
            continue
        budget = options.scale * (options.seconds or race_data.BUDGETS[key[0]])
        if found := measure(key, budget, options.clock, options.data):
            known = pd.concat((known[~old], pd.DataFrame(found)), ignore_index=True)
            options.out.mkdir(parents=True, exist_ok=True)
            known.to_csv(file, index=False, lineterminator="\n")
    if len(known):
        known = known.sort_values("data", key=lambda names: names.map(sets.index), kind="stable")
        print(race_table.markdown(known))
        save_small(race_table.plot(known), options.out / "race.png")


def chosen_keys(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """What to measure, by rounds, data sets and contestants; what is missing is named."""
    names: dict[str, list[str]] = {}
    for data in options.sets:
        source = race_data.file_of(data, options.data)
        if source is not None and not source.exists():
            print(f"{data} is left out: {source} does not exist.")
            continue
        names[data] = [
            name
            for name in contestants(data)
            if not options.only or {name, name.split()[0]} & {*options.only}
        ]
    libraries = {
        library for some in names.values() for name in some if (library := library_of(name))
    }
    missing = {library for library in libraries if find_spec(library) is None}
    if missing:
        print(f"Not installed, and left out: {', '.join(sorted(missing))}.")
    return [
        (data, name, number)
        for number in range(options.rounds)
        for data, some in names.items()
        for name in some
        if library_of(name) not in missing
    ]

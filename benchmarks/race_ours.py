"""Our side of the race: what `diffeo train` and `FlowDensity` do by default, and presets.

A point of a training by `diffeo train` is the average of the weights at that time. `FlowDensity`
learns in stages: at each validation of its networks a copy of the process is made, in which
training stops, and which finishes the fit. Its answer is what a shorter fit would have had, and its
seconds count the finish.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import diffeo
from benchmarks import glow_bpd
from benchmarks.race_curve import Curve
from benchmarks.race_data import Race, joined, tensors
from diffeo.data import Split
from diffeo.run import presets
from diffeo.run.learning import DRAWN, prepare
from diffeo.sklearn import FlowDensity
from diffeo.training.loop import Observer, Training
from diffeo.training.mixed import Settings
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.yaml import parse_yaml

Score = Callable[[diffeo.Flow], float]


class BudgetSpentError(Exception):
    """Ends a training in the middle of an epoch."""


class Watch(Observer):
    """Scores the averaged weights at the marks, and ends a training with its budget."""

    def __init__(self, curve: Curve, score: Score) -> None:
        self.curve, self.score = curve, score
        self.best: diffeo.Flow | None = None

    def on_step(self, training: Training) -> None:
        if self.curve.due:
            self.curve.add(lambda: self.score(training.averaged))
        if self.curve.clock() >= self.curve.budget:
            raise BudgetSpentError

    def on_epoch_end(self, training: Training) -> None:
        if training.best_epoch == training.epoch:
            self.best = copy.deepcopy(training.averaged)

    def on_end(self, training: Training) -> None:
        found = self.best or training.averaged
        self.curve.add(lambda: self.score(found))


def train(
    flow: diffeo.Flow, rows: Any, val: Any, score: Score, curve: Curve, **options: Any
) -> None:
    """Train as `diffeo train` does, without figures."""
    with tempfile.TemporaryDirectory() as folder, suppress(BudgetSpentError):
        console = Console(quiet=True)
        options = {"optimizer": OptimizerOptions(), "options": TrainerOptions()} | options
        training = prepare(flow, rows, val, Path(folder), console=console, **options)
        training.observers.append(Watch(curve, score))
        training.run()


def moons(race: Race, curve: Curve) -> None:
    """The default model of tables that are drawn, with the default options."""
    torch.manual_seed(0)
    rows(race, DRAWN(2), curve)


def rows(race: Race, flow: diffeo.Flow, curve: Curve, **options: Any) -> None:
    """A flow of rows of numbers."""
    x, val, test = tensors(race)
    score: Score = lambda flow: float(flow.log_prob(test).mean())  # noqa: E731
    train(flow, Split(x, None), Split(val, None), score, curve, **options)


def images(race: Race, flow: diffeo.Flow, curve: Curve, **options: Any) -> None:
    """A flow of images."""

    def score(flow: diffeo.Flow) -> float:
        parts = race.test.split(100)
        return float(torch.cat([flow.bits_per_dim(x) for x in parts]).double().mean())

    train(flow, race.splits.train, race.splits.val, score, curve, **options)


def preset(name: str, race: Race, curve: Curve) -> None:
    """A preset; of images without labels, which the rivals do not get."""
    settings: Any = parse_yaml(presets.find(name).read_text(encoding="utf-8"))
    torch.manual_seed(0)
    of_rows = race.splits is None
    learn, shape = (rows, 2) if of_rows else (images, race.splits.shape)
    arguments = settings["model"]["init_args"]
    if of_rows:
        bins = arguments["univariate"]["init_args"]
        arguments["univariate"] = diffeo.bijections.RationalQuadraticSpline(**bins)
    model = getattr(diffeo, settings["model"]["class_path"].split(".")[-1])
    learn(
        race,
        model(shape, **arguments),
        curve,
        optimizer=OptimizerOptions(**settings["optimizer"]),
        options=TrainerOptions(**settings["trainer"]),
    )


def glow(race: Race, curve: Curve) -> None:
    """The Glow of `python -m benchmarks glow-bpd`, trained by `diffeo train`'s loop."""
    torch.manual_seed(0)
    flow = diffeo.Glow(race.splits.shape, glow_bpd.LEVELS, glow_bpd.STEPS, glow_bpd.WIDTH)
    optimizer = OptimizerOptions(lr=glow_bpd.LR, schedule="constant", warmup=0.01)
    options = TrainerOptions(batch_size=glow_bpd.BATCH, compile="off")
    images(race, flow, curve, optimizer=optimizer, options=options)


# Tables -----------------------------------------------------------------------------------------


class Branches(Observer):
    """At the start of networks and at each validation, lets a copy of the process finish."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.answer: int | None = None  # of a copy: where its answer goes

    def on_start(self, training: Training) -> None:
        with self.curve.stopped():  # in the copy the clock goes on after this block
            read, write = os.pipe()
            child = os.fork()
            if not child:
                os.close(read)
                self.answer, training.stop = write, True
                return
            os.close(write)
            with os.fdopen(read) as file:
                answer = file.read()
            os.waitpid(child, 0)
        if answer:
            self.curve.points.append(tuple(json.loads(answer)))

    on_epoch_end = on_start


class Watched(FlowDensity):
    """A FlowDensity whose networks are watched."""

    branches: Branches

    def _settings(self) -> Settings:
        settings = super()._settings()
        settings.observers = [*settings.observers, self.branches]
        return settings


def density(race: Race, curve: Curve) -> None:
    """FlowDensity with its defaults."""
    branches = Branches(curve)
    learner = Watched(random_state=0)
    learner.branches = branches
    try:
        learner.fit(joined(race))
        curve.add(lambda: learner.score(race.test))
        if branches.answer is not None:
            os.write(branches.answer, json.dumps(curve.points[-1]).encode())
    finally:  # a copy ends here, whatever happens
        if branches.answer is not None:
            os._exit(0)

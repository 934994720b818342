"""Cost against work: the time and the memory of a training step of Glow, one factor at a time.

Around K 8, width 128, 16 x 16 pixels and a batch of 32 (2 levels, float32), with stored activations
and in constant memory. In theory time is a straight line in the number of steps, of pixels and of
images, and a parabola in the width; stored memory is a straight line in each, and constant memory
does not depend on K. Each curve is fitted with that form by least squares of relative errors, and
what is reported is how far, at most, a point lies off its fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import nnls

from benchmarks import harness, subjects
from benchmarks.harness import Rounds, Settings, say
from benchmarks.report import Measured, Ratio, Report, milliseconds
from diffeo.figures import DATA, GREY, MODEL
from diffeo.figures.style import house_style, panel, tick

MIDDLE = {"K": 8, "width": 128, "pixels": 16, "batch": 32}
FACTORS = {
    "K": (4, 8, 16, 32, 64),
    "width": (64, 128, 192, 256, 384, 512),
    "pixels": (8, 16, 32, 64),
    "batch": (8, 16, 32, 64, 128, 256),
}
SMALL_MIDDLE = {"K": 1, "width": 8, "pixels": 8, "batch": 2}
SMALL_FACTORS = {"K": (1, 2), "pixels": (8, 16)}
LABELS = {"K": "steps K", "width": "width", "pixels": "pixels", "batch": "batch"}
MEMORIES = {"stored": DATA, "constant": MODEL}
OFF = 15  # percent, for noise of the machine and for its caches

# Of each way of remembering and each factor: (value, seconds of each round, MiB).
Points = dict[tuple[str, str], list[tuple[int, Rounds, float]]]


def subject(memory: str, point: dict[str, int], device: str) -> subjects.Subject:
    """Glow at a point of the grid."""
    side = point["pixels"]
    sizes: dict[str, Any] = {"shape": (3, side, side), "levels": 2, "steps": point["K"]}
    sizes |= {"batch": point["batch"], "device": device}
    return subjects.glow(point["width"], memory=memory, **sizes)


def measure(settings: Settings) -> Report:
    """All points of a factor take turns."""
    report = Report("scaling", "Glow: cost against work", settings)
    middle = SMALL_MIDDLE if settings.small else MIDDLE
    points: Points = {}
    for factor, values in (SMALL_FACTORS if settings.small else FACTORS).items():
        say(f"scaling: {factor}")
        keys = [(memory, value) for memory in MEMORIES for value in values]
        with ExitStack() as stack:
            workers = {}
            for memory, value in keys:
                make = partial(subject, memory, middle | {factor: value}, settings.device)
                workers[memory, value] = stack.enter_context(harness.Worker(make, settings))
            # First of all, while the processes are fresh.
            grown = {key: workers[key].growth() for key in keys}
            for worker in workers.values():
                worker.warm("step")
            times: dict[tuple[str, int], Rounds] = {key: [] for key in keys}
            for _ in range(settings.rounds):
                for key, worker in workers.items():
                    times[key].append(worker.seconds("step"))
        for memory in MEMORIES:
            points[memory, factor] = [(v, times[memory, v], grown[memory, v]) for v in values]
        for value in values:
            group = f"{LABELS[factor]} {value}"
            report.measured += [milliseconds(group, m, times[m, value]) for m in MEMORIES]
            report.measured += [Measured(group, m, [grown[m, value]], "MiB") for m in MEMORIES]
    for (memory, factor), of in points.items():
        x = work(factor, [value for value, _, _ in of])
        for what, y in (
            ("time", [min(rounds) for _, rounds, _ in of]),
            ("memory", [mib for _, _, mib in of]),
        ):
            fitted = fit(factor, what, memory, x, y)
            off = 100 * float(np.abs(fitted / np.maximum(y, 1e-9) - 1).max())
            label = f"{memory}, {what} by {LABELS[factor]}: off its form"
            report.ratios.append(Ratio(label, [round(off, 6)], off, OFF, "<=", "%"))
    report.figure = draw(points)
    return report


def work(factor: str, values: Sequence[int]) -> np.ndarray:
    """What a factor counts: of pixels, all of an image."""
    x = np.array(values, float)
    return x**2 if factor == "pixels" else x


def fit(factor: str, what: str, memory: str, x: np.ndarray, y: Sequence[float]) -> np.ndarray:
    """The values at x of the form that theory has: a sum of powers with no negative part."""
    powers = [0, 1]
    if factor == "width":
        powers = [0, 1, 2]  # memory too: the gradient of a weight, before it is added up
    if factor == "K" and what == "memory" and memory == "constant":
        powers = [0]
    # Columns of one size, and each row relative to its value.
    columns = np.stack([(x / x.max()) ** power for power in powers], axis=1)
    scale = np.maximum(np.asarray(y, float), 1e-9)
    weights, _ = nnls(columns / scale[:, None], np.ones(len(x)))
    return columns @ weights


@house_style()
def draw(points: Points) -> Figure:
    """Time above, memory below; lines are the forms that theory has."""
    factors = list(dict.fromkeys(factor for _, factor in points))
    figure = Figure(figsize=(0.7 + 1.95 * len(factors), 4.6))
    for row, what in enumerate(("time", "memory")):
        shown = {
            key: [1e3 * min(t) if what == "time" else max(mib, 0.1) for _, t, mib in of]
            for key, of in points.items()
        }
        everything = [y for ys in shown.values() for y in ys]
        low, high = min(everything) / 1.4, max(everything) * 1.4
        for column, factor in enumerate(factors):
            axes = panel(figure, 0.6 + 1.95 * column, 2.55 - 2.05 * row, 1.7, 1.65)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.spines[["top", "right"]].set_visible(False)
            for memory, color in MEMORIES.items():
                of = points[memory, factor]
                x = work(factor, [value for value, _, _ in of])
                y = shown[memory, factor]
                axes.plot(x, y, "o", ms=4, mew=0, color=color, label=memory)
                axes.plot(x, fit(factor, what, memory, x, y), color=color, lw=1, alpha=0.7)
            # Of 192 and 384 the labels would run into their neighbours.
            values = [v if v & (v - 1) == 0 else "" for v, _, _ in of]
            names = [f"{v}²" if factor == "pixels" else f"{v}" for v in values]
            axes.set_xticks(x, names if row else [""] * len(x))
            axes.tick_params(axis="x", labelsize=7)
            axes.set_ylim(low, high)
            steps = (1,) if high / low > 30 else (1, 2, 5)
            marks = [m * 10.0**e for e in range(-3, 7) for m in steps if low <= m * 10.0**e <= high]
            axes.set_yticks(marks, [""] * len(marks) if column else [tick(m) for m in marks])
            axes.minorticks_off()
            if row:
                axes.set_xlabel(LABELS[factor])
            if not column:
                axes.set_title("ms a step" if what == "time" else "MiB a step", color=GREY)
            if not column and not row:
                axes.legend(loc="upper left", fontsize=7.5, handletextpad=0.1, borderpad=0)
    return figure

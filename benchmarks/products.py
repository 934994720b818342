"""What oneDNN saves on AMD's processors: steps and scores of table models, over those with MKL.

The uncompiled models of `table-steps`, of 10 features, with batches of 1,024 and of 8,192 rows.
Elsewhere both sides are the same.
"""

from __future__ import annotations

from functools import partial

from benchmarks.harness import Settings, say, take_turns
from benchmarks.report import Report, milliseconds, over
from benchmarks.table_steps import NAMES, TASKS, Ours
from diffeo.utils import products

FEATURES, BATCHES = 10, (1024, 8192)


class ByMKL(Ours):
    """The same without oneDNN."""

    def __init__(self, name: str, features: int, batch: int) -> None:
        products.mkl_is_slow = lambda: False  # in this process, which is its own
        super().__init__(name, features, batch)


def measure(settings: Settings) -> Report:
    """Both take turns, for each model and batch."""
    report = Report("products", "Table models: products by oneDNN and by MKL", settings)
    for name in NAMES[:1] if settings.small else NAMES:
        for batch in (16,) if settings.small else BATCHES:
            say(f"products: {name}, batch {batch}")
            sides = {
                side: partial(make, name, FEATURES, batch)
                for side, make in (("oneDNN", Ours), ("MKL", ByMKL))
            }
            for task, times in take_turns(sides, settings, list(TASKS)).items():
                group = f"{name}, batch {batch}, {TASKS[task]}"
                report.measured += [milliseconds(group, side, t) for side, t in times.items()]
                what = f"{group}: oneDNN / MKL"
                report.ratios.append(over(what, times["oneDNN"], times["MKL"], None, "<="))
    return report

"""How the memory of a training step grows with the depth of Glow.

Glow 3 x 32 x 32, 3 levels of K steps, width 512, batches of 32, float32: K 8 and K 32, with stored
activations, in constant memory, and of normflows; each in a fresh process (see `harness`).
"""

from __future__ import annotations

from functools import partial
from statistics import median

from benchmarks import peers, subjects
from benchmarks.harness import Rounds, Settings, growths, say
from benchmarks.report import Measured, Ratio, Report
from benchmarks.sizes import glow_sizes, glow_widths

DEPTH, THEIRS = 1.15, 0.1
STEPS = {8: 1, 32: 4}  # K, and what stands for it in small


def measure(settings: Settings) -> Report:
    """The growth of each side at both depths."""
    peers.need("normflows")
    report = Report("glow-memory", "Glow: memory of training, width 512", settings)
    width = glow_widths(settings)[512]
    grown: dict[tuple[str, int], Rounds] = {}
    for steps, few in STEPS.items():
        say(f"glow-memory: K {steps}")
        sizes = glow_sizes(settings) | {"steps": few if settings.small else steps}
        sides = {
            "ours, constant": partial(subjects.glow, width, memory="constant", **sizes),
            "ours, stored": partial(subjects.glow, width, memory="stored", **sizes),
            "normflows": partial(peers.normflows_glow, width, **sizes),
        }
        for side, values in growths(sides, settings).items():
            grown[side, steps] = values
            report.measured.append(Measured(f"K {steps}", side, values, "MiB"))
    ours = grown["ours, constant", 32]

    def compare(what: str, other: Rounds, bar: float | None) -> None:
        # Processes of two sides have nothing to do with each other: medians are compared.
        value = median(ours) / median(other)
        report.ratios.append(Ratio(what, [value], min(ours) / min(other), bar, "<="))

    compare("constant: K 32 / K 8", grown["ours, constant", 8], DEPTH)
    compare("K 32: constant / normflows", grown["normflows", 32], THEIRS)
    compare("K 32: constant / stored", grown["ours, stored", 32], None)
    return report

"""How the memory of a training step grows with the depth of Glow.

Glow 3 x 32 x 32, 3 levels of K steps, width 512, batches of 32, float32: K 8 and K 32, with stored
activations, in constant memory, and of normflows; each in a fresh process (see `harness`).
"""

from __future__ import annotations

from functools import partial

from benchmarks import peers, subjects
from benchmarks.harness import Settings, growths, say
from benchmarks.report import Measured, Ratio, Report
from benchmarks.sizes import glow_sizes, glow_widths

DEPTH, THEIRS = 1.15, 0.1
STEPS = {8: 1, 32: 4}  # K, and what stands for it in small


def measure(settings: Settings) -> Report:
    """The growth of each side at both depths."""
    peers.need("normflows")
    report = Report("glow-memory", "Glow: memory of training, width 512", settings)
    width = glow_widths(settings)[512]
    grown: dict[tuple[str, int], float] = {}
    for steps, few in STEPS.items():
        say(f"glow-memory: K {steps}")
        sizes = glow_sizes(settings) | {"steps": few if settings.small else steps}
        sides = {
            "ours, constant": partial(subjects.glow, width, memory="constant", **sizes),
            "ours, stored": partial(subjects.glow, width, memory="stored", **sizes),
            "normflows": partial(peers.normflows_glow, width, **sizes),
        }
        for side, value in growths(sides, settings).items():
            grown[side, steps] = value
            report.measured.append(Measured(f"K {steps}", side, [value], "MiB"))
    ours = grown["ours, constant", 32]

    def compare(what: str, other: float, bar: float | None) -> None:
        value = ours / other
        report.ratios.append(Ratio(what, [value], value, bar, "<="))

    compare("constant: K 32 / K 8", grown["ours, constant", 8], DEPTH)
    compare("K 32: constant / normflows", grown["normflows", 32], THEIRS)
    compare("K 32: constant / stored", grown["ours, stored", 32], None)
    return report

"""What constant memory costs in time: a training step of Glow, constant over stored.

The Glow of `glow-train`, width 128 and 512, with float32 and with bfloat16 networks. Both sides
keep the memory that they free, as in `diffeo train`: to take it again for each link would cost more
than to rebuild.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks import subjects
from benchmarks.harness import Settings, say, take_turns
from benchmarks.report import Report, milliseconds, over
from benchmarks.sizes import glow_sizes, glow_widths

SLOWER = 1.3


def measure(settings: Settings) -> Report:
    """Both take turns, for each width and precision."""
    settings = replace(settings, keep=True)
    report = Report("memory-time", "Glow: training in constant memory", settings)
    sizes = glow_sizes(settings)
    for width, channels in glow_widths(settings).items():
        for precision in ("float32", "bfloat16"):
            group = f"width {width}, {precision}"
            say(f"memory-time: {group}")
            times = take_turns(
                {
                    memory: partial(subjects.glow, channels, precision, memory, **sizes)
                    for memory in ("stored", "constant")
                },
                settings,
            )["step"]
            report.measured += [milliseconds(group, side, t) for side, t in times.items()]
            what = f"{group}: constant / stored"
            report.ratios.append(over(what, times["constant"], times["stored"], SLOWER, "<="))
    return report

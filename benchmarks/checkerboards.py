"""ImageRealNVP with compact and with masked checkerboards, against the bare networks of either.

64 channels x 8 blocks, 2 scales, 3 x 32 x 32, batches of 16: training steps, samples, and how far
memory grows. "compact" packs the kept pixels; "masked" puts zeros between them, as the paper does.
The bare networks run in PyTorch's default layout and in channels-last.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import bare, subjects
from benchmarks.harness import Make, Settings, growths, say, take_turns
from benchmarks.report import Measured, Report, over, rates

TASKS = {"step": "train", "sample": "sample"}


def measure(settings: Settings) -> Report:
    """All sides of both checkerboards take turns."""
    report = Report("checkerboards", "ImageRealNVP 64 x 8: checkerboards", settings)
    batch = 2 if settings.small else 16
    sizes: dict[str, Any] = {"batch": batch, "device": settings.device}
    if settings.small:
        sizes |= {"width": 4, "blocks": 1}
    sides: dict[str, Make] = {}
    for board in bare.REALNVP_NETWORKS:
        ours = partial(subjects.image_realnvp, checkerboard=board, **sizes)
        alone = partial(bare.image_realnvp, checkerboard=board, **sizes)
        sides |= {
            f"{board}, ours, float32": partial(ours, "float32"),
            f"{board}, ours, bfloat16": partial(ours, "bfloat16"),
            f"{board}, bare, float32": partial(alone, "float32"),
            f"{board}, bare, float32, default layout": partial(alone, "float32", "default"),
        }
    say("checkerboards: time")
    for task, times in take_turns(sides, settings, list(TASKS)).items():
        what = TASKS[task]
        report.measured += [rates(what, side, t, batch) for side, t in times.items()]
        for board in bare.REALNVP_NETWORKS:
            alone = times[f"{board}, bare, float32"]
            for precision in ("float32", "bfloat16"):
                label = f"{what}, {board}, {precision}: time over bare, float32"
                report.ratios.append(over(label, times[f"{board}, ours, {precision}"], alone))
        masked, compact = (times[f"{board}, ours, float32"] for board in ("masked", "compact"))
        report.ratios.append(over(f"{what}, float32: masked / compact", masked, compact))
    say("checkerboards: memory")
    for side, mib in growths(sides, settings).items():
        report.measured.append(Measured("memory", side, mib, "MiB"))
    return report

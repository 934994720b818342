"""ImageRealNVP with compact and with masked checkerboards, against the bare networks of either.

64 channels x 8 blocks, 2 scales, 3 x 32 x 32, batches of 16: training steps, samples, and the growth
of memory. "compact" packs the kept pixels; "masked" puts zeros between them, as the paper does. The
bare networks run in PyTorch's default layout and in channels-last.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import bare, subjects
from benchmarks.harness import Rounds, Settings, growths, say, take_turns
from benchmarks.report import Measured, Report, over, rates

TASKS = {"step": "train", "sample": "sample"}


def measure(settings: Settings) -> Report:
    """The sides of either checkerboard take turns."""
    report = Report("checkerboards", "ImageRealNVP 64 x 8: checkerboards", settings)
    batch = 2 if settings.small else 16
    sizes: dict[str, Any] = {"batch": batch, "device": settings.device}
    if settings.small:
        sizes |= {"width": 4, "blocks": 1}
    steps: dict[str, Rounds] = {}
    for board in bare.REALNVP_NETWORKS:
        say(f"checkerboards: {board}")
        ours = partial(subjects.image_realnvp, checkerboard=board, **sizes)
        alone = partial(bare.image_realnvp, checkerboard=board, **sizes)
        sides = {
            "ours, float32": partial(ours, "float32"),
            "ours, bfloat16": partial(ours, "bfloat16"),
            "bare, float32": partial(alone, "float32"),
            "bare, float32, default layout": partial(alone, "float32", "default"),
        }
        for task, times in take_turns(sides, settings, list(TASKS)).items():
            group = f"{board}, {TASKS[task]}"
            report.measured += [rates(group, side, t, batch) for side, t in times.items()]
            for precision in ("float32", "bfloat16"):
                what = f"{group}, {precision}: ours / bare, float32"
                mine = times[f"ours, {precision}"]
                report.ratios.append(over(what, mine, times["bare, float32"]))
            if task == "step":
                steps[board] = times["ours, float32"]
        for side, mib in growths(sides, settings).items():
            report.measured.append(Measured(f"{board}, memory", side, [mib], "MiB"))
    # One after the other here, so that a stall of the machine shows in it.
    report.ratios.append(
        over("train, float32: masked / compact", steps["masked"], steps["compact"])
    )
    return report

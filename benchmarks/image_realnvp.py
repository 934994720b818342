"""Training steps of ImageRealNVP, against a speed known of the paper's model and the bare networks.

64 channels x 8 blocks, 2 scales, 3 x 32 x 32, batches of 16. No package on PyPI has this model; one
port trained 15.8 images/s where the Glow of normflows (width 128, batch 32) trained 217. So that
Glow takes its turns here too, and what it reaches scales the port's speed to the day.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import bare, peers, subjects
from benchmarks.harness import Settings, say, take_turns
from benchmarks.report import Report, over, rates
from benchmarks.sizes import glow_batch, glow_sizes, glow_widths

FASTER = 2.0
GLOW = "normflows' Glow, width 128"


def measure(settings: Settings) -> Report:
    """All sides take turns."""
    peers.need("normflows")
    say("image-realnvp")
    batch = 2 if settings.small else 16
    sizes: dict[str, Any] = {"batch": batch, "device": settings.device}
    if settings.small:
        sizes |= {"width": 4, "blocks": 1}
    alone = partial(bare.image_realnvp, **sizes)
    times = take_turns(
        {
            "ours, float32": partial(subjects.image_realnvp, "float32", **sizes),
            "ours, bfloat16": partial(subjects.image_realnvp, "bfloat16", **sizes),
            "bare, float32": partial(alone, "float32"),
            "bare, float32, default layout": partial(alone, "float32", "default"),
            "bare, bfloat16": partial(alone, "bfloat16"),
            GLOW: partial(peers.normflows_glow, glow_widths(settings)[128], **glow_sizes(settings)),
        },
        settings,
    )["step"]
    report = Report("image-realnvp", "ImageRealNVP 64 x 8: training steps", settings)
    for side, t in times.items():
        report.measured.append(
            rates("batch 16", side, t, glow_batch(settings) if side == GLOW else batch)
        )
    # The port's seconds for a batch of ours, from those of that Glow's step.
    known = peers.NORMFLOWS_TRAIN[128] / glow_batch(settings)
    port = [t * known * batch / peers.IMAGE_REALNVP_TRAIN for t in times[GLOW]]
    for precision, bar in (("bfloat16", FASTER), ("float32", None)):
        ours = times[f"ours, {precision}"]
        report.ratios.append(over(f"{precision}: speed over the known port", port, ours, bar))
    for precision in ("bfloat16", "float32"):
        what = f"{precision}: time over bare networks"
        report.ratios.append(over(what, times[f"ours, {precision}"], times[f"bare, {precision}"]))
    return report

"""Training steps of Glow, against normflows' and against the bare coupling networks.

Glow 3 x 32 x 32, 3 levels of 8 steps, affine couplings, batches of 32, width 128 and 512: forward,
backward and fused Adam. Ours with float32 and with bfloat16 networks, the Glow of normflows (which
has float32 alone), and the coupling networks alone in either precision.
"""

from __future__ import annotations

from functools import partial

from benchmarks import bare, peers, subjects
from benchmarks.harness import Settings, say, take_turns
from benchmarks.report import Report, over, rates
from benchmarks.sizes import glow_batch, glow_sizes, glow_widths

# Of normflows' images/s, in the better precision and in float32; and of the bare networks' time.
FASTER = {128: 2.0, 512: 2.2}
FASTER_FLOAT32 = {128: 1.35, 512: 1.25}
OVER_BARE = {128: 1.3, 512: 1.1}


def measure(settings: Settings) -> Report:
    """All sides take turns, one width after the other."""
    peers.need("normflows")
    report = Report("glow-train", "Glow: training steps", settings)
    sizes, batch = glow_sizes(settings), glow_batch(settings)
    for width, channels in glow_widths(settings).items():
        say(f"glow-train: width {width}")
        times = take_turns(
            {
                "ours, float32": partial(subjects.glow, channels, "float32", **sizes),
                "ours, bfloat16": partial(subjects.glow, channels, "bfloat16", **sizes),
                "normflows": partial(peers.normflows_glow, channels, **sizes),
                "bare, float32": partial(bare.glow, channels, "float32", **sizes),
                "bare, bfloat16": partial(bare.glow, channels, "bfloat16", **sizes),
            },
            settings,
        )["step"]
        group, theirs = f"width {width}", times["normflows"]
        report.measured += [rates(group, side, t, batch) for side, t in times.items()]
        for precision, bar in (("bfloat16", FASTER[width]), ("float32", FASTER_FLOAT32[width])):
            what = f"{group}, {precision}: speed over normflows"
            report.ratios.append(over(what, theirs, times[f"ours, {precision}"], bar))
        for precision in ("bfloat16", "float32"):
            ours, alone = times[f"ours, {precision}"], times[f"bare, {precision}"]
            what = f"{group}, {precision}: time over bare networks"
            report.ratios.append(over(what, ours, alone, OVER_BARE[width], "<="))
    return report

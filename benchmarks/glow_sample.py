"""Samples of Glow, against normflows' and the fastest port known; and the decoding of one image.

The Glow of `glow-train`, in eval mode and without autograd: 32 samples at a time, with float32 and
with bfloat16 networks. The fastest of five ports was not always normflows; its speed is that of
normflows in the run, times the ratio of the two as they were once measured together. Then one
image is decoded from its latent, as an explorer does while a slider moves.
"""

from __future__ import annotations

from functools import partial

from benchmarks import peers, subjects
from benchmarks.harness import Settings, say, take_turns
from benchmarks.report import Ratio, Report, milliseconds, over, rates
from benchmarks.sizes import glow_batch, glow_sizes, glow_widths

FASTER, LATENCY = 2.0, 15.0  # times; ms


def measure(settings: Settings) -> Report:
    """Samples of both widths, and the latency at width 128."""
    peers.need("normflows")
    report = Report("glow-sample", "Glow: samples", settings)
    sizes, batch = glow_sizes(settings), glow_batch(settings)
    widths = glow_widths(settings)
    for width, channels in widths.items():
        say(f"glow-sample: width {width}")
        times = take_turns(
            {
                "ours, float32": partial(subjects.glow, channels, "float32", **sizes),
                "ours, bfloat16": partial(subjects.glow, channels, "bfloat16", **sizes),
                "normflows": partial(peers.normflows_glow, channels, **sizes),
            },
            settings,
            ["sample"],
        )["sample"]
        group = f"width {width}"
        report.measured += [rates(group, side, t, batch) for side, t in times.items()]
        # Of the two that are to be beaten, the better.
        known = peers.NORMFLOWS_SAMPLE[width] / peers.FASTEST_SAMPLE[width]
        for precision, bar in (("bfloat16", FASTER), ("float32", None)):
            ours = times[f"ours, {precision}"]
            what = f"{group}, {precision}: speed over the fastest port"
            report.ratios.append(over(what, times["normflows"], ours, bar, scale=min(1.0, known)))
            what = f"{group}, {precision}: speed over normflows"
            report.ratios.append(over(what, times["normflows"], ours))
    say("glow-sample: one image")
    times = take_turns(
        {
            f"ours, {precision}": partial(subjects.glow, widths[128], precision, **sizes)
            for precision in ("float32", "bfloat16")
        },
        settings,
        ["decode"],
    )["decode"]
    group = "width 128, one image"
    report.measured += [milliseconds(group, side, t) for side, t in times.items()]
    for precision, bar in (("float32", LATENCY), ("bfloat16", None)):
        ms = [1e3 * s for s in times[f"ours, {precision}"]]
        what = f"{group}, {precision}: decode"
        report.ratios.append(Ratio(what, ms, min(ms), bar, "<=", "ms"))
    return report

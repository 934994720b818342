"""Glow and ImageRealNVP on a GPU: images/s, memory, and TFLOP/s against the card's own.

Glow 3 x 32 x 32 with 3 levels of 32 steps of width 512, and ImageRealNVP 64 x 8, batches of 128:
training steps with channels-last float32 networks, with TF32, with bfloat16 ones, with those
compiled, and in constant memory; and normflows' Glow, in float32 and with TF32. The operations of a
step are counted by torch's `FlopCounterMode` on our model, and are taken for normflows' too. The
card's rate is that of a product of matrices of 8,192 x 8,192, measured in turns with the models.

    python -m benchmarks gpu [--device cpu --small]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks import harness, peers, subjects
from benchmarks.harness import Make, Settings, growths, say, take_turns
from benchmarks.report import Measured, Ratio, Report, over, rates
from diffeo.bijections import Coupling

TERA = 1e12
Build = Callable[[], subjects.Subject]


class Product:
    """The product of two square matrices, as a subject."""

    def __init__(self, size: int, dtype: torch.dtype, device: str) -> None:
        self.a, self.b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def enter(self, task: str) -> None:
        """Nothing to prepare."""

    def step(self) -> None:
        """One product."""
        self.a @ self.b


def with_tf32(make: Make) -> Any:
    """A subject whose float32 products may be rounded to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return make()


def without_tf32(make: Make) -> Any:
    """A subject whose float32 products are those of float32; of convolutions it is no default."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return make()


def compiled(make: Build) -> subjects.Subject:
    """A subject of ours whose networks are compiled."""
    torch._dynamo.config.recompile_limit = 64  # one graph serves all couplings of a size
    subject = make()
    for module in subject.model.modules():
        if isinstance(module, Coupling):
            module.conditioner.compile(dynamic=False)
    return subject


def measure(settings: Settings) -> Report:
    """Both models, one after the other.

    Raises:
        ValueError: if there is no GPU, and the CPU was not asked for.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "torch finds no GPU: give --device cpu --small to see whether the script runs."
        )
    report = Report("gpu", "Training on a GPU", settings)
    small, device = settings.small, settings.device
    if small:
        glow: dict[str, Any] = {"shape": (3, 8, 8), "levels": 2, "steps": 1, "batch": 2}
        realnvp: dict[str, Any] = {"shape": (3, 8, 8), "width": 4, "blocks": 1, "batch": 2}
    else:
        glow = {"levels": 3, "steps": 32, "batch": 128}
        realnvp = {"batch": 128}
    width = 8 if small else 512
    ours = partial(subjects.glow, width, device=device, **glow)
    theirs = partial(peers.normflows_glow, width, device=device, **glow)
    there = peers.installed("normflows")
    if not there:
        report.notes.append("normflows is not installed here, and is left out.")
    _compare(
        report,
        "Glow, K 32, L 3, width 512",
        ours,
        {
            "normflows, float32": partial(without_tf32, theirs),
            "normflows, TF32": partial(with_tf32, theirs),
        }
        if there
        else {},
        glow["batch"],
    )
    ours = partial(subjects.image_realnvp, device=device, **realnvp)
    _compare(report, "ImageRealNVP, 64 x 8", ours, {}, realnvp["batch"])
    return report


def _compare(
    report: Report, group: str, ours: partial[subjects.Subject], theirs: dict[str, Make], batch: int
) -> None:
    """One model of ours in all its ways, others', and the card's products, in turns."""
    settings = report.settings
    say(f"gpu: {group}")
    bfloat16 = partial(ours, precision="bfloat16")
    models: dict[str, Make] = {
        "ours, float32": partial(without_tf32, ours),
        "ours, TF32": partial(with_tf32, ours),
        "ours, bfloat16": partial(with_tf32, bfloat16),
        "ours, bfloat16, constant memory": partial(with_tf32, partial(bfloat16, memory="constant")),
    }
    if not settings.small:  # which would take longer to compile than all else together
        models["ours, bfloat16, compiled"] = partial(with_tf32, partial(compiled, bfloat16))
    models |= theirs
    size = 64 if settings.small else 8192
    products: dict[str, Make] = {
        "matrix product, float32": partial(
            without_tf32, partial(Product, size, torch.float32, settings.device)
        ),
        "matrix product, TF32": partial(
            with_tf32, partial(Product, size, torch.float32, settings.device)
        ),
        "matrix product, bfloat16": partial(Product, size, torch.bfloat16, settings.device),
    }
    for side, mib in growths(models, settings).items():
        report.measured.append(Measured(f"{group}: memory", side, mib, "MiB"))
    with harness.Worker(partial(without_tf32, ours), settings) as worker:
        flops = worker.call("flops")
    times = take_turns(models | products, settings)["step"]
    speeds: dict[str, list[float]] = {}
    for side, seconds in times.items():
        work = 2 * size**3 if side in products else flops
        if side not in products:
            report.measured.append(rates(group, side, seconds, batch))
        speeds[side] = [work / s / TERA for s in seconds]
    for side, values in speeds.items():
        report.measured.append(Measured(f"{group}: speed", side, values, "TFLOP/s"))
    for side in models:
        precision = next(p for p in ("bfloat16", "TF32", "float32") if p in side)
        card = speeds[f"matrix product, {precision}"]
        share = [ours / of for ours, of in zip(speeds[side], card, strict=True)]
        best = max(speeds[side]) / max(card)
        report.ratios.append(Ratio(f"{group.split(',')[0]}, {side}: of the card", share, best))
    if theirs:
        fastest = min(theirs, key=lambda side: median(times[side]))
        for side in models:
            if side not in theirs:
                what = f"{side}: speed over {fastest}"
                report.ratios.append(over(what, times[fastest], times[side]))

"""NSF and MAF, against zuko and nflows.

5 autoregressive maps whose networks have two hidden layers of 64, rational-quadratic splines of 8
bins (NSF) or affine maps (MAF), on 10 features, batches of 512 and of 8,192, float32: a training
step (forward, backward, fused Adam) and the log-densities of a batch. All take turns.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

import diffeo
from benchmarks import peers
from benchmarks.harness import Settings, say, take_turns
from benchmarks.report import Report, over, rates
from benchmarks.subjects import Subject

FEATURES, BATCHES = 10, (512, 8192)
LAYERS, HIDDEN, BINS, BOUND = 5, 64, 8, 5.0
TASKS = {"step": "train", "log_prob": "log_prob"}
# How much faster a training step has to be, by model and peer.
BARS = {("NSF", "zuko"): 1.5, ("NSF", "nflows"): 1.5, ("MAF", "zuko"): 1.2}


def ours(name: str, batch: int) -> Subject:
    """Ours."""
    spline = diffeo.bijections.RationalQuadraticSpline(BINS, BOUND)
    options = {"univariate": spline} if name == "NSF" else {}
    x = torch.randn(batch, FEATURES)
    flow = getattr(diffeo, name)(FEATURES, LAYERS, (HIDDEN, HIDDEN), **options).initialize(x)
    return Subject(flow, lambda: flow.log_prob(x))


def zuko(name: str, batch: int) -> Subject:
    """The flow of that name of zuko."""
    import zuko

    options = {"bins": BINS} if name == "NSF" else {}
    x = torch.randn(batch, FEATURES)
    flow = getattr(zuko.flows, name)(
        FEATURES, transforms=LAYERS, hidden_features=(HIDDEN, HIDDEN), **options
    )
    return Subject(flow, lambda: flow().log_prob(x))


def nflows(name: str, batch: int) -> Subject:
    """Masked transforms of nflows, with reversed features between them."""
    from nflows import transforms
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    options = {"num_blocks": 1, "use_residual_blocks": False}
    masked = transforms.MaskedAffineAutoregressiveTransform
    if name == "NSF":
        masked = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
        options |= {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    layers: list[nn.Module] = []
    for i in range(LAYERS):
        layers += [transforms.ReversePermutation(FEATURES)] if i else []
        layers.append(masked(FEATURES, HIDDEN, **options))
    flow = Flow(transforms.CompositeTransform(layers), StandardNormal([FEATURES]))
    x = torch.randn(batch, FEATURES)
    return Subject(flow, lambda: flow.log_prob(x))


def measure(settings: Settings) -> Report:
    """Both models, with each size and task; peers that are not installed are left out and named."""
    report = Report("autoregressive", "NSF and MAF for tables", settings)
    there = {p.__name__: p for p in (zuko, nflows) if peers.installed(p.__name__)}
    if not there:
        peers.need("zuko", "nflows")
    for name in ("NSF", "MAF"):
        for batch in (16,) if settings.small else BATCHES:
            say(f"autoregressive: {name}, batch {batch}")
            sides = {side: partial(make, name, batch) for side, make in there.items()}
            sides = {"ours": partial(ours, name, batch), **sides}
            for task, times in take_turns(sides, settings, list(TASKS)).items():
                group = f"{name}, batch {batch}, {TASKS[task]}"
                report.measured += [rates(group, s, t, batch, "rows/s") for s, t in times.items()]
                for side in there:
                    bar = BARS.get((name, side)) if task == "step" else None
                    label = f"{group}: speed over {side}"
                    report.ratios.append(over(label, times[side], times["ours"], bar))
    return report

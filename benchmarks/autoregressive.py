"""NSF and MAF, against zuko, nflows and flowjax.

5 autoregressive maps whose networks have two hidden layers of 64, rational-quadratic splines of 8
bins (NSF) or affine maps (MAF), on 10 features, batches of 512 and of 8,192, float32: a training
step (forward, backward, fused Adam) and the log-densities of a batch. All take turns. Ours are
compiled too, to compare with flowjax, which always compiles; where torch has one thread it has one
core.
"""

from __future__ import annotations

import os
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
BARS |= {(name, "flowjax"): 1.0 for name in ("NSF", "MAF")}


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


def compiled(name: str, batch: int) -> Subject:
    """Ours, compiled."""
    subject = ours(name, batch)
    subject.model.compile()
    return subject


class flowjax:  # noqa: N801  named as the package
    """The masked autoregressive flow of flowjax, compiled by JAX, with optax's Adam."""

    def __init__(self, name: str, batch: int) -> None:
        if torch.get_num_threads() == 1:  # JAX takes all cores that it sees
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import equinox
        import jax
        import optax
        from flowjax.bijections import RationalQuadraticSpline
        from flowjax.distributions import Normal
        from flowjax.flows import masked_autoregressive_flow
        from paramax import unwrap

        spline = RationalQuadraticSpline(knots=BINS, interval=BOUND) if name == "NSF" else None
        flow = masked_autoregressive_flow(
            jax.random.key(0),
            base_dist=Normal(jax.numpy.zeros(FEATURES)),
            transformer=spline,
            flow_layers=LAYERS,
            nn_width=HIDDEN,
            nn_depth=2,
        )
        self.x = jax.random.normal(jax.random.key(1), (batch, FEATURES))
        self.weights, static = equinox.partition(flow, equinox.is_inexact_array)
        adam = optax.adam(1e-4)
        self.state = adam.init(self.weights)
        self.wait = jax.block_until_ready

        def log_prob(weights, x):
            return unwrap(equinox.combine(weights, static)).log_prob(x)

        @jax.jit
        def step(weights, state, x):
            gradient = jax.grad(lambda weights: -log_prob(weights, x).mean())(weights)
            updates, state = adam.update(gradient, state)
            return equinox.apply_updates(weights, updates), state

        self._step, self._log_prob = step, jax.jit(log_prob)

    def enter(self, task: str) -> None:
        """Nothing: there are no modes."""

    def step(self) -> None:
        """Gradient and Adam."""
        self.weights, self.state = self.wait(self._step(self.weights, self.state, self.x))

    def log_prob(self) -> None:
        """Score a batch."""
        self.wait(self._log_prob(self.weights, self.x))


def measure(settings: Settings) -> Report:
    """Both models, with each size and task; peers that are not installed are left out and named."""
    report = Report("autoregressive", "NSF and MAF for tables", settings)
    there = {p.__name__: p for p in (zuko, nflows, flowjax) if peers.installed(p.__name__)}
    if not there:
        peers.need("zuko", "nflows", "flowjax")
    for name in ("NSF", "MAF"):
        for batch in (16,) if settings.small else BATCHES:
            say(f"autoregressive: {name}, batch {batch}")
            makes = {"ours": ours, **there}
            if "flowjax" in there:
                makes["ours, compiled"] = compiled
            sides = {side: partial(make, name, batch) for side, make in makes.items()}
            for task, times in take_turns(sides, settings, list(TASKS)).items():
                group = f"{name}, batch {batch}, {TASKS[task]}"
                report.measured += [rates(group, s, t, batch, "rows/s") for s, t in times.items()]
                for side in there:
                    our = "ours, compiled" if side == "flowjax" else "ours"
                    small = batch == BATCHES[0] or side != "flowjax"
                    bar = BARS.get((name, side)) if task == "step" and small else None
                    label = f"{group}: speed of {our} over {side}"
                    report.ratios.append(over(label, times[side], times[our], bar))
    return report

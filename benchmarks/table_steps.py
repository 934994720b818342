"""Training steps and scores of RealNVP, NSF and MAF, compiled, against flowjax, zuko and others.

RealNVP has 8 affine couplings, NSF and MAF 5 autoregressive maps with rational-quadratic splines of
8 bins or affine maps; networks have two hidden layers of 64. On 2, 10 and 43 features, batches of
512 and of 8,192, float32: a training step (forward, backward, Adam) and the log-densities of a
batch. All take turns. Ours are measured as `diffeo train` computes them when it compiles, and as
they are; flowjax always compiles. Where torch has one thread, JAX has one core.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import nn

import diffeo
from benchmarks import peers
from benchmarks.harness import Settings, say, take_turns
from benchmarks.report import Report, over, rates
from benchmarks.subjects import RATE, Subject
from diffeo.training.adam import AveragedAdam
from diffeo.training.compiled import CompiledGradient
from diffeo.training.options import OptimizerOptions

FEATURES, BATCHES = (2, 10, 43), (512, 8192)
COUPLINGS, LAYERS, HIDDEN, BINS, BOUND = 8, 5, 64, 8, 5.0
NAMES, TASKS = ("RealNVP", "NSF", "MAF"), {"step": "train", "log_prob": "log_prob"}
# How much faster the compiled step and score have to be than flowjax, and than the fastest of the
# others, by the size of the batch.
BARS = {512: (1.0, 1.6), 8192: (1.3, 1.5)}


def flow_of(name: str, features: int) -> diffeo.Flow:
    """Ours."""
    spline = diffeo.bijections.RationalQuadraticSpline(BINS, BOUND)
    options = {"univariate": spline} if name == "NSF" else {}
    layers = COUPLINGS if name == "RealNVP" else LAYERS
    return getattr(diffeo, name)(features, layers, (HIDDEN, HIDDEN), **options)


class Ours(Subject):
    """Ours, with a step as `diffeo train` takes it, but for clipping and averages."""

    def __init__(self, name: str, features: int, batch: int) -> None:
        self.x = torch.randn(batch, features)
        flow = flow_of(name, features).initialize(self.x)
        with torch.no_grad():  # as after some training: products skip weights that are zero
            for weight in flow.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.02)
        super().__init__(flow, lambda: flow.log_prob(self.x))
        averaged = copy.deepcopy(flow).requires_grad_(False)
        self.adam = AveragedAdam(flow, averaged, OptimizerOptions(), RATE)

    def step(self) -> None:
        """Gradient and Adam."""
        self.adam.weights.start()
        self._loss().backward()
        self.adam.step(0.5)


class Compiled(Ours):
    """The same with loss and gradient as one program; a copy scores, as a flow that was loaded."""

    def __init__(self, name: str, features: int, batch: int) -> None:
        super().__init__(name, features, batch)
        self.gradient = CompiledGradient(self.model, 1.0, self.adam.weights)
        self._log_prob = partial(copy.deepcopy(self.model).eval().compile().log_prob, self.x)

    def step(self) -> None:
        """Gradient and Adam."""
        self.gradient(self.x, None, None, None)
        self.adam.step(0.5)


def zuko(name: str, features: int, batch: int) -> Subject:
    """The flow of that name of zuko."""
    import zuko

    options = {"bins": BINS} if name == "NSF" else {}
    x = torch.randn(batch, features)
    flow = getattr(zuko.flows, name)(
        features, transforms=LAYERS, hidden_features=(HIDDEN, HIDDEN), **options
    )
    return Subject(flow, lambda: flow().log_prob(x))


def nflows(name: str, features: int, batch: int, hidden: int = HIDDEN) -> Subject:
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
        layers += [transforms.ReversePermutation(features)] if i else []
        layers.append(masked(features, hidden, **options))
    flow = Flow(transforms.CompositeTransform(layers), StandardNormal([features]))
    x = torch.randn(batch, features)
    return Subject(flow, lambda: flow.log_prob(x))


class flowjax:  # noqa: N801  named as the package
    """The flow of flowjax, compiled by JAX, with optax's Adam."""

    def __init__(self, name: str, features: int, batch: int) -> None:
        if torch.get_num_threads() == 1:  # JAX takes all cores that it sees
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import equinox
        import jax
        import optax
        from flowjax import flows
        from flowjax.bijections import Affine, RationalQuadraticSpline
        from flowjax.distributions import Normal
        from paramax import unwrap

        kind = flows.coupling_flow if name == "RealNVP" else flows.masked_autoregressive_flow
        spline = RationalQuadraticSpline(knots=BINS, interval=BOUND)
        flow = kind(
            jax.random.key(0),
            base_dist=Normal(jax.numpy.zeros(features)),
            transformer=spline if name == "NSF" else Affine(),
            flow_layers=COUPLINGS if name == "RealNVP" else LAYERS,
            nn_width=HIDDEN,
            nn_depth=2,
        )
        self.x = jax.random.normal(jax.random.key(1), (batch, features))
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
    """Each model, size and task; peers that are not installed are left out and named."""
    report = Report("table-steps", "RealNVP, NSF and MAF for tables, compiled", settings)
    makes: dict[str, Callable[..., object]] = {p.__name__: p for p in (flowjax, zuko, nflows)}
    there = {name for name in [*makes, "normflows"] if peers.installed(name)}
    if not there:
        peers.need(*makes, "normflows")
    for name in NAMES[:1] if settings.small else NAMES:
        for features in FEATURES[:1] if settings.small else FEATURES:
            for batch in (16,) if settings.small else BATCHES:
                say(f"table-steps: {name}, {features} features, batch {batch}")
                sides: dict[str, Callable[[], object]] = {
                    "ours, compiled": partial(Compiled, name, features, batch),
                    "ours": partial(Ours, name, features, batch),
                }
                for peer in there:
                    if name == "RealNVP" and peer in peers.TABLES:
                        sides[peer] = partial(peers.TABLES[peer], features, batch)
                    elif peer in makes:
                        sides[peer] = partial(makes[peer], name, features, batch)
                for task, times in take_turns(sides, settings, list(TASKS)).items():
                    group = f"{name}, {features} features, batch {batch}, {TASKS[task]}"
                    measured = times.items()
                    report.measured += [rates(group, s, t, batch, "rows/s") for s, t in measured]
                    mine = times["ours, compiled"]
                    torches = [s for s in times if s in there - {"flowjax"}]
                    fastest = min(torches, key=lambda s: median(times[s]), default=None)
                    bars = BARS.get(batch, (None, None))
                    for peer, bar in zip(("flowjax", fastest), bars, strict=True):
                        if peer in times:
                            label = f"{group}: speed over {peer}"
                            report.ratios.append(over(label, times[peer], mine, bar))
    return report

"""The same models of others, as their own documentation builds them; and speeds known of them.

Each function imports its package when it is called, so that none is needed for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.subjects import Subject, pixels

# Images a second on two cores with AVX-512, torch 2.13, batch 32, Glow 3x32x32 with L 3 and K 8, by
# width: of normflows, and of the fastest of five ports. On another machine, or on this one on
# another day, they are scaled by what normflows reaches there.
NORMFLOWS_TRAIN = {128: 217.0, 512: 43.0}
NORMFLOWS_SAMPLE = {128: 446.0, 512: 73.0}
FASTEST_SAMPLE = {128: 446.0, 512: 133.0}
IMAGE_REALNVP_TRAIN = 15.8  # of a RealNVP of 64 channels x 8 blocks, batch 16

COUPLINGS, HIDDEN = 8, 64


def installed(package: str) -> bool:
    """Whether a peer is there."""
    return find_spec(package) is not None


def need(*packages: str) -> None:
    """Say what to install.

    Raises:
        ValueError: if one of the packages is missing.
    """
    missing = [package for package in packages if not installed(package)]
    if missing:
        raise ValueError(f"{', '.join(missing)} is not installed: pip install -e '.[bench]'.")


def normflows_model(shape: tuple[int, int, int], levels: int, steps: int, width: int) -> nn.Module:
    """The Glow of normflows, as its own example builds it."""
    import normflows

    channels, height, across = shape
    bases, flows, merges = [], [], []
    for level in range(levels):  # theirs begin at the noise
        halved = levels - level
        blocks = [
            normflows.flows.GlowBlock(channels * 2 ** (halved + 1), width, scale=True)
            for _ in range(steps)
        ]
        flows.append([*blocks, normflows.flows.Squeeze()])
        if level:
            merges.append(normflows.flows.Merge())
        latent = (channels * 2 ** (halved + (level == 0)), height >> halved, across >> halved)
        bases.append(normflows.distributions.DiagGaussian(latent))
    return normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)


def pixel_log_prob(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Log-density of pixels, dequantized and centred as ours are, of a model of normflows."""

    def log_prob(x: Tensor) -> Tensor:
        cell = (x + torch.rand(x.shape, device=x.device)) / 256 - 0.5
        return model.log_prob(cell, None) - math.log(256) * x[0].numel()

    return log_prob


def normflows_glow(
    width: int,
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    levels: int = 3,
    steps: int = 8,
    batch: int = 32,
    device: str = "cpu",
) -> Subject:
    """The Glow of normflows, on a batch of pixels, initialised from it; arguments as for ours."""
    model = normflows_model(shape, levels, steps, width).to(device)
    log_prob, x = pixel_log_prob(model), pixels(batch, shape, device)
    with torch.no_grad():
        log_prob(x)
    return Subject(model, lambda: log_prob(x), lambda: model.sample(batch))


# Tables: 8 affine couplings, whose networks have hidden layers of 64 and 64 with ReLU. ------------


def zuko_table(features: int, batch: int) -> Subject:
    """The coupling flow of zuko: `NICE`, which is affine."""
    import zuko

    x = torch.randn(batch, features)
    flow = zuko.flows.NICE(features, transforms=COUPLINGS, hidden_features=(HIDDEN, HIDDEN))
    return Subject(flow, lambda: flow().log_prob(x), lambda: flow().sample((batch,)))


def nflows_table(features: int, batch: int) -> Subject:
    """Affine couplings of nflows with alternating masks, and its MLP."""
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.nn.nets import MLP
    from nflows.transforms import AffineCouplingTransform, CompositeTransform
    from nflows.utils import create_alternating_binary_mask

    class Network(MLP):
        """Theirs, which takes no context."""

        def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
            return super().forward(inputs)

    def network(inputs: int, outputs: int) -> nn.Module:
        return Network([inputs], [outputs], [HIDDEN, HIDDEN])

    masks = [create_alternating_binary_mask(features, even=i % 2 == 0) for i in range(COUPLINGS)]
    layers = [AffineCouplingTransform(mask, network) for mask in masks]
    x = torch.randn(batch, features)
    flow = Flow(CompositeTransform(layers), StandardNormal([features]))
    return Subject(flow, lambda: flow.log_prob(x), lambda: flow.sample(batch))


def normflows_table(features: int, batch: int, hidden: int = HIDDEN) -> Subject:
    """Affine couplings of normflows with swapped halves, and its MLP."""
    import normflows

    first = (features + 1) // 2
    flows: list[nn.Module] = []
    for _ in range(COUPLINGS):
        widths = [first, hidden, hidden, 2 * (features - first)]
        flows.append(
            normflows.flows.AffineCouplingBlock(normflows.nets.MLP(widths, init_zeros=True))
        )
        flows.append(normflows.flows.Permute(features, mode="swap"))
    model = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(features), flows)
    x = torch.randn(batch, features)
    return Subject(
        model,
        lambda: model.log_prob(x),
        lambda: model.sample(batch),
        lambda: model.forward_kld(x),
    )


def freia_table(features: int, batch: int) -> Subject:
    """Blocks of FrEIA of two affine couplings each, and a standard normal by hand."""
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import GLOWCouplingBlock

    def network(inputs: int, outputs: int) -> nn.Module:
        layers = [nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs))

    flow = SequenceINN(features)
    for _ in range(COUPLINGS // 2):
        flow.append(GLOWCouplingBlock, subnet_constructor=network)
    x, constant = torch.randn(batch, features), 0.5 * features * math.log(2 * math.pi)

    def log_prob() -> Tensor:
        z, log_det = flow(x)
        return log_det - 0.5 * z.square().sum(1) - constant

    return Subject(flow, log_prob, lambda: flow(torch.randn(batch, features), rev=True))


TABLES = {
    "zuko": zuko_table,
    "nflows": nflows_table,
    "normflows": normflows_table,
    "FrEIA": freia_table,
}

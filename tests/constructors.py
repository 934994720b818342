"""Every bijection and every model, made small: a new one is added here, in one line, and tested."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffeo.bijections import Bijection, Chain, Inverse
from diffeo.bijections.checkerboard import CompactCheckerboard, MaskedCheckerboard, MaskedNetwork
from diffeo.bijections.convolution import InvertibleConv1x1, NormalizedConv1x1
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.elementwise import LearnedPrior, Scale, Standardize
from diffeo.bijections.multiscale import FactorOut
from diffeo.bijections.normalization import ActNorm, BatchNorm
from diffeo.bijections.permutation import Permutation
from diffeo.bijections.pixels import Center, Logit
from diffeo.bijections.reshape import Flatten, Squeeze
from diffeo.bijections.sinh_arcsinh import SinhArcsinh
from diffeo.bijections.splits import FeatureSplit, NoSplit
from diffeo.bijections.univariate import Additive, Affine
from diffeo.bijections.whitening import Whiten
from diffeo.flow import Flow
from diffeo.models.glow import Glow
from diffeo.models.image_realnvp import ImageRealNVP
from diffeo.models.nice import NICE
from diffeo.models.realnvp import RealNVP
from diffeo.models.table_flow import TableFlow
from diffeo.networks.glow import GlowNet
from diffeo.networks.mlp import MLP
from diffeo.networks.resnet import ConvNet, ResNet


def pixels(n: int, shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    """Points between 0 and 16, off the ends."""
    return torch.rand(n, *shape, generator=source, dtype=torch.float64) * 15 + 0.5


def normals(n: int, shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    return torch.randn(n, *shape, generator=source, dtype=torch.float64)


@dataclass(frozen=True)
class Entry:
    """How to make a map, and what is known of it.

    Args:
        make: makes it, as a user would.
        shape: of one event x.
        log_det: "zero" where volume is preserved, "constant" where each row's is the same.
        context_features: width of the context; 0 for none.
        other: makes one of the same shapes but another state, to load a state into.
        data: draws n points of this shape where the map is defined.
        statistics: whether it normalizes by batches, and so differs in training mode.
        by: how far from its start it is moved; less for stacks whose Jacobian would otherwise be
            too ill-conditioned to compare with.
    """

    make: Callable[[], Bijection | Flow]
    shape: tuple[int, ...]
    log_det: Literal["zero", "constant", "varying"] = "varying"
    context_features: int = 0
    other: Callable[[], Bijection | Flow] | None = None
    data: Callable[[int, tuple[int, ...], torch.Generator], Tensor] = normals
    statistics: bool = False
    by: float = 0.3

    @property
    def volume_preserving(self) -> bool:
        return self.log_det == "zero"

    def x(self, n: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        return self.data(n, self.shape, torch.Generator().manual_seed(seed)).to(dtype)

    def context(self, n: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> Tensor | None:
        if not self.context_features:
            return None
        source = torch.Generator().manual_seed(seed)
        shape = n, self.context_features
        return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)

    def ready(self, dtype: torch.dtype = torch.float64) -> Bijection | Flow:
        """One that has seen data and is far from its zero-initialised start, in eval mode."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = self.make()
            x, context = (
                self.x(64, torch.float32, 3),
                self.context(64, torch.float32),
            )
            start = module.initialize if isinstance(module, Flow) else module.train()
            start(x, context)
            return perturb(module, self.by).to(dtype).eval()


def perturb(module: nn.Module, by: float = 0.3) -> nn.Module:
    """Move every parameter: at their start couplings are the identity, where errors hide."""
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(
                torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.dtype), alpha=by
            )
    return module


def fitted(features: int) -> Standardize:
    """Already fitted, for places where data comes from the other side."""
    link = Standardize(features)
    link(torch.randn(50, features, generator=torch.Generator().manual_seed(4)) * 3 - 1)
    return link


def coupling(bend: str, keep: str, features: int, context_features: int = 0) -> Coupling:
    made = Additive() if bend == "additive" else Affine()
    cut = FeatureSplit(features, keep)
    mlp = MLP(cut.kept, made.parameters_each * cut.bent, (8, 8), context_features)
    return Coupling(cut, made, mlp)


def checkerboard(kind: str, keep: str, context_features: int = 0) -> Coupling:
    channels = 2 if not context_features and keep == "main" else 1
    if kind == "compact":
        net = ResNet(2 * channels, 4 * channels, 4, 1, context_features)
        return Coupling(CompactCheckerboard(keep), Affine(), net)
    cut = MaskedCheckerboard(keep)
    net = ResNet(channels + 1, 2 * channels, 4, 1, context_features)
    return Coupling(cut, Affine(), MaskedNetwork(cut, net))


def images(**options) -> Chain:
    return ImageRealNVP((1, 4, 4), hidden_channels=4, blocks=1, bits=4, **options).bijection


def glow(**options) -> Chain:
    settings = {"levels": 2, "steps": 2, "hidden_channels": 4, "bits": 4, "margin": 0} | options
    return Glow((1, 4, 4), **settings).bijection


def factored_out() -> Chain:
    first = Coupling(FeatureSplit(4), Affine(), ConvNet(2, 4, 4))
    inner = Coupling(FeatureSplit(2), Affine(), ConvNet(1, 2, 4))
    return Chain(first, FactorOut((4, 2, 2), Chain(inner, Flatten(2, 2, 2))))


def nested(context_features: int = 0) -> Chain:
    inner = Chain(coupling("affine", "second", 3, context_features), Permutation([1, 2, 0]))
    return Chain(
        Standardize(3),
        Inverse(Chain(inner, Scale(3))),
        coupling("affine", "first", 3, context_features),
    )


BIJECTIONS: dict[str, Entry] = {
    "Standardize": Entry(lambda: Standardize(3), (3,), "constant"),
    "Scale": Entry(lambda: Scale(3), (3,), "constant"),
    "SinhArcsinh": Entry(lambda: SinhArcsinh(3), (3,)),
    "Whiten": Entry(lambda: Whiten(3), (3,), "constant"),
    "NoSplit, context": Entry(
        lambda: Coupling(NoSplit(3), Affine(), MLP(0, 6, (8, 8), 2)), (3,), context_features=2
    ),
    "reverse": Entry(
        lambda: Permutation.reverse(4), (4,), "zero", other=lambda: Permutation(range(4))
    ),
    "shuffle": Entry(
        lambda: Permutation.shuffle(7, 1), (7,), "zero", other=lambda: Permutation.shuffle(7, 2)
    ),
    "permuted pixels": Entry(lambda: Permutation([1, 2, 0]), (3, 2, 2), "zero"),
    "Inverse": Entry(lambda: Inverse(coupling("affine", "first", 3)), (3,)),
    "Inverse shuffle": Entry(lambda: Inverse(Permutation([1, 2, 0])), (3,), "zero"),
    "Inverse fitted": Entry(lambda: Inverse(fitted(2)), (2,), "constant"),
    "empty chain": Entry(lambda: Chain(), (3,), "zero"),
    "Chain": Entry(
        lambda: Chain(Standardize(3), coupling("affine", "first", 3), Permutation([1, 2, 0])), (3,)
    ),
    "nested": Entry(nested, (3,)),
    "Squeeze": Entry(lambda: Squeeze(), (2, 4, 6), "zero"),
    "ordered Squeeze": Entry(lambda: Squeeze(ordered=True), (2, 4, 2), "zero"),
    "Inverse Squeeze": Entry(lambda: Inverse(Squeeze(ordered=True)), (4, 2, 1), "zero"),
    "Flatten": Entry(lambda: Flatten(2, 3, 2), (2, 3, 2), "zero"),
    "FactorOut": Entry(factored_out, (4, 2, 2)),
    "Logit": Entry(lambda: Logit(scale=16.0), (2, 3), data=pixels),
    "Center": Entry(lambda: Center(scale=16.0), (2, 3), "constant", data=pixels),
    "BatchNorm": Entry(lambda: BatchNorm(3), (3, 2, 2), "constant", statistics=True),
    "ActNorm": Entry(lambda: ActNorm(3), (3, 2, 2), "constant"),
    "ActNorm of a table": Entry(lambda: ActNorm(4, scale=0.5), (4,), "constant"),
    "InvertibleConv1x1": Entry(lambda: InvertibleConv1x1(3), (3, 2, 2), "constant"),
    "InvertibleConv1x1, dense": Entry(
        lambda: InvertibleConv1x1(4, lu=False), (4, 1, 2), "constant"
    ),
    "NormalizedConv1x1": Entry(
        lambda: NormalizedConv1x1(ActNorm(4), InvertibleConv1x1(4)), (4, 3, 2), "constant"
    ),
    "LearnedPrior": Entry(lambda: LearnedPrior(2, 3), (2, 3), "constant"),
    "LearnedPrior, context": Entry(
        lambda: LearnedPrior(2, 2, 1, context_features=3), (2, 2, 1), context_features=3
    ),
    "Glow's coupling": Entry(
        lambda: Coupling(FeatureSplit(3), Affine(), GlowNet(1, 4, 5, context_features=2)),
        (3, 2, 2),
        context_features=2,
        by=0.1,
    ),
    "Glow": Entry(lambda: glow(), (1, 4, 4), by=0.1, data=pixels),
    "Glow, dense, own prior": Entry(
        lambda: glow(lu=False, learned_top_prior=False), (1, 4, 4), by=0.05, data=pixels
    ),
    "Glow, additive, shuffle": Entry(
        lambda: glow(coupling="additive", permutation="shuffle"), (1, 4, 4), by=0.1, data=pixels
    ),
    "Glow, reverse, context": Entry(
        lambda: glow(permutation="reverse", context_features=2),
        (1, 4, 4),
        by=0.1,
        data=pixels,
        context_features=2,
    ),
    "image coupling": Entry(lambda: checkerboard("compact", "main"), (2, 4, 4), statistics=True),
    "image coupling, anti": Entry(
        lambda: checkerboard("compact", "anti"), (1, 2, 4), statistics=True
    ),
    "image coupling, masked": Entry(
        lambda: checkerboard("masked", "main"), (2, 3, 3), statistics=True
    ),
    "image coupling, masked, anti": Entry(
        lambda: checkerboard("masked", "anti"), (1, 2, 4), statistics=True
    ),
    "image coupling, context": Entry(
        lambda: checkerboard("compact", "main", 2), (1, 4, 4), context_features=2, statistics=True
    ),
    "image coupling, three convolutions": Entry(
        lambda: Coupling(FeatureSplit(3), Affine(), ConvNet(1, 4, 5)), (3, 2, 2)
    ),
    "ImageRealNVP": Entry(lambda: images(), (1, 4, 4), data=pixels, statistics=True),
    "ImageRealNVP, masked": Entry(
        lambda: images(checkerboard="masked"), (1, 4, 4), data=pixels, statistics=True
    ),
    "ImageRealNVP, context": Entry(
        lambda: images(context_features=2),
        (1, 4, 4),
        data=pixels,
        context_features=2,
        statistics=True,
    ),
    "ImageRealNVP, channel, additive": Entry(
        lambda: images(mask="channel", coupling="additive"), (1, 4, 4), data=pixels, statistics=True
    ),
    "NICE of pictures": Entry(
        lambda: NICE((1, 2, 3), hidden=(8,), bits=4).bijection, (1, 2, 3), "constant", data=pixels
    ),
    "nested, context": Entry(lambda: nested(2), (3,), context_features=2),
} | {
    f"{bend} {keep} {features}{', context' if context else ''}": Entry(
        lambda bend=bend, keep=keep, features=features, context=context: coupling(
            bend, keep, features, context
        ),
        (features,),
        "zero" if bend == "additive" else "varying",
        context,
    )
    for bend in ("additive", "affine")
    for keep in ("first", "second")
    for features in (4, 5)
    for context in (0, 2)
}

MODELS: dict[str, Entry] = {
    f"{name} {base} {features}{', context' if context else ''}": Entry(
        lambda model=model, base=base, features=features, context=context: model(
            features, layers=3, hidden=(8,), base=base, context_features=context
        ),
        (features,),
        log_det,
        context,
    )
    for name, model, bases, log_det in (
        ("NICE", NICE, ("logistic", "normal"), "constant"),
        ("RealNVP", RealNVP, ("normal", "logistic"), "varying"),
    )
    for base in bases
    for features in (2, 3, 5)
    for context in (0, 2)
} | {
    f"TableFlow {features}{', context' if context else ''}": Entry(
        lambda features=features, context=context: TableFlow(
            features, layers=3, hidden=(8,), context_features=context
        ),
        (features,),
        context_features=context,
        by=0.1,
    )
    for features in (1, 2, 5)
    for context in (0, 2)
}

ENTRIES = BIJECTIONS | MODELS


def another(entry: Entry) -> Bijection | Flow:
    """A fresh object of the same shapes, whose numbers differ from those of `ready`."""
    return perturb(copy.deepcopy((entry.other or entry.make)()), -0.2)

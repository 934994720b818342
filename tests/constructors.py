"""Every bijection and every model, made small.

Bijections and univariate maps come from their own `examples()`: a new one is tested without being
named here. Here are combinations of them, and the models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from inspect import isabstract
from typing import Literal

import torch
from torch import Tensor, nn

from diffeo.bases import Logistic, Mixture, Normal, StudentT
from diffeo.bijections import (
    Additive,
    Affine,
    Bijection,
    Chain,
    CompactCheckerboard,
    Coupling,
    FactorOut,
    FeatureSplit,
    Flatten,
    Inverse,
    MaskedCheckerboard,
    MaskedNetwork,
    MixtureCDF,
    Permutation,
    Scale,
    Squeeze,
    Standardize,
    Univariate,
)
from diffeo.bijections.base import Example
from diffeo.flow import Flow
from diffeo.models import (
    IAF,
    MAF,
    NAF,
    NICE,
    NSF,
    CircularNSF,
    ContinuousFlow,
    CouplingNSF,
    FlowPlusPlus,
    Glow,
    ImageRealNVP,
    Jet,
    PixelFlow,
    PlanarFlow,
    RealNVP,
    ResidualFlow,
    SylvesterFlow,
    TableFlow,
    TailFlow,
    TarFlow,
)
from diffeo.networks import MLP, ConvNet, GlowNet, ResNet


@dataclass(frozen=True)
class Entry:
    """How to make a map, and what is known of it; see `Example`."""

    make: Callable[[], Bijection | Flow]
    shape: tuple[int, ...]
    log_det: Literal["zero", "constant", "varying"] = "varying"
    context_features: int = 0
    other: Callable[[], Bijection | Flow] | None = None
    interval: tuple[float, float] | None = None
    normalizes_batches: bool = False
    perturbation: float = 0.3
    exact: bool = True
    tolerance: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether the host reads values: a random number of terms, or a step's error."""
        return not self.exact or self.tolerance > 0

    @property
    def volume_preserving(self) -> bool:
        return self.log_det == "zero"

    def x(self, n: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        if self.interval is None:
            return torch.randn(n, *self.shape, generator=source, dtype=torch.float64).to(dtype)
        low, high = self.interval
        u = torch.rand(n, *self.shape, generator=source, dtype=torch.float64)
        return (low + (high - low) * u).to(dtype)

    def context(self, n: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> Tensor | None:
        if not self.context_features:
            return None
        source = torch.Generator().manual_seed(seed)
        shape = n, self.context_features
        return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)

    def ready(self, dtype: torch.dtype = torch.float64) -> Bijection | Flow:
        """One that was initialised and is far from its zero-initialised start, in eval mode."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = self.make()
            x, context = self.x(64, torch.float32, 3), self.context(64, torch.float32)
            # Batch normalizations take their averages from it.
            module.train()
            module.initialize(x, context)
            return perturb(module, self.perturbation).to(dtype).eval()


def perturb(module: nn.Module, by: float = 0.3) -> nn.Module:
    """Move every parameter: at their start couplings are the identity, where errors hide."""
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(
                torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.dtype), alpha=by
            )
    return module


def subclasses(cls: type) -> Iterator[type]:
    """Those of diffeo's that can be made."""
    for child in cls.__subclasses__():
        if child.__module__.startswith("diffeo.bijections.") and not isabstract(child):
            yield child
        yield from subclasses(child)


def described(name: str, examples) -> dict[str, Entry]:
    found = [Entry(**{f: getattr(e, f) for f in Example.__dataclass_fields__}) for e in examples]
    return {f"{name} {i}": entry for i, entry in enumerate(found)}


def univariate_coupling(univariate: Univariate, context_features: int) -> Coupling:
    """A coupling of four features with a univariate map."""
    univariate, split = copy.deepcopy(univariate), FeatureSplit(4)
    outputs = univariate.parameters_each * split.transformed
    return Coupling(split, univariate, MLP(split.identity, outputs, (8, 8), context_features))


# Without examples of their own: an abstract container's, and the dequantizers', which are none.
EXAMPLES: dict[str, Entry] = {
    name: entry
    for cls in dict.fromkeys(subclasses(Bijection))
    for name, entry in described(cls.__name__, cls.examples()).items()
} | {
    f"{cls.__name__} {i}{', context' if context else ''}": Entry(
        partial(univariate_coupling, univariate, context),
        (4,),
        "zero" if cls is Additive else "varying",
        context,
    )
    for cls in subclasses(Univariate)
    for i, univariate in enumerate(cls.examples())
    for context in (0, 2)
}


def checkerboard(kind: str, keep: str, context_features: int = 0) -> Coupling:
    channels = 2 if not context_features and keep == "main" else 1
    if kind == "compact":
        net = ResNet(2 * channels, 4 * channels, 4, context_features, blocks=1)
        return Coupling(CompactCheckerboard(keep), Affine(), net)
    split = MaskedCheckerboard(keep)
    net = ResNet(channels + 1, 2 * channels, 4, context_features, blocks=1)
    return Coupling(split, Affine(), MaskedNetwork(split, net))


def images(**options) -> Chain:
    return ImageRealNVP((1, 4, 4), hidden_channels=4, blocks=1, bits=4, **options).bijection


def glow(**options) -> Chain:
    settings = {"levels": 2, "steps": 2, "hidden_channels": 4, "bits": 4, "margin": 0} | options
    return Glow((1, 4, 4), **settings).bijection


def tarflow(**options) -> Chain:
    settings = {"patch": 2, "blocks": 2, "layers": 1, "hidden_channels": 8, "bits": 4, "margin": 0}
    return TarFlow((1, 4, 4), **(settings | options)).bijection


def jet(**options) -> Chain:
    settings = {"patch": 2, "hidden_channels": 8, "bits": 4, "margin": 0}
    cycle = ("channels", "spatial")
    return Jet((1, 4, 4), **(settings | {"couplings": 4, "cycle": cycle} | options)).bijection


def flowpp(**options) -> Chain:
    settings = {"couplings": (2, 2, 1), "hidden_channels": 4, "bits": 4, "margin": 0} | options
    return FlowPlusPlus((1, 4, 4), **settings).bijection


def pixels(shape, **options) -> Chain:
    return PixelFlow(shape, layers=2, hidden_channels=4, bits=4, **options).bijection


def coupling(keep, features, context_features=0, univariate=None) -> Coupling:
    univariate, split = copy.deepcopy(univariate or Affine()), FeatureSplit(features, keep)
    outputs = univariate.parameters_each * split.transformed
    return Coupling(split, univariate, MLP(split.identity, outputs, (8, 8), context_features))


def factored_out() -> Chain:
    first = Coupling(FeatureSplit(4), Affine(), ConvNet(2, 4, 4))
    inner = Coupling(FeatureSplit(2), Affine(), ConvNet(1, 2, 4))
    return Chain(first, FactorOut((4, 2, 2), Chain(inner, Flatten(2, 2, 2))))


def nested(context_features: int = 0) -> Chain:
    inner = Chain(coupling("second", 3, context_features), Permutation([1, 2, 0]))
    return Chain(
        Standardize(3),
        Inverse(Chain(inner, Scale(3))),
        coupling("first", 3, context_features),
    )


PIXELS = (0.5, 15.5)

COMBINATIONS: dict[str, Entry] = {
    "Inverse coupling": Entry(lambda: Inverse(coupling("first", 3)), (3,)),
    "Inverse Squeeze": Entry(lambda: Inverse(Squeeze(ordered=True)), (4, 2, 1), "zero"),
    "Chain": Entry(
        lambda: Chain(Standardize(3), coupling("first", 3), Permutation([1, 2, 0])), (3,)
    ),
    "nested": Entry(nested, (3,)),
    "nested, context": Entry(lambda: nested(2), (3,), context_features=2),
    "FactorOut": Entry(factored_out, (4, 2, 2)),
    "Glow's coupling": Entry(
        lambda: Coupling(FeatureSplit(3), Affine(), GlowNet(1, 4, 5, context_features=2)),
        (3, 2, 2),
        context_features=2,
        perturbation=0.1,
    ),
    "Glow": Entry(lambda: glow(), (1, 4, 4), perturbation=0.1, interval=PIXELS),
    "Glow, dense, own prior": Entry(
        lambda: glow(lu=False, learned_top_prior=False),
        (1, 4, 4),
        perturbation=0.05,
        interval=PIXELS,
    ),
    "Glow, additive, shuffle": Entry(
        lambda: glow(univariate=Additive(), permutation="shuffle"),
        (1, 4, 4),
        perturbation=0.1,
        interval=PIXELS,
    ),
    "Glow, reverse, context": Entry(
        lambda: glow(permutation="reverse", context=2),
        (1, 4, 4),
        perturbation=0.1,
        interval=PIXELS,
        context_features=2,
    ),
    "image coupling": Entry(
        lambda: checkerboard("compact", "main"), (2, 4, 4), normalizes_batches=True
    ),
    "image coupling, anti": Entry(
        lambda: checkerboard("compact", "anti"), (1, 2, 4), normalizes_batches=True
    ),
    "image coupling, masked": Entry(
        lambda: checkerboard("masked", "main"), (2, 3, 3), normalizes_batches=True
    ),
    "image coupling, masked, anti": Entry(
        lambda: checkerboard("masked", "anti"), (1, 2, 4), normalizes_batches=True
    ),
    "image coupling, context": Entry(
        lambda: checkerboard("compact", "main", 2),
        (1, 4, 4),
        context_features=2,
        normalizes_batches=True,
    ),
    "image coupling, three convolutions": Entry(
        lambda: Coupling(FeatureSplit(3), Affine(), ConvNet(1, 4, 5, 2)),
        (3, 2, 2),
        context_features=2,
    ),
    "ImageRealNVP": Entry(lambda: images(), (1, 4, 4), interval=PIXELS, normalizes_batches=True),
    "ImageRealNVP, masked": Entry(
        lambda: images(checkerboard="masked"), (1, 4, 4), interval=PIXELS, normalizes_batches=True
    ),
    "ImageRealNVP, context": Entry(
        lambda: images(context=2),
        (1, 4, 4),
        interval=PIXELS,
        context_features=2,
        normalizes_batches=True,
    ),
    "ImageRealNVP, channel, additive": Entry(
        lambda: images(mask="channel", univariate=Additive()),
        (1, 4, 4),
        interval=PIXELS,
        normalizes_batches=True,
    ),
    "TarFlow": Entry(lambda: tarflow(), (1, 4, 4), interval=PIXELS, perturbation=0.1),
    "TarFlow, mixtures, context": Entry(
        lambda: tarflow(univariate=MixtureCDF(2), context=2),
        (1, 4, 4),
        interval=PIXELS,
        context_features=2,
        perturbation=0.1,
    ),
    "Jet": Entry(lambda: jet(), (1, 4, 4), interval=PIXELS, perturbation=0.2),
    "Jet, context": Entry(
        lambda: jet(couplings=2, margin=1e-2, context=2),
        (1, 4, 4),
        interval=PIXELS,
        context_features=2,
        perturbation=0.2,
    ),
    "FlowPlusPlus": Entry(lambda: flowpp(), (1, 4, 4), interval=PIXELS, perturbation=0.2),
    "FlowPlusPlus, context": Entry(
        lambda: flowpp(couplings=(1, 2, 0), margin=1e-2, context=2),
        (1, 4, 4),
        interval=PIXELS,
        context_features=2,
        perturbation=0.2,
    ),
    "PixelFlow": Entry(lambda: pixels((1, 2, 3), head="softmax"), (1, 2, 3), interval=PIXELS),
    "PixelFlow, logistics, context": Entry(
        lambda: pixels((2, 2, 2), components=2, context=2),
        (2, 2, 2),
        interval=PIXELS,
        context_features=2,
        # Further off, a cell is nearly certain, and float32 has no digits for a place in its tail.
        perturbation=0.2,
    ),
    "NICE of images": Entry(
        lambda: NICE((1, 2, 3), hidden=(8,), bits=4).bijection,
        (1, 2, 3),
        "constant",
        interval=PIXELS,
    ),
} | {
    f"{type(univariate).__name__} {keep} {features}{', context' if context else ''}": Entry(
        partial(coupling, keep, features, context, univariate),
        (features,),
        "zero" if isinstance(univariate, Additive) else "varying",
        context,
    )
    for univariate in (Additive(), Affine())
    for keep in ("first", "second")
    for features in (4, 5)
    for context in (0, 2)
}

BIJECTIONS = EXAMPLES | COMBINATIONS

MODELS: dict[str, Entry] = (
    {
        f"{name} {type(base).__name__} {features}{', context' if context else ''}": Entry(
            lambda model=model, base=base, features=features, context=context: model(
                features, layers=3, hidden=(8,), base=base, context=context
            ),
            (features,),
            log_det,
            context,
        )
        for name, model, bases, log_det in (
            ("NICE", NICE, (Logistic(), Normal()), "constant"),
            ("RealNVP", RealNVP, (Normal(), Logistic()), "varying"),
        )
        for base in bases
        for features in (2, 3, 5)
        for context in (0, 2)
    }
    | {
        f"TableFlow {features}{', context' if context else ''}": Entry(
            lambda features=features, context=context: TableFlow(
                features, layers=3, hidden=(8,), context=context
            ),
            (features,),
            context_features=context,
            perturbation=0.1,
        )
        for features in (1, 2, 5)
        for context in (0, 2)
    }
    | {
        f"RealNVP {name} 3": Entry(
            lambda base=base: RealNVP(3, layers=2, hidden=(8,), base=base()), (3,)
        )
        for name, base in (
            ("StudentT", StudentT),
            ("StudentT of each", partial(StudentT, shared=False)),
            ("Mixture", partial(Mixture, 4)),
        )
    }
)
MODELS |= {
    f"{model.__name__} {features}{', context' if context else ''}": Entry(
        lambda model=model, features=features, context=context: model(
            features, layers=2, hidden=(8,), context=context
        ),
        (features,),
        "constant" if model in (MAF, IAF) and features == 1 and not context else "varying",
        context,
        perturbation=0.1 if model is TailFlow else 0.2,
    )
    for model, sizes in (
        *((model, (1, 3)) for model in (MAF, IAF, NSF, CouplingNSF, TailFlow)),
        (NAF, (2,)),  # whose inverse takes many small operations
    )
    for features in sizes
    for context in (0, 2)
}

MODELS |= {
    f"{name} {features}{', context' if context else ''}": Entry(
        lambda model=model, features=features, context=context: model(
            features, layers=2, hidden=(8,), context=context
        ),
        (features,),
        context_features=context,
        perturbation=0.4 if name == "PlanarFlow" else 0.2,
        tolerance=tolerance,
    )
    for name, model, tolerance in (
        ("PlanarFlow", PlanarFlow, 0.0),
        ("SylvesterFlow", SylvesterFlow, 0.0),
        ("ResidualFlow", ResidualFlow, 0.0),
        ("ContinuousFlow", partial(ContinuousFlow, rtol=1e-9, atol=1e-9), 1e-6),
    )
    for features, context in ((2, 0), (3, 2))
}

MODELS |= {
    f"CircularNSF {features}{', context' if context else ''}": Entry(
        lambda features=features, context=context: CircularNSF(
            features, layers=2, hidden=(8,), context=context
        ),
        (features,),
        context_features=context,
        interval=(-3.0, 3.0),
    )
    for features, context in ((1, 0), (3, 2))
}

ENTRIES = BIJECTIONS | MODELS


def another(entry: Entry) -> Bijection | Flow:
    """A fresh object of the same shapes, whose numbers differ from those of `ready`."""
    return perturb(copy.deepcopy((entry.other or entry.make)()), -0.2)

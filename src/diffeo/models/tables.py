"""Models of tables: NICE, RealNVP, and TableFlow, which starts from a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from diffeo.bases import Base, Logistic
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain
from diffeo.bijections.coupling import Network, coupling
from diffeo.bijections.dequantization import Dequantizer, PixelDequantize, UniformDequantize
from diffeo.bijections.elementwise import Center, LearnedPrior, Scale, SinhArcsinh, Standardize
from diffeo.bijections.reshape import Flatten, Permutation
from diffeo.bijections.splits import FeatureSplit, NoSplit
from diffeo.bijections.univariate import Additive, Affine, Univariate
from diffeo.bijections.whitening import Whiten
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.networks.constant import Constant
from diffeo.networks.mlp import MLP
from diffeo.utils.ranges import Bits, Count, NonNegative


class NICE(Flow):
    """Non-linear independent components estimation.

        standardize -> (additive coupling) x layers -> scale -> base

    Couplings pass the first and the second half in turn. They preserve volume; only the scaling and
    the standardization change it. Images are flattened, and their even and odd elements are the two
    halves, as in the paper; instead of being standardized they are scaled to [-1/2, 1/2].

    Args:
        features: D of the data `(batch, D)`, at least 2, or (C, H, W) of 8-bit images.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        univariate: the elementwise map of each coupling; by default `Additive()`.
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`).
        base: by default `Logistic()`, as in the paper.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        bits: how many bits of each pixel are modelled, 1 to 8.

    The paper's settings for MNIST are `layers=4, hidden=(1000,) * 5`. A table of few columns needs
    more couplings, since none of them can scale. (Dinh et al. 2014)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Additive(), "base": Logistic()}

    def __init__(
        self,
        features: Count | Sequence[Count],
        layers: Count = 12,
        hidden: Sequence[Count] = (64, 64),
        univariate: Univariate | None = None,
        network: Network = MLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
        bits: Bits = 8,
    ) -> None:
        shape = tuple(features) if isinstance(features, Iterable) else (features,)
        dims = math.prod(shape)
        univariate = univariate or self.defaults["univariate"]
        base = base or self.defaults["base"]
        width = ContextSpec.of(context).width
        entry: list[Bijection] = [Standardize(dims)]
        dequantizer: Dequantizer | None = UniformDequantize(steps) if steps else None
        if len(shape) > 1:
            halves = Permutation([*range(0, dims, 2), *range(1, dims, 2)])
            entry = [Center(2.0**bits), Flatten(*shape), halves]
            dequantizer = PixelDequantize(bits)
        couplings = table_couplings(dims, layers, hidden, univariate, network, width, shuffle=False)
        super().__init__(
            Chain(*entry, *couplings, Scale(dims)),
            shape,
            base=base,
            context=context,
            context_encoder=Standardize(width) if width else None,
            dequantizer=dequantizer,
        )
        self._record(univariate=univariate, base=base)


class RealNVP(Flow):
    """Real-valued non-volume-preserving flow.

        standardize -> (affine coupling) x layers -> base

    Couplings pass the first and the second half in turn; before each new pair of them the features
    are shuffled (from three features on), so that each meets every other.

    Args:
        features: D of the data `(batch, D)`, at least 2.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        univariate: the elementwise map of each coupling; by default `Affine(bound=3.0)`.
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`).
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.

    The settings often used for two-dimensional data are `layers=6, hidden=(256,) * 4`.
    (Dinh et al. 2017)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Affine(3.0)}

    def __init__(
        self,
        features: Count,
        layers: Count = 8,
        hidden: Sequence[Count] = (64, 64),
        univariate: Univariate | None = None,
        network: Network = MLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        width = ContextSpec.of(context).width
        couplings = table_couplings(features, layers, hidden, univariate, network, width)
        super().__init__(**table_parts(features, couplings, base, context, steps))
        self._record(univariate=univariate)


class TableFlow(Flow):
    """A flow for tables that starts from a Gaussian, for small ones.

        standardize -> transform each column -> whiten -> (affine coupling) x layers -> base

    Before the first step of training it is a Gaussian with the covariance of the data, once each
    column has been transformed (`SinhArcsinh`) into the shape of a normal distribution. The
    couplings start as the identity and alternate as in `RealNVP`. With a context the first of them
    transforms all columns, given the context alone. A single column, which no other conditions, has
    one map instead: `univariate`, such as `MixtureCDF()`; by default it is transformed and scaled
    `layers` times.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        univariate: the elementwise map of each coupling; by default `Affine(bound=3.0)`.
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`).
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.

    (Dinh et al. 2017 for the couplings; Jones & Pewsey 2009 for the transformed columns)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Affine(3.0)}

    def __init__(
        self,
        features: Count,
        layers: Count = 8,
        hidden: Sequence[Count] = (64, 64),
        univariate: Univariate | None = None,
        network: Network = MLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
    ) -> None:
        # A single column is mapped by a univariate map that was asked for, or as 0.1.0 did it.
        whole = univariate is not None and features == 1
        univariate = univariate or self.defaults["univariate"]
        width = ContextSpec.of(context).width
        links: list[Bijection] = [SinhArcsinh(features), Whiten(features)]
        if width or whole:
            whole_network = network if width else Constant
            links.append(coupling(NoSplit(features), univariate, whole_network, hidden, width))
        if features == 1 and not whole:
            for _ in range(layers):
                links += [SinhArcsinh(1), LearnedPrior(1, context_features=width)]
        elif features > 1:
            links += table_couplings(features, layers, hidden, univariate, network, width)
        super().__init__(**table_parts(features, links, base, context))
        if features > 1 or whole:
            self._record(univariate=univariate)


def table_parts(
    features: int,
    links: Sequence[Bijection],
    base: Base | None,
    context: ContextSpec | int | None,
    steps: Sequence[float] | None = None,
    entry: Bijection | None = None,
) -> dict[str, Any]:
    """Arguments of `Flow` for a table: context, and rows unless by `entry`, are standardized."""
    width = ContextSpec.of(context).width
    return {
        "bijection": Chain(entry or Standardize(features), *links),
        "shape": features,
        "base": base,
        "context": context,
        "context_encoder": Standardize(width) if width else None,
        "dequantizer": UniformDequantize(steps) if steps else None,
    }


def table_couplings(
    features: int,
    layers: int,
    hidden: Sequence[int],
    univariate: Univariate,
    network: Network,
    context_features: int,
    shuffle: bool = True,
) -> list[Bijection]:
    """Couplings that alternate halves; features are shuffled before each pair but the first."""
    links: list[Bijection] = []
    for i in range(layers):
        if shuffle and i % 2 == 0 and i > 0 and features > 2:
            links.append(Permutation.shuffle(features, seed=i))
        split = FeatureSplit(features, keep="first" if i % 2 == 0 else "second")
        links.append(coupling(split, univariate, network, hidden, context_features))
    return links

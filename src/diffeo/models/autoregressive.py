"""Autoregressive models of tables: MAF, IAF, NSF and NAF; and the NSF of couplings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

from diffeo.bases import Base
from diffeo.bijections.autoregressive import autoregressive
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Inverse
from diffeo.bijections.coupling import Network
from diffeo.bijections.neural import DeepSigmoidal
from diffeo.bijections.spline import RationalQuadraticSpline
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.models.tables import table_couplings, table_parts
from diffeo.networks.masked import MaskedMLP
from diffeo.networks.mlp import MLP
from diffeo.utils.ranges import Count, NonNegative, Seed


class MAF(Flow):
    """Masked autoregressive flow.

        standardize -> (autoregressive map) x layers -> base

    Each feature is mapped given those before it. The order is reversed from layer to layer, or
    shuffled. Densities take one pass of the networks; samples up to D for each layer.

    Args:
        features: D of the data `(batch, D)`. A single one depends on the context alone.
        layers: number of autoregressive maps.
        hidden: widths of the hidden layers of each map's network.
        univariate: the elementwise map of each layer; by default `Affine(bound=3.0)`.
        network: the network of each layer, which takes an order of the features.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        shuffle: a seed, to draw the order of each layer; None reverses it from layer to layer.

    (Papamakarios et al. 2017)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Affine(3.0)}

    def __init__(
        self,
        features: Count,
        layers: Count = 5,
        hidden: Sequence[Count] = (100, 100),
        univariate: Univariate | None = None,
        network: Network = MaskedMLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
        shuffle: Seed | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        links = masked_layers(features, layers, hidden, univariate, network, context, shuffle)
        super().__init__(**table_parts(features, links, base, context, steps))
        self._record(univariate=univariate)


class IAF(Flow):
    """Inverse autoregressive flow: the one to sample from, as in variational inference.

        standardize -> (inverse of an autoregressive map) x layers -> base

    Samples, with their densities (`flow.distribution().rsample_and_log_prob`), take one pass of the
    networks. The density of other points takes up to D passes for each layer.

    Args:
        features: D of the data `(batch, D)`. A single one depends on the context alone.
        layers: number of autoregressive maps.
        hidden: widths of the hidden layers of each map's network.
        univariate: the elementwise map of each layer, from noise to data; by default
            `Affine(bound=3.0)`.
        network: the network of each layer, which takes an order of the features.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        shuffle: a seed, to draw the order of each layer; None reverses it from layer to layer.

    (Kingma et al. 2016)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Affine(3.0)}

    def __init__(
        self,
        features: Count,
        layers: Count = 4,
        hidden: Sequence[Count] = (100, 100),
        univariate: Univariate | None = None,
        network: Network = MaskedMLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
        shuffle: Seed | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        links = masked_layers(features, layers, hidden, univariate, network, context, shuffle)
        inverses = [Inverse(link) for link in links]
        super().__init__(**table_parts(features, inverses, base, context, steps))
        self._record(univariate=univariate)


class NSF(Flow):
    """Neural spline flow, autoregressive: `MAF` with rational-quadratic splines.

        standardize -> (autoregressive map) x layers -> base

    Densities take one pass of the networks; samples up to D for each layer. `CouplingNSF` takes
    one pass for both.

    Args:
        features: D of the data `(batch, D)`. A single one depends on the context alone.
        layers: number of autoregressive maps.
        hidden: widths of the hidden layers of each map's network.
        univariate: the elementwise map of each layer; by default
            `RationalQuadraticSpline(bins=8, bound=3.0)`.
        network: the network of each layer, which takes an order of the features.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        shuffle: a seed, to draw the order of each layer; None reverses it from layer to layer.

    The paper has 10 layers. (Durkan et al. 2019)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": RationalQuadraticSpline(8, 3.0)}

    def __init__(
        self,
        features: Count,
        layers: Count = 5,
        hidden: Sequence[Count] = (128, 128),
        univariate: Univariate | None = None,
        network: Network = MaskedMLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
        shuffle: Seed | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        links = masked_layers(features, layers, hidden, univariate, network, context, shuffle)
        super().__init__(**table_parts(features, links, base, context, steps))
        self._record(univariate=univariate)


class NAF(Flow):
    """Neural autoregressive flow: `MAF` with monotone neural networks.

        standardize -> (autoregressive map) x layers -> base

    Each feature's map is a small network of its own, whose weights follow from the features before
    it. Densities take one pass; samples up to D for each layer, each with an iteration that inverts
    the monotone networks.

    Args:
        features: D of the data `(batch, D)`. A single one depends on the context alone.
        layers: number of autoregressive maps.
        hidden: widths of the hidden layers of each map's network.
        univariate: the elementwise map of each layer; by default
            `DeepSigmoidal(units=8, layers=2)`.
        network: the network of each layer, which takes an order of the features.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        shuffle: a seed, to draw the order of each layer; None reverses it from layer to layer.

    The paper has 5 or 10 layers. (Huang et al. 2018)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": DeepSigmoidal(8, 2)}

    def __init__(
        self,
        features: Count,
        layers: Count = 3,
        hidden: Sequence[Count] = (100, 100),
        univariate: Univariate | None = None,
        network: Network = MaskedMLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
        shuffle: Seed | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        links = masked_layers(features, layers, hidden, univariate, network, context, shuffle)
        super().__init__(**table_parts(features, links, base, context, steps))
        self._record(univariate=univariate)


class CouplingNSF(Flow):
    """Neural spline flow of couplings: `RealNVP` with rational-quadratic splines.

        standardize -> (coupling) x layers -> base

    Densities and samples take one pass of the networks. Couplings alternate as in `RealNVP`. A
    single feature, which no other conditions, is mapped given the context alone.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        univariate: the elementwise map of each coupling; by default
            `RationalQuadraticSpline(bins=8, bound=3.0)`.
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`).
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.

    (Durkan et al. 2019)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": RationalQuadraticSpline(8, 3.0)}

    def __init__(
        self,
        features: Count,
        layers: Count = 10,
        hidden: Sequence[Count] = (64, 64),
        univariate: Univariate | None = None,
        network: Network = MLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        if features == 1:
            links = masked_layers(1, layers, hidden, univariate, MaskedMLP, context)
        else:
            width = ContextSpec.of(context).width
            links = table_couplings(features, layers, hidden, univariate, network, width)
        super().__init__(**table_parts(features, links, base, context, steps))
        self._record(univariate=univariate)


def masked_layers(
    features: int,
    layers: int,
    hidden: Sequence[int],
    univariate: Univariate,
    network: Network,
    context: ContextSpec | int | None,
    shuffle: int | None = None,
) -> list[Bijection]:
    """Autoregressive maps whose orders are reversed from one to the next, or drawn with a seed."""
    source, width = random.Random(shuffle), ContextSpec.of(context).width
    links: list[Bijection] = []
    for i in range(layers):
        order = list(range(features))[:: 1 if i % 2 == 0 else -1]
        if shuffle is not None:  # with `random()` alone, which is the same in all versions
            order = sorted(order, key=lambda _: source.random())
        links.append(autoregressive(univariate, network, features, hidden, width, order))
    return links

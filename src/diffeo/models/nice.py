"""NICE: additive couplings and one learned scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from diffeo.bases import Base, Logistic
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain
from diffeo.bijections.dequantization import Dequantizer, PixelDequantize, UniformDequantize
from diffeo.bijections.elementwise import Center, Scale, Standardize
from diffeo.bijections.permutation import Permutation
from diffeo.bijections.reshape import Flatten
from diffeo.bijections.splits import FeatureSplit
from diffeo.bijections.univariate import Additive, Univariate
from diffeo.context import ContextSpec
from diffeo.flow import Flow
from diffeo.models.common import Network, coupling
from diffeo.networks.mlp import MLP


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
        network: the network of each coupling (see `diffeo.models.common.Network`).
        base: by default `Logistic()`, as in the paper.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        bits: how many bits of each pixel are modelled, 1 to 8.

    The paper's settings for MNIST are `hidden=(1000,) * 5`. (Dinh et al. 2014)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Additive(), "base": Logistic()}

    def __init__(
        self,
        features: int | Sequence[int],
        layers: int = 4,
        hidden: Sequence[int] = (256, 256),
        univariate: Univariate | None = None,
        network: Network = MLP,
        base: Base | None = None,
        context: ContextSpec | int | None = None,
        steps: Sequence[float] | None = None,
        bits: int = 8,
    ) -> None:
        shape = (features,) if isinstance(features, int) else tuple(features)
        dims = math.prod(shape)
        univariate = univariate or self.defaults["univariate"]
        base = base or self.defaults["base"]
        width = ContextSpec.of(context).width
        scale = Scale(dims)
        entry: list[Bijection] = [Standardize(dims)]
        dequantizer: Dequantizer | None = UniformDequantize(steps) if steps else None
        if len(shape) > 1:
            halves = Permutation([*range(0, dims, 2), *range(1, dims, 2)])
            entry = [Center(2.0**bits), Flatten(*shape), halves]
            dequantizer = PixelDequantize(bits)
        couplings = []
        for i in range(layers):
            split = FeatureSplit(dims, keep="first" if i % 2 == 0 else "second")
            couplings.append(coupling(split, univariate, network, hidden, width))
        super().__init__(
            Chain(*entry, *couplings, scale),
            shape,
            base=base,
            context=context,
            context_encoder=Standardize(width) if width else None,
            dequantizer=dequantizer,
        )
        self._record(univariate=univariate, base=base)

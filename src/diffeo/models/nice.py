"""NICE: additive couplings and one learned scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffeo.bijections.base import Bijection, Chain, Dequantizer
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.dequantization import UniformDequantize
from diffeo.bijections.elementwise import Scale, Standardize
from diffeo.bijections.permutation import Permutation
from diffeo.bijections.pixels import Center, PixelDequantize
from diffeo.bijections.reshape import Flatten
from diffeo.bijections.splits import FeatureSplit
from diffeo.bijections.univariate import Additive
from diffeo.flow import Base, Flow
from diffeo.networks.mlp import MLP


class NICE(Flow):
    """Non-linear independent components estimation.

        standardize -> (additive coupling) x layers -> scale -> base

    Couplings keep the first and the second half in turn. They preserve volume; the scaling and the
    standardization alone change it. Pictures are flattened, and their even and odd elements are the
    two halves, as in the paper; instead of standardized they are brought to [-1/2, 1/2].

    Args:
        features: D of the data `(batch, D)`, at least 2, or (C, H, W) of 8-bit pictures.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        base: "logistic" as in the paper, or "normal".
        context_features: width of the context of a conditional density; 0 for none.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        bits: how many bits of each pixel are modelled, 1 to 8.

    The paper's settings for MNIST are `hidden=(1000,) * 5`. (Dinh et al. 2014)
    """

    def __init__(
        self,
        features: int | Sequence[int],
        layers: int = 4,
        hidden: Sequence[int] = (256, 256),
        base: Base = "logistic",
        context_features: int = 0,
        steps: Sequence[float] | None = None,
        bits: int = 8,
    ) -> None:
        shape = (features,) if isinstance(features, int) else tuple(features)
        dims = math.prod(shape)
        scale = Scale(dims)
        entry: list[Bijection] = [Standardize(dims)]
        dequantizer: Dequantizer | None = UniformDequantize(steps) if steps else None
        if len(shape) > 1:
            halves = Permutation([*range(0, dims, 2), *range(1, dims, 2)])
            entry = [Center(2.0**bits), Flatten(*shape), halves]
            dequantizer = PixelDequantize(bits)
        couplings = []
        for i in range(layers):
            cut = FeatureSplit(dims, keep="first" if i % 2 == 0 else "second")
            mlp = MLP(cut.kept, cut.bent, hidden, context_features)
            couplings.append(Coupling(cut, Additive(), mlp))
        super().__init__(
            Chain(*entry, *couplings, scale),
            shape,
            base=base,
            context_features=context_features,
            context_encoder=Standardize(context_features) if context_features else None,
            dequantizer=dequantizer,
        )

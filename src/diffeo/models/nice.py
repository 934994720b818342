"""NICE: additive couplings and one learned scaling."""

from __future__ import annotations

from collections.abc import Sequence

from diffeo.bijections.base import Chain
from diffeo.bijections.bends import Additive
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.cuts import FeatureCut
from diffeo.bijections.dequantization import UniformDequantize
from diffeo.bijections.elementwise import Scale, Standardize
from diffeo.conditioners.mlp import MLP
from diffeo.flow import Base, Flow


class NICE(Flow):
    """Non-linear independent components estimation.

        standardize -> (additive coupling) x layers -> scale -> base

    Couplings keep the first and the second half in turn. They preserve volume; the scaling and the
    standardization alone change it.

    Args:
        features: D of the data `(batch, D)`, at least 2.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        base: "logistic" as in the paper, or "normal".
        context_features: width of the context of a conditional density; 0 for none.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.

    (Dinh et al. 2014)
    """

    def __init__(
        self,
        features: int,
        layers: int = 4,
        hidden: Sequence[int] = (256, 256),
        base: Base = "logistic",
        context_features: int = 0,
        steps: Sequence[float] | None = None,
    ) -> None:
        couplings = []
        for i in range(layers):
            cut = FeatureCut(features, keep="first" if i % 2 == 0 else "second")
            mlp = MLP(cut.kept, cut.bent, hidden, context_features)
            couplings.append(Coupling(cut, Additive(), mlp))
        super().__init__(
            Chain(Standardize(features), *couplings, Scale(features)),
            features,
            base=base,
            context_features=context_features,
            context_encoder=Standardize(context_features) if context_features else None,
            dequantizer=UniformDequantize(steps) if steps else None,
        )

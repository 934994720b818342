"""RealNVP for tables: affine couplings."""

from __future__ import annotations

from collections.abc import Sequence

from diffeo.bijections.base import Bijection, Chain
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.dequantization import UniformDequantize
from diffeo.bijections.elementwise import Standardize
from diffeo.bijections.permutation import Permutation
from diffeo.bijections.splits import FeatureSplit
from diffeo.bijections.univariate import Affine
from diffeo.flow import Base, Flow
from diffeo.networks.mlp import MLP


class RealNVP(Flow):
    """Real-valued non-volume-preserving flow.

        standardize -> (affine coupling) x layers -> base

    Couplings keep the first and the second half in turn; before each new pair of them the features
    are shuffled (from three features on), so that each meets every other.

    Args:
        features: D of the data `(batch, D)`, at least 2.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        bound: the largest |log scale| of one coupling (see `Affine`).
        base: "normal" or "logistic".
        context_features: width of the context of a conditional density; 0 for none.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.

    The settings often used for two-dimensional data are `layers=6, hidden=(256,) * 4`.
    (Dinh et al. 2017)
    """

    def __init__(
        self,
        features: int,
        layers: int = 8,
        hidden: Sequence[int] = (64, 64),
        bound: float = 3.0,
        base: Base = "normal",
        context_features: int = 0,
        steps: Sequence[float] | None = None,
    ) -> None:
        couplings = affine_couplings(features, layers, hidden, bound, context_features)
        super().__init__(
            Chain(Standardize(features), *couplings),
            features,
            base=base,
            context_features=context_features,
            context_encoder=Standardize(context_features) if context_features else None,
            dequantizer=UniformDequantize(steps) if steps else None,
        )


def affine_couplings(
    features: int, layers: int, hidden: Sequence[int], bound: float, context_features: int
) -> list[Bijection]:
    """Affine couplings of events `(batch, features)`, shuffled as `RealNVP` says; see there."""
    links: list[Bijection] = []
    for i in range(layers):
        if i % 2 == 0 and i > 0 and features > 2:
            links.append(Permutation.shuffle(features, seed=i))
        cut = FeatureSplit(features, keep="first" if i % 2 == 0 else "second")
        bend = Affine(bound)
        outputs = bend.parameters_each * cut.bent
        links.append(Coupling(cut, bend, MLP(cut.kept, outputs, hidden, context_features)))
    return links

"""RealNVP for tables: affine couplings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from diffeo.bases import Base
from diffeo.bijections.chain import Chain
from diffeo.bijections.dequantization import UniformDequantize
from diffeo.bijections.elementwise import Standardize
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.context import ContextSpec
from diffeo.flow import Flow
from diffeo.models.common import Network, table_couplings
from diffeo.networks.mlp import MLP


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
        network: the network of each coupling (see `diffeo.models.common.Network`).
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.

    The settings often used for two-dimensional data are `layers=6, hidden=(256,) * 4`.
    (Dinh et al. 2017)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": Affine(3.0)}

    def __init__(
        self,
        features: int,
        layers: int = 8,
        hidden: Sequence[int] = (64, 64),
        univariate: Univariate | None = None,
        network: Network = MLP,
        base: Base | None = None,
        context: ContextSpec | int | None = None,
        steps: Sequence[float] | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        width = ContextSpec.of(context).width
        couplings = table_couplings(features, layers, hidden, univariate, network, width)
        super().__init__(
            Chain(Standardize(features), *couplings),
            features,
            base=base,
            context=context,
            context_encoder=Standardize(width) if width else None,
            dequantizer=UniformDequantize(steps) if steps else None,
        )
        self._record(univariate=univariate)

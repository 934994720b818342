"""TailFlow: a flow of splines for columns with heavy tails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from diffeo.bases import Base
from diffeo.bijections.coupling import Network
from diffeo.bijections.spline import RationalQuadraticSpline
from diffeo.bijections.tails import TailTransform
from diffeo.bijections.univariate import Univariate
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.models.autoregressive import masked_layers
from diffeo.models.tables import table_parts
from diffeo.networks.masked import MaskedMLP
from diffeo.utils.ranges import Count, NonNegative


class TailFlow(Flow):
    """Tail transform flow: `NSF` on columns whose power-law tails are made normal first.

        tail transform -> (autoregressive map) x layers -> base

    For columns such as losses, incomes or waiting times, whose largest values are far from all
    others and belong to the data: the other models compress them, and draw too few of them.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of autoregressive maps.
        hidden: widths of the hidden layers of each map's network.
        univariate: the elementwise map of each layer; by default
            `RationalQuadraticSpline(bins=8, bound=3.0)`.
        network: the network of each layer, which takes an order of the features.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.

    (Hickling & Prangle 2024)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": RationalQuadraticSpline(8, 3.0)}

    def __init__(
        self,
        features: Count,
        layers: Count = 3,
        hidden: Sequence[Count] = (64, 64),
        univariate: Univariate | None = None,
        network: Network = MaskedMLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        links = masked_layers(features, layers, hidden, univariate, network, context)
        entry = TailTransform(features)
        super().__init__(**table_parts(features, links, base, context, steps, entry))
        self._record(univariate=univariate)

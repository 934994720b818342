"""CircularNSF: a flow of splines for angles, whose density has no seam."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from diffeo.bases import Uniform
from diffeo.bijections.circular import CircularSpline, ToCircle
from diffeo.bijections.coupling import Network
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.models.autoregressive import masked_layers
from diffeo.models.tables import table_couplings, table_parts
from diffeo.networks.masked import MaskedMLP
from diffeo.networks.mlp import MLP
from diffeo.networks.periodic import Periodic
from diffeo.utils.ranges import Count, NonNegative, Positive


class CircularNSF(Flow):
    """Neural spline flow on the circle or the torus: each feature is an angle.

        to the circle -> (coupling) x layers -> uniform base

    For directions, dihedral angles, hours of the day. Splines map the circle onto itself, and
    their networks see cosines and sines, so the density is as smooth where an angle comes round as
    elsewhere. Angles that differ by whole periods are one point. Samples lie in
    [-period / 2, period / 2), or in [0, period) where the data do. Densities and samples take one
    pass of the networks. A single feature is mapped given the context alone.

    Args:
        features: D of the data `(batch, D)`, all of them angles.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        univariate: the map of each coupling; by default `CircularSpline(bins=8)`.
        network: the network of each coupling (see `diffeo.bijections.coupling.Network`), which gets
            cosines and sines.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        period: of all features: 2 pi for radians, 360 for degrees, 24 for hours.

    The base is `Uniform(pi)`: any other would have a seam.

    Raises:
        ValueError: if the univariate map is none of the circle [-pi, pi).

    (Rezende et al. 2020)
    """

    defaults: ClassVar[dict[str, Any]] = {"univariate": CircularSpline(8)}

    def __init__(
        self,
        features: Count,
        layers: Count = 6,
        hidden: Sequence[Count] = (64, 64),
        univariate: CircularSpline | None = None,
        network: Network = MLP,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
        period: Positive = 2 * math.pi,
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        if univariate.bound != math.pi:
            raise ValueError(
                f"the bound of the univariate map is {univariate.bound:g}, and that of angles in "
                "radians is pi: leave it out."
            )
        if features == 1:
            links = masked_layers(1, layers, hidden, univariate, MaskedMLP, context)
        else:
            width = ContextSpec.of(context).width
            angles = functools.partial(Periodic, network=network)
            links = table_couplings(features, layers, hidden, univariate, angles, width)
        base, entry = Uniform(math.pi), ToCircle(features, period)
        super().__init__(**table_parts(features, links, base, context, steps, entry))
        self._record(univariate=univariate)

"""Models whose Jacobian has no structure: planar, Sylvester, residual and continuous flows."""

from __future__ import annotations

from collections.abc import Sequence

from diffeo.bases import Base
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Inverse
from diffeo.bijections.continuous import Continuous
from diffeo.bijections.coupling import Network
from diffeo.bijections.elementwise import Scale
from diffeo.bijections.planar import Planar
from diffeo.bijections.residual import Residual
from diffeo.bijections.sylvester import Sylvester
from diffeo.context import ContextSpec, Width
from diffeo.flow import Flow
from diffeo.models.tables import table_parts
from diffeo.networks.mlp import MLP
from diffeo.networks.smooth import LipschitzMLP, SmoothMLP
from diffeo.utils.ranges import Count, NonNegative, Positive, Whole


class PlanarFlow(Flow):
    """Planar flow, for variational inference: samples are cheap, with their densities.

        standardize -> (inverse of a planar map) x layers -> base

    The density of other points solves an equation in one dimension for each layer.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of planar maps.
        hidden: widths of the hidden layers of each network, of the context.
        network: computes the parameters of each layer from the context, if there is one.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.

    (Rezende & Mohamed 2015, which has 2 to 32 layers)
    """

    def __init__(
        self,
        features: Count,
        layers: Count = 16,
        hidden: Sequence[Count] = (64, 64),
        network: Network = MLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
    ) -> None:
        width = ContextSpec.of(context).width
        links: list[Bijection] = []
        for _ in range(layers):
            conditioner = network(0, 2 * features + 1, hidden, width) if width else None
            links.append(Inverse(Planar(features, conditioner)))
        super().__init__(**table_parts(features, links, base, context, steps))


class SylvesterFlow(Flow):
    """Sylvester flow, for variational inference: samples are cheap, with their densities.

        standardize -> (inverse of a Sylvester map) x layers -> base

    The density of other points solves an equation in one dimension for each direction and layer.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of Sylvester maps.
        directions: how many each of them moves along, at most D; by default D, but at most 16.
        reflections: how many make the directions of each orthogonal.
        hidden: widths of the hidden layers of each network, of the context.
        network: computes the parameters of each layer from the context, if there is one.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.

    (van den Berg et al. 2018, which has 4 to 16 layers)
    """

    def __init__(
        self,
        features: Count,
        layers: Count = 4,
        directions: Count | None = None,
        reflections: Count = 8,
        hidden: Sequence[Count] = (64, 64),
        network: Network = MLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
    ) -> None:
        width = ContextSpec.of(context).width
        directions = directions or min(features, 16)
        outputs = Sylvester.count(features, directions, reflections)
        links: list[Bijection] = []
        for _ in range(layers):
            conditioner = network(0, outputs, hidden, width) if width else None
            links.append(Inverse(Sylvester(features, directions, reflections, conditioner)))
        super().__init__(**table_parts(features, links, base, context, steps))
        self._record(directions=directions)


class ResidualFlow(Flow):
    """Residual flow: all features change at once, by contractions.

        standardize -> (residual map -> scale) x layers -> base

    Densities are exact up to 16 features, and unbiased estimates above (see `Residual`). A sample
    repeats each network until its equation is solved.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of residual maps.
        hidden: widths of the hidden layers of each map's network.
        network: of each layer, with a Lipschitz constant below 1.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        exact_up_to: the largest number of features with an exact density.

    The paper's settings for two-dimensional data are `layers=100, hidden=(128,) * 4`.
    (Behrmann et al. 2019; Chen et al. 2019)
    """

    def __init__(
        self,
        features: Count,
        layers: Count = 8,
        hidden: Sequence[Count] = (64, 64),
        network: Network = LipschitzMLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
        exact_up_to: Whole = 16,
    ) -> None:
        width = ContextSpec.of(context).width
        links: list[Bijection] = []
        for i in range(layers):
            made = network(features, features, hidden, width)
            links += [Residual(made, exact_up_to, seed=i), Scale(features)]
        super().__init__(**table_parts(features, links, base, context, steps))


class ContinuousFlow(Flow):
    """Continuous flow: data follow a learned velocity field to noise.

        standardize -> (continuous map) x layers -> base

    Densities are exact, up to the tolerances, up to 16 features; above, they are unbiased estimates
    (see `Continuous`). Needs `diffeo[ode]`.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of continuous maps.
        hidden: widths of the hidden layers of each map's network.
        network: the field of each layer, smooth.
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.
        steps: step of each feature's grid, to dequantize rounded columns; 0 for a continuous one.
        rtol: error of a step of the solver, relative to x.
        atol: absolute error of a step, in units of x.
        exact_up_to: the largest number of features with an exact density.

    (Chen et al. 2018; Grathwohl et al. 2019, which has tolerances of 1e-5 and 1 to 5 layers)
    """

    def __init__(
        self,
        features: Count,
        layers: Count = 1,
        hidden: Sequence[Count] = (64, 64, 64),
        network: Network = SmoothMLP,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        steps: Sequence[NonNegative] | None = None,
        rtol: Positive = 1e-5,
        atol: Positive = 1e-5,
        exact_up_to: Whole = 16,
    ) -> None:
        width = ContextSpec.of(context).width
        links: list[Bijection] = [
            Continuous(
                network(features + 1, features, hidden, width), rtol, atol, exact_up_to, seed=i
            )
            for i in range(layers)
        ]
        super().__init__(**table_parts(features, links, base, context, steps))

"""TableFlow: a Gaussian with transformed marginals, and couplings on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from diffeo.bases import Base
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain
from diffeo.bijections.elementwise import LearnedPrior, SinhArcsinh, Standardize
from diffeo.bijections.splits import NoSplit
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.bijections.whitening import Whiten
from diffeo.context import ContextSpec
from diffeo.flow import Flow
from diffeo.models.common import Network, coupling, table_couplings
from diffeo.networks.mlp import MLP


class TableFlow(Flow):
    """A flow for tables that starts from a Gaussian, for small ones.

        standardize -> transform each column -> whiten -> (affine coupling) x layers -> base

    Before the first step of training it is a Gaussian with the covariance of the data, once each
    column has been transformed (`SinhArcsinh`) into the shape of a normal distribution. The
    couplings start as the identity and alternate as in `RealNVP`. With a context the first of them
    transforms all columns, given the context alone. A single column, which no other conditions, is
    transformed and scaled `layers` times instead.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        univariate: the elementwise map of each coupling; by default `Affine(bound=3.0)`.
        network: the network of each coupling (see `diffeo.models.common.Network`).
        base: by default `Normal()`.
        context: of a conditional density: a `ContextSpec`, or how many numbers there are.

    (Dinh et al. 2017 for the couplings; Jones & Pewsey 2009 for the transformed columns)
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
    ) -> None:
        univariate = univariate or self.defaults["univariate"]
        width = ContextSpec.of(context).width
        links: list[Bijection] = [Standardize(features), SinhArcsinh(features), Whiten(features)]
        if width:
            links.append(coupling(NoSplit(features), univariate, network, hidden, width))
        if features == 1:
            for _ in range(layers):
                links += [SinhArcsinh(1), LearnedPrior(1, context_features=width)]
        else:
            links += table_couplings(features, layers, hidden, univariate, network, width)
        super().__init__(
            Chain(*links),
            features,
            base=base,
            context=context,
            context_encoder=Standardize(width) if width else None,
        )
        self._record(univariate=univariate)

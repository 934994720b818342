"""TableFlow: a Gaussian with bent marginals, and couplings on top of it."""

from __future__ import annotations

from collections.abc import Sequence

from diffeo.bijections.base import Bijection, Chain
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.elementwise import LearnedPrior, Standardize
from diffeo.bijections.sinh_arcsinh import SinhArcsinh
from diffeo.bijections.splits import NoSplit
from diffeo.bijections.univariate import Affine
from diffeo.bijections.whitening import Whiten
from diffeo.flow import Flow
from diffeo.models.realnvp import affine_couplings
from diffeo.networks.mlp import MLP


class TableFlow(Flow):
    """A flow for tables that starts from what is known of small ones.

        standardize -> bend each column -> whiten -> (affine coupling) x layers -> base

    Before the first step of training it is a Gaussian with the covariance of the data, once each
    column has been bent (`SinhArcsinh`) into the shape of a normal distribution. The couplings
    start as the identity and alternate as in `RealNVP`. With a context the first of them bends all
    columns by the context alone. A single column, which has no other to steer it, is bent and
    scaled `layers` times instead.

    Args:
        features: D of the data `(batch, D)`.
        layers: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        bound: the largest |log scale| of one coupling (see `Affine`).
        context_features: width of the context of a conditional density; 0 for none.

    (Dinh et al. 2017 for the couplings; Jones & Pewsey 2009 for the bends)
    """

    def __init__(
        self,
        features: int,
        layers: int = 8,
        hidden: Sequence[int] = (64, 64),
        bound: float = 3.0,
        context_features: int = 0,
    ) -> None:
        links: list[Bijection] = [Standardize(features), SinhArcsinh(features), Whiten(features)]
        if context_features:
            mlp = MLP(0, 2 * features, hidden, context_features)
            links.append(Coupling(NoSplit(features), Affine(bound), mlp))
        if features == 1:
            for _ in range(layers):
                links += [SinhArcsinh(1), LearnedPrior(1, context_features=context_features)]
        else:
            links += affine_couplings(features, layers, hidden, bound, context_features)
        super().__init__(
            Chain(*links),
            features,
            context_features=context_features,
            context_encoder=Standardize(context_features) if context_features else None,
        )

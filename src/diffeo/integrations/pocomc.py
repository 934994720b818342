"""A flow for pocoMC, which takes those of zuko: `Sampler(..., flow=zuko_flow(n_dim))`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from diffeo.flow import Flow
from diffeo.integrations.making import FirstBatch, check_normal, make_flow, missing
from diffeo.models import NSF
from diffeo.utils.ranges import Count, checked

try:
    import zuko
except ImportError:
    raise missing("zuko", "pocomc") from None

Map: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


@checked
def zuko_flow(features: Count, flow: Callable[..., Flow] = NSF, **options: Any) -> zuko.flows.Flow:
    """A flow in zuko's form, onto its standard normal distribution.

    Args:
        features: number of dimensions.
        flow: a class such as `diffeo.NSF`, or a function that takes features.
        options: of the class, such as `layers` and `hidden`.

    The first batch of the first training standardizes it.

    Raises:
        ValueError: if the class has no such option, or its base is not normal.
    """
    made = check_normal(make_flow(flow, features, options), "pocoMC")
    base = zuko.flows.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(features), torch.ones(features), buffer=True
    )
    return zuko.flows.Flow(LazyFlow(made), base)


class LazyFlow(zuko.flows.LazyTransform):
    """A flow's bijection, as zuko's flows ask for it.

    Args:
        flow: from data to noise.
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self._standardize = FirstBatch(flow)

    def forward(self, c: Tensor | None = None) -> Transform:
        """The map from data to noise; there is no context c.

        Raises:
            ValueError: if there is one.
        """
        if c is not None:
            raise ValueError("this flow takes no context: leave it out.")
        return _Map(self._forward, self.flow.invert)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._standardize(x)
        return self.flow.bijection(x)


class _Map(Transform):
    """Two maps `(n, features)`, each with its log-determinant, that undo each other."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, there: Map, back: Map) -> None:
        super().__init__()
        self._there, self._back = there, back

    @property
    def inv(self) -> _Map:
        return _Map(self._back, self._there)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = self._there(x.reshape(-1, x.shape[-1]))
        return y.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]

    def __call__(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

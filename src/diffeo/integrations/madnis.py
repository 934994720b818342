"""A flow on the unit cube, for integrals by importance sampling: `Integrator(..., flow=...)`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffeo.flow import Flow
from diffeo.integrations.making import make_flow
from diffeo.models import CouplingNSF
from diffeo.utils.ranges import Count, checked


class UnitCubeFlow(nn.Module):
    """A density on [0, 1]^d, as madnis samples and trains it.

        x = Phi(y),   log q(x) = log p(y) + d/2 log 2 pi + sum(y^2) / 2

    with y of a flow, and Phi the distribution function of a standard normal. It starts as the
    uniform density where the flow starts as the identity, as those of diffeo's models do that are
    not standardized. An integral is the mean of f(x) / q(x).

    Args:
        dims: d.
        flow: a class such as `diffeo.CouplingNSF`, or a function that takes features.
        options: of the class, such as `layers` and `hidden`.

    Channels are not supported. The outermost 1e-7 of each side, in float32, are one point.

    Raises:
        ValueError: if the class has no such option.

    (Müller et al. 2019; Heimel et al. 2023)
    """

    @checked
    def __init__(
        self, dims: Count, flow: Callable[..., Flow] = CouplingNSF, **options: Any
    ) -> None:
        super().__init__()
        self.flow: Flow = make_flow(flow, dims, options)

    def sample(
        self,
        n: int,
        c: Tensor | None = None,
        channel: Any = None,
        return_log_prob: bool = False,
        return_prob: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """Draw n points `(n, d)`; on demand `(x, log q(x), q(x))`, each `(n,)`."""
        _refuse(c, channel)
        z = self.flow.noise(n)
        y, log_det = self.flow.invert(z)
        log_prob = self.flow.base.log_prob(z) - log_det - _log_normal(y)
        x = torch.special.ndtr(y)
        found = [log_prob] * return_log_prob + [log_prob.exp()] * return_prob
        return (x, *found) if found else x

    def log_prob(self, x: Tensor, c: Tensor | None = None, channel: Any = None) -> Tensor:
        """Log-density of points x `(n, d)`: `(n,)`, in nats."""
        _refuse(c, channel)
        edge = torch.finfo(x.dtype).eps
        y = torch.special.ndtri(x.clamp(edge, 1 - edge))
        return self.flow.log_prob(y) - _log_normal(y)

    def prob(self, x: Tensor, c: Tensor | None = None, channel: Any = None) -> Tensor:
        """Density of points x `(n, d)`: `(n,)`."""
        return self.log_prob(x, c, channel).exp()


def _log_normal(y: Tensor) -> Tensor:
    return -(y.square().sum(1) + y.shape[1] * math.log(2 * math.pi)) / 2


def _refuse(c: Tensor | None, channel: Any) -> None:
    if c is not None or channel is not None:
        raise ValueError("this density has no context and no channels: leave them out.")

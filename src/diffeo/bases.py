"""The densities of noise that flows map data onto: independent and equal in each dimension."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from diffeo.utils.config import Configurable


class Base(Configurable, nn.Module, ABC):
    """The density of z `(batch, dims)`."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z `(batch, dims)`: `(batch,)`, in nats."""

    @abstractmethod
    def sample(self, n: int, dims: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw `(n, dims)` of the dtype of `like`, on its device or on that of the generator."""


class Normal(Base):
    """Standard normal.

    log p(z) = -1/2 sum(z^2 + log 2 pi)
    """

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))

    def sample(self, n: int, dims: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        return _empty(n, dims, like, generator).normal_(generator=generator)


class Logistic(Base):
    """Standard logistic, the base of NICE.

        log p(z) = -sum(log(1 + e^z) + log(1 + e^-z))

    (Dinh et al. 2014, section 3.4)
    """

    def log_prob(self, z: Tensor) -> Tensor:
        return -(F.softplus(z) + F.softplus(-z)).sum(1)

    def sample(self, n: int, dims: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        u = _empty(n, dims, like, generator).uniform_(generator=generator)
        # The inverse of the distribution function, clamped off 0 and 1, where it is infinite.
        return u.clamp_(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps).logit()


def _empty(n: int, dims: int, like: Tensor, generator: Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.empty(n, dims, dtype=like.dtype, device=device)

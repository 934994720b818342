"""The densities of noise that flows map data onto: simple ones, fixed or learned."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from diffeo.utils.config import Configurable
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Count, Positive, Proportion, Range

# Degrees of freedom: below, draws leave the range of float32; above, it is a normal distribution.
FEWEST, MOST = 0.5, 10_000.0
Degrees = Annotated[float, Range(FEWEST, MOST, above=True, below=True)]
FAR = 1e6  # from here on log(1 + u^2) is 2 log u to float precision, and u^2 may overflow


class Base(Configurable, nn.Module, ABC):
    """The density of z `(batch, dims)`.

    Attributes:
        reparametrized: whether gradients of draws reach all that is learned.
    """

    reparametrized = True

    def prepare(self, dims: int) -> None:
        """Make what is learned for each of `dims` dimensions; every flow calls this once."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z `(batch, dims)`: `(batch,)`, in nats."""

    @abstractmethod
    def sample(self, n: int, dims: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw `(n, dims)` of the dtype of `like`, on its device or on that of the generator."""

    def scaled(self, z: Tensor, temperature: float) -> Tensor:
        """Draws z at a temperature: spread around the mode by this factor more.

        Raises:
            ValueError: if this base has no temperature.
        """
        return z * temperature

    def marginal(self, z: Tensor) -> Tensor:
        """Log-density of one dimension, or the mean density of all, at z `(n,)`: `(n,)`."""
        return self.log_prob(z[:, None])


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
        return _uniform(n, dims, like, generator).logit()


class Uniform(Base):
    """Uniform from -bound to bound, for bijections onto that interval.

        log p(z) = -dims log(2 bound) if all |z| <= bound, else -inf

    Args:
        bound: half of the width; pi for angles.
    """

    def __init__(self, bound: Positive = 1.0) -> None:
        super().__init__()
        self.bound: float = float(bound)

    def log_prob(self, z: Tensor) -> Tensor:
        inside = (z.abs() <= self.bound).all(1)
        # With a graph, and NaN where z is.
        constant = (z * 0.0).sum(1) - z.shape[1] * math.log(2 * self.bound)
        return torch.where(inside | z.isnan().any(1), constant, -math.inf)

    def sample(self, n: int, dims: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        return (2 * _uniform(n, dims, like, generator) - 1) * self.bound

    def scaled(self, z: Tensor, temperature: float) -> Tensor:
        """Draws z at a temperature of at most 1: beyond, the density of some would be 0."""
        if temperature > 1:
            raise ValueError(
                f"the temperature is {temperature:g}, and draws of a Uniform base have none above "
                "1, where they would leave the interval: choose one from 0 to 1."
            )
        return z * temperature


class StudentT(Base):
    """Student's t, for heavy tails, with learned degrees of freedom.

        log p(z) = sum(c(nu) - (nu + 1) / 2 log(1 + z^2 / nu))
        c(nu) = log G((nu + 1) / 2) - log G(nu / 2) - 1/2 log(pi nu),   G the gamma function

    They stay between 0.5, below which draws leave the range of float32, and 10,000.

    Args:
        degrees: nu, at the start; the moments below it exist.
        shared: whether all dimensions have the same, or each its own.

    (Alexanderson & Henter 2020; draws: Bailey 1994)
    """

    def __init__(self, degrees: Degrees = 5.0, shared: bool = True) -> None:
        super().__init__()
        self.shared = shared
        share = math.log(degrees / FEWEST) / math.log(MOST / FEWEST)
        self.raw: nn.Parameter = nn.Parameter(torch.tensor([math.log(share / (1 - share))]))

    def prepare(self, dims: int) -> None:
        if not self.shared and len(self.raw) != dims:
            _check_first(self, len(self.raw) == 1, len(self.raw), dims)
            self.raw = nn.Parameter(self.raw.detach().repeat(dims))

    @property
    def degrees(self) -> Tensor:
        """nu, `(1,)` or `(dims,)`."""
        return FEWEST * (math.log(MOST / FEWEST) * self.raw.sigmoid()).exp()

    def log_prob(self, z: Tensor) -> Tensor:
        return self._log_probs(z).sum(1)

    def marginal(self, z: Tensor) -> Tensor:
        """See `Base.marginal`."""
        return self._log_probs(z[:, None]).logsumexp(1) - math.log(len(self.raw))

    def _log_probs(self, z: Tensor) -> Tensor:
        """The log-density of each element of z `(n, dims)`."""
        nu = self.degrees
        # In the widest floats: the gammas of many degrees differ in their last digits.
        wide = nu.to(widest(nu.device))
        constant = ((wide + 1) / 2).lgamma() - (wide / 2).lgamma() - 0.5 * (math.pi * wide).log()
        u = z / nu.sqrt()
        log_one_plus_square = torch.log1p(u.clamp(-FAR, FAR).square()) + 2 * (
            (u.abs() / FAR).clamp(min=1.0).log()
        )
        return constant.to(nu.dtype) - (nu + 1) / 2 * log_one_plus_square

    def sample(self, n: int, dims: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        u, v = (_uniform(n, dims, like, generator) for _ in range(2))
        nu, u = self.degrees.to(u.device), u.clamp(min=torch.finfo(u.dtype).eps / 4)
        # The length and the angle of a bivariate t, of which one coordinate is taken.
        return (nu * torch.expm1(-2 / nu * u.log())).sqrt() * (2 * math.pi * v).cos()


class Mixture(Base):
    """A learned mixture of normal distributions with diagonal covariances.

        log p(z) = log sum_k w_k prod_i N(z_i; m_ki, s_ki^2)

    Its modes may stand apart, which a bijection of one normal joins by thin bridges. At the start
    the means are drawn at random, so that mean and variance of the whole are near 0 and 1.

    Args:
        components: their number.
        scale: s at the start.

    (Izmailov et al. 2020, Stimper et al. 2022)
    """

    reparametrized = False  # draws choose a component

    def __init__(
        self,
        components: Count = 8,
        scale: Proportion = 0.6,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.logits: nn.Parameter = nn.Parameter(torch.zeros(components))
        self.means: nn.Parameter = nn.Parameter(torch.empty(components, 0))
        self.log_scales: nn.Parameter = nn.Parameter(torch.empty(components, 0))

    def prepare(self, dims: int) -> None:
        if self.means.shape[1] != dims:
            _check_first(self, not self.means.shape[1], self.means.shape[1], dims)
            means = torch.randn(len(self.logits), dims) * math.sqrt(1 - self.scale**2)
            self.means = nn.Parameter(means)
            self.log_scales = nn.Parameter(torch.full_like(means, math.log(self.scale)))

    def log_prob(self, z: Tensor) -> Tensor:
        terms = self._log_probs(z[:, None])
        return (self.logits.log_softmax(0) + terms.sum(2)).logsumexp(1)

    def marginal(self, z: Tensor) -> Tensor:
        """See `Base.marginal`."""
        terms = self.logits.log_softmax(0)[:, None] + self._log_probs(z[:, None, None])
        return terms.flatten(1).logsumexp(1) - math.log(self.means.shape[1])

    def _log_probs(self, z: Tensor) -> Tensor:
        """The log-density of each element under each component, of z `(n, 1, dims)`."""
        u = (z - self.means) * (-self.log_scales).exp()
        return -0.5 * (u * u + math.log(2 * math.pi)) - self.log_scales

    @torch.no_grad()
    def sample(self, n: int, dims: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        z = _empty(n, dims, like, generator).normal_(generator=generator)
        weights = self.logits.softmax(0).to(z.device)
        k = _choose(weights, n, generator)
        return z * self.log_scales.to(z.device)[k].exp() + self.means.to(z.device)[k]

    def scaled(self, z: Tensor, temperature: float) -> Tensor:
        """Draws z, each of which spreads around the mean of its most likely component."""
        terms = self.logits + self._log_probs(z[:, None]).sum(2)
        means = self.means[terms.argmax(1)].detach()
        return means + (z - means) * temperature if temperature != 1 else z


def _check_first(base: Base, first: bool, before: int, dims: int) -> None:
    """Refuse a base that another flow has prepared."""
    if not first:
        raise ValueError(
            f"this {type(base).__name__} has learned parameters for {before} dimensions, and the "
            f"flow has {dims}: give each flow a base of its own."
        )


def _choose(weights: Tensor, n: int, generator: Generator | None) -> Tensor:
    """Draws of an index, with these probabilities."""
    u = torch.empty(n, dtype=weights.dtype, device=weights.device).uniform_(generator=generator)
    return torch.searchsorted(weights.cumsum(0)[:-1].contiguous(), u, right=True)


def _empty(n: int, dims: int, like: Tensor, generator: Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.empty(n, dims, dtype=like.dtype, device=device)


def _uniform(n: int, dims: int, like: Tensor, generator: Generator | None) -> Tensor:
    """Draws from (0, 1): clamped off the ends, where quantiles are infinite."""
    u = _empty(n, dims, like, generator).uniform_(generator=generator)
    return u.clamp_(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps)

"""The distribution function of a mixture: a univariate map that can have several modes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist

import torch
from torch import Tensor

from diffeo.bijections.expectation import fit_gaussians
from diffeo.bijections.mixture_fused import LOG_SCALE, Fused
from diffeo.bijections.quantiles import NOISE, LogisticNoise, Noise, Shape
from diffeo.bijections.roots import invert
from diffeo.bijections.univariate import Univariate
from diffeo.utils.fused import call
from diffeo.utils.ranges import Count

OVERLAP = 0.6  # scale of the components at the start, in units of that of the whole
NARROWEST = 0.02  # component that EM makes, in spreads of the column


class MixtureCDF(Univariate):
    """The quantile of noise that has the probability of x under a mixture.

        F(x) = sum_k w_k G((x - m_k) / s_k),   y = G^-1(F(x)),   dy/dx = F'(x) / g(y)

    where G is the distribution function of the noise and of the components: with a base of this
    noise, x is a draw from the mixture. Computed in log space in the smaller tail, so it is exact
    where F rounds to 0 or 1; far out it is linear. The inverse is Newton's method in the bracket of
    the components' own quantiles m_k + s_k y, with the gradients of the implicit function.

    Parameters of an element: K log-weights before a softmax, K changes of means, and K changes of
    log-scales, bounded by 5. Parameters of zero are a mixture near to the noise itself, whose means
    lie apart so that components can learn different things.

    Args:
        components: their number K; an element has 3 K parameters.
        shape: of the components and of the noise; choose that of the base.

    (Ho et al. 2019, for logistic components)
    """

    cheap_inverse = False

    def __init__(self, components: Count = 8, shape: Shape = "normal") -> None:
        super().__init__()
        self.components = components
        self.noise: Noise = NOISE[shape]
        self.parameters_each: int = 3 * components
        self.places: list[float]
        self.scale: float
        self.places, self.scale = first_components(components, self.noise)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        # Feature by feature in memory: all loops over events are then long.
        given, raw = x.transpose(0, 1), self._by_parameter(x, parameters).transpose(2, 3)
        if isinstance(self.noise, LogisticNoise) and x.dtype == raw.dtype:
            given, raw = given.contiguous(), raw.contiguous()
            y, log_slope = call(Fused, MixtureCDF.plain, self, given, raw)
        else:
            y, log_slope = self.plain(given, raw)
        return y.transpose(0, 1), log_slope.transpose(0, 1).flatten(1).sum(1)

    def plain(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(y, log dy/dx) of elements x, with raw parameters `(3, K, *x.shape)`."""
        return self._scores(x, *self._from_raw(raw))

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_w, mean, log_s = self._mixture(y, parameters)
        quantiles = mean.detach() + log_s.detach().exp() * y.detach()
        start = (log_w.detach().exp() * quantiles).sum(0)

        def scores(x: Tensor) -> tuple[Tensor, Tensor]:
            return self._scores(x, log_w, mean, log_s)

        x = invert(scores, y, quantiles.amin(0), quantiles.amax(0), start)
        return x, -scores(x)[1].flatten(1).sum(1)

    @torch.no_grad()
    def fit(self, x: Tensor) -> Tensor:
        """Parameters `(parameters_each * n,)` from data x `(batch, n)`: those of a mixture by EM.

        No component gets narrower than a fiftieth of the spread of its column, so that repeated
        values do not draw one.
        """
        fits = [fit_gaussians(column[:, None], self.components, NARROWEST**2) for column in x.T]
        log_w, mean, root = (torch.stack(parts, 1) for parts in zip(*fits, strict=True))
        places = torch.tensor(self.places, dtype=x.dtype, device=x.device)[:, None]
        log_scale = -(root[..., 0, 0] * self.noise.spread * self.scale).log()
        change = LOG_SCALE * torch.atanh((log_scale / LOG_SCALE).clamp(-0.99, 0.99))
        return torch.cat((log_w, mean[..., 0] - places, change)).flatten()

    def _mixture(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and log-scales, each `(K, *x.shape)`."""
        return self._from_raw(self._by_parameter(x, parameters))

    def _by_parameter(self, x: Tensor, parameters: Tensor) -> Tensor:
        """The three kinds of parameters of each component: `(3, K, *x.shape)`."""
        return parameters.unflatten(1, (3, self.components, x.shape[1])).movedim((1, 2), (0, 1))

    def _from_raw(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, shift, change = raw
        return logits.log_softmax(0), *components_at(shift, change, self.places, self.scale)

    def _scores(
        self, x: Tensor, log_w: Tensor, mean: Tensor, log_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The y of each element of x, and log dy/dx."""
        return mixture_scores(self.noise, (x - mean) * (-log_s).exp(), log_w, log_s)

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(4), cls(3, "logistic"), cls(1)


def first_components(
    count: int, noise: Noise, overlap: float = OVERLAP
) -> tuple[list[float], float]:
    """Means and scale of components whose mixture, with equal weights, is near to the noise.

    The more they overlap, the nearer. They are plain numbers: models are also constructed without
    storage, to be loaded.
    """
    places = [NormalDist().inv_cdf((k + 0.5) / count) for k in range(count)]
    scale = overlap if count > 1 else 1.0
    spread = math.hypot(*places) / count**0.5 or 1.0
    factor = noise.spread * (1 - scale**2) ** 0.5 / spread
    return [factor * place for place in places], scale


def components_at(
    shift: Tensor, change: Tensor, places: list[float], scale: float
) -> tuple[Tensor, Tensor]:
    """Means and log-scales `(K, *shape)` of components that parameters moved from their start."""
    means = torch.stack([shift[k] + place for k, place in enumerate(places)])
    return means, math.log(scale) + LOG_SCALE * torch.tanh(change / LOG_SCALE)


def mixture_scores(noise: Noise, u: Tensor, log_w: Tensor, log_s: Tensor) -> tuple[Tensor, Tensor]:
    """The quantile y of noise that has the probability of x under a mixture, and log dy/dx.

    Args:
        noise: of which distribution y and the components are.
        u: x in units of each component, `(K, *shape)`: less its mean, over its scale.
        log_w: logarithms of the weights, whose sum over K is 1.
        log_s: logarithms of the scales.
    """
    lower = (log_w.exp() * noise.cdf(u)).sum(0) < 0.5
    log_cdf, log_hazard = noise.log_cdf_and_hazard(torch.where(lower, u, -u))
    terms = log_w + log_cdf
    z = noise.quantile(terms.logsumexp(0))
    # Of shares of the tail: the tails themselves are too large for the digits of a float.
    hazard = (terms.log_softmax(0) + log_hazard - log_s).logsumexp(0)
    return torch.where(lower, z, -z), hazard - noise.log_cdf_and_hazard(z)[1]

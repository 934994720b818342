"""The residual map: a step by a contraction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.probes import make_key, signs, uniform
from diffeo.networks.smooth import LipschitzMLP, Push
from diffeo.utils.ranges import Count, Seed, Whole

EVERY = 4  # iterations, between looks whether anything changes


class Residual(Bijection):
    """Add what a contraction makes of x.

        y = x + g(x, context),   |g(x) - g(x')| <= L |x - x'|,   L < 1
        log|det dy/dx| = log|det(I + J)|,   J = dg/dx

    The inverse repeats x <- y - g(x), which converges from everywhere, until float precision; its
    gradient, of the first order, is that of the solution.

    Up to `exact_up_to` features the log-determinant is exact. Above, where that takes too long, it
    is an **unbiased estimate**,

        sum over k = 1 to N of (-1)^(k + 1) v^T J^k v / (k P(N >= k))

    with random signs v and a random number of terms N, of which `terms` are always there and each
    further one with probability max(L, 1/2), so that the variance is finite. Its noise follows from
    the seed, the weights and the rows (see `diffeo.bijections.probes`): equal calls have equal
    results, and each step of training has noise of its own.

    Args:
        network: g, with `linearize` and a Lipschitz constant `lipschitz`, as `LipschitzMLP` has.
        exact_up_to: the largest number of features with an exact log-determinant.
        terms: how many terms of the series an estimate has at least.
        seed: of the noise of estimates.

    Raises:
        ValueError: if the network has no Lipschitz constant.

    (Behrmann et al. 2019; Chen et al. 2019)
    """

    cheap_inverse = False

    def __init__(
        self, network: nn.Module, exact_up_to: Whole = 16, terms: Count = 4, seed: Seed = 0
    ) -> None:
        super().__init__()
        if not (hasattr(network, "linearize") and hasattr(network, "lipschitz")):
            raise ValueError(
                f"{type(network).__name__} has no limit of its slope: take LipschitzMLP, or a "
                "network with `linearize` and `lipschitz` of its own."
            )
        self.network: Any = network
        self.exact_up_to = exact_up_to
        self.terms = terms
        self.seed = seed

    def is_exact(self, features: int) -> bool:
        """Whether the log-determinant of so many features is exact, and no estimate."""
        return features <= self.exact_up_to

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        step, push = self.network.linearize(x, context)
        return x + step, self._log_det(x, push)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._solve(y, context)
        if torch.is_grad_enabled():
            step, push = self.network.linearize(x, context)
            inverse = torch.linalg.inv_ex(_transposed(x, push).detach()).inverse
            newton = x - ((x + step - y)[:, None] @ inverse)[:, 0]
            x = x + (newton - newton.detach())  # the same number, with a gradient
        return x, -self._log_det(x, self.network.linearize(x, context)[1])

    @torch.no_grad()
    def _solve(self, y: Tensor, context: Tensor | None) -> Tensor:
        """The x with x + g(x) = y, without a graph.

        The CPU stops where nothing changes, up to rounding; other devices, which would have to wait
        for that answer, take as many steps as the worst contraction of this constant.
        """
        eps, x = torch.finfo(y.dtype).eps, y
        for i in range(math.ceil(math.log(eps) / math.log(self.network.lipschitz))):
            x, last = y - self.network(x, context), x
            if i % EVERY == EVERY - 1 and x.device.type == "cpu":
                change, size = (x - last).abs(), torch.maximum(x.abs(), y.abs())
                if bool((change <= eps * size.amax(1, keepdim=True)).all()):
                    break
        return x

    def _log_det(self, x: Tensor, push: Push) -> Tensor:
        if self.is_exact(x.shape[1]):
            # As `torch.linalg.slogdet`, whose gradient Apple's GPUs lack.
            factors = torch.linalg.lu_factor_ex(_transposed(x, push)).LU
            return factors.diagonal(dim1=1, dim2=2).abs().log().sum(1)
        key = make_key(self.seed, self.network.linears[0].weight)
        stays = max(self.network.lipschitz, 0.5)
        v = signs(x, key)[:, None]
        term, total = v, x.new_zeros(x.shape[0])
        for k in range(1, self._count(key, stays) + 1):
            term = -push(term)
            chance = stays ** max(k - self.terms, 0)
            total = total - (v * term).sum((1, 2)) / (k * chance)
        return total

    def _count(self, key: Tensor, stays: float) -> int:
        """How many terms of the series, N; the host waits for that number."""
        if key.is_meta:
            return self.terms
        return self.terms + int(uniform(key).log() / math.log(stays))

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(LipschitzMLP(3, 3, (8, 8))), (3,))
        yield Example(lambda: cls(LipschitzMLP(2, 2, (8,), 2)), (2,), context_features=2)
        yield Example(lambda: cls(LipschitzMLP(3, 3, (8,)), exact_up_to=0), (3,), exact=False)


def _transposed(x: Tensor, push: Push) -> Tensor:
    """(I + J)^T at each row of x, `(batch, D, D)`."""
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[None]
    return eye + push(eye)

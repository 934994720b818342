"""Expectation maximization of a mixture of Gaussians with full covariances."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

ROWS = 20_000  # taken evenly from more, for the estimate
STARTS = 8  # of which the best goes on
LLOYD, SHORT, MOST = 10, 20, 300  # iterations of k-means, of EM for each start, and for the best
GAIN = 1e-5  # nats of the mean log-likelihood, below which EM ends
Mixture = tuple[Tensor, Tensor, Tensor]


def fit_gaussians(x: Tensor, components: int, ridge: float) -> Mixture:
    """A mixture for rows x `(n, D)`.

    Args:
        x: finite rows.
        components: K.
        ridge: added to each variance, as a share of that of the feature.

    Returns:
        Log-weights `(K,)`, means `(K, D)`, and lower triangular roots of the inverse covariances
        `(K, D, D)`, R with R (x - mean) ~ N(0, I).

    (Dempster et al. 1977; Arthur & Vassilvitskii 2007 for the start)
    """
    x = x[:: math.ceil(len(x) / ROWS)]
    std, mean = torch.std_mean(x, dim=0, correction=0)
    std = torch.where(std > 0, std, 1.0)  # of a constant feature, as in a standardization
    x = (x - mean) / std
    # A generator of its own: the same rows give the same mixture.
    source = Generator().manual_seed(0)
    ridge = max(ridge, 100 * torch.finfo(x.dtype).eps)
    starts = [_run(x, k_means(x, components, source), ridge, SHORT) for _ in range(STARTS)]
    _, shares, _ = max(starts, key=lambda start: start[0])
    _, _, (log_w, means, roots) = _run(x, shares, ridge, MOST)
    return log_w, means * std + mean, roots / std


def log_densities(x: Tensor, mixture: Mixture) -> Tensor:
    """The logarithm of each component's weight times its density of each row, `(K, n)`."""
    log_w, means, roots = mixture
    u = (x - means[:, None]) @ roots.mT
    log_det = roots.diagonal(dim1=1, dim2=2).log().sum(1) - 0.5 * math.log(2 * math.pi) * x.shape[1]
    return (log_w + log_det)[:, None] - 0.5 * u.square().sum(2)


def _run(x: Tensor, shares: Tensor, ridge: float, most: int) -> tuple[float, Tensor, Mixture]:
    """EM from the components' shares of the rows: the mean log-likelihood, shares and mixture."""
    now = before = -math.inf
    for _ in range(most):
        mixture = _maximize(x, shares, ridge)
        terms = log_densities(x, mixture)
        shares, now = terms.softmax(0), float(terms.logsumexp(0).mean())
        if now - before < GAIN:
            break
        before = now
    return now, shares, mixture


def _maximize(x: Tensor, shares: Tensor, ridge: float) -> Mixture:
    """The mixture whose components have these shares `(K, n)` of the rows."""
    count = shares.sum(1) + 1e-6  # a component may lose all of its rows
    means = (shares @ x) / count[:, None]
    difference = x - means[:, None]
    covariances = (shares[..., None] * difference).mT @ difference / count[:, None, None]
    covariances = covariances + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    lower = torch.linalg.cholesky_ex(covariances)[0]
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(lower)
    roots = torch.linalg.solve_triangular(lower, eye, upper=False)
    return (count / count.sum()).log(), means, roots


def k_means(x: Tensor, components: int, source: Generator) -> Tensor:
    """Shares `(K, n)` that are 1 for the nearest of K centres."""
    centres = x[_draw(torch.ones(len(x)), source)][None]
    while len(centres) < components:
        distance = torch.cdist(x, centres).amin(1).square()
        centres = torch.cat((centres, x[_draw(distance.cpu(), source)][None]))
    for _ in range(LLOYD):
        nearest = torch.cdist(x, centres).argmin(1)
        shares = torch.nn.functional.one_hot(nearest, components).T.to(x.dtype)
        count = shares.sum(1, keepdim=True)
        centres = torch.where(count > 0, shares @ x / count.clamp(min=1), centres)
    return shares


def _draw(weights: Tensor, source: Generator) -> int:
    """The index of a row, with a probability in proportion to its weight."""
    total = weights.double().cumsum(0)
    u = torch.rand((), generator=source, dtype=torch.float64) * total[-1]
    return min(int(torch.searchsorted(total, u)), len(weights) - 1)

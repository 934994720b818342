"""A mixture of Gaussians with full covariances, as a triangular bijection in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.expectation import fit_gaussians
from diffeo.bijections.mixture_cdf import mixture_scores
from diffeo.bijections.quantiles import NOISE
from diffeo.bijections.roots import invert
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Count, NonNegative
from diffeo.utils.statistics import check_spread, far_values


class GaussianMixtureMap(Bijection):
    """A mixture of Gaussians: on standard normal noise, x is a draw from it.

        u_k = R_k (x - mu_k),   R_k lower triangular with R_k^-1 R_k^-T the covariance
        y_i = Phi^-1(sum_k w_ki Phi(u_ki)),   w_ki ~ w_k prod_{j<i} R_kjj phi(u_kj)
        log|det dy/dx| = log p(x) - sum_i log phi(y_i)

    y_i is the normal score of x_i in its conditional distribution given those before it, which is a
    mixture as well. Computed in log space, in the smaller tail. The inverse goes feature by
    feature, each a quantile that lies between those of the components, by Newton's method in that
    bracket; its gradients are those of the implicit function.

    Args:
        features: D of the input `(batch, D)`.
        components: their number K.
        ridge: added to the variances at the start, as a share of those of the features: more for
            fewer rows, such as 0.01 to 0.15 for some hundreds.

    `initialize` sets all by expectation maximization, from rows without values that are far from
    all others; gradients can train it further. Before, it is the identity. `initialized` is a
    buffer: a loaded model is never initialised again.

    Raises:
        ValueError: by `initialize`, if there are fewer than two rows, or a feature is constant or
            not finite.

    (McLachlan & Peel 2000 for mixtures; Rosenblatt 1952 for the map)
    """

    cheap_inverse = False

    def __init__(self, features: Count, components: Count = 8, ridge: NonNegative = 1e-4) -> None:
        super().__init__()
        self.features = features
        self.components = components
        self.ridge = ridge
        self.logits: nn.Parameter = nn.Parameter(torch.zeros(components))
        self.means: nn.Parameter = nn.Parameter(torch.zeros(components, features))
        # R_k, with the logarithm of its diagonal; what is above it is not used.
        self.roots: nn.Parameter = nn.Parameter(torch.zeros(components, features, features))
        self.initialized: Tensor = nn.Buffer(torch.tensor(False))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_diagonal = self._log_diagonal()
        u = (x - self.means[:, None]) @ self._roots().mT
        steps = _log_density(u[..., :-1], log_diagonal[..., :-1]).cumsum(-1)
        log_w = self.logits[:, None, None] + F.pad(steps, (1, 0))
        y, log_slope = mixture_scores(NOISE["normal"], u, log_w.log_softmax(0), -log_diagonal)
        return y, log_slope.sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        roots, log_diagonal, means = self._roots(), self._log_diagonal(), self.means[:, None]
        log_w = self.logits[:, None]
        found = y[:, :0]
        for i in range(self.features):
            # u_k = shift + scale (x_i - mu_ki), where shift is of the features before.
            log_scale, mean = log_diagonal[:, :, i], means[:, :, i]
            scale, row = log_scale.exp(), roots[:, i, :i, None]
            shift = ((found - means[:, :, :i]) @ row)[..., 0]
            log_weights = log_w.expand_as(shift).log_softmax(0)

            def scores(
                x: Tensor,
                shift: Tensor = shift,
                scale: Tensor = scale,
                mean: Tensor = mean,
                log_w: Tensor = log_weights,
                log_s: Tensor = -log_scale,
            ) -> tuple[Tensor, Tensor]:
                return mixture_scores(NOISE["normal"], shift + scale * (x - mean), log_w, log_s)

            with torch.no_grad():
                quantiles = mean + (y[:, i] - shift) / scale
                start = (log_weights.exp() * quantiles).sum(0)
            x = invert(scores, y[:, i], quantiles.amin(0), quantiles.amax(0), start)
            log_w = log_w + _log_density(shift + scale * (x - mean), log_scale)
            found = torch.cat((found, x[:, None]), dim=1)
        return found, -self(found)[1]

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            # In the widest floats: squares of a large column lose their digits in float32.
            rows = x.detach().to(widest(x.device))
            check_spread(rows)
            rows = rows[~far_values(rows).any(1)]
            log_w, means, roots = fit_gaussians(rows, self.components, self.ridge)
            self.logits.copy_(log_w)
            self.means.copy_(means)
            diagonal = roots.diagonal(dim1=1, dim2=2)
            self.roots.copy_(roots.tril(-1) + torch.diag_embed(diagonal.log()))
            self.initialized.fill_(True)
        return self(x)[0]

    def _log_diagonal(self) -> Tensor:
        """The logarithm of the diagonal of each R_k, `(K, 1, D)`."""
        return self.roots.diagonal(dim1=1, dim2=2)[:, None]

    def _roots(self) -> Tensor:
        """R_k, `(K, D, D)`."""
        return self.roots.tril(-1) + torch.diag_embed(self._log_diagonal()[:, 0].exp())

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3, 4), (3,), perturbation=0.2)
        yield Example(lambda: cls(1, 3), (1,))


def _log_density(u: Tensor, log_diagonal: Tensor) -> Tensor:
    """The log-density of an element whose score is u, and the slope of it exp(log_diagonal)."""
    return log_diagonal - 0.5 * (u * u + math.log(2 * math.pi))

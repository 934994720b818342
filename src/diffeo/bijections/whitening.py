"""Whitening: removes mean and covariance."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Count
from diffeo.utils.statistics import far_values


class Whiten(Bijection):
    """Bring the features to mean 0 and covariance I.

        y = L^-1 (x - mean),   L L^T = covariance,   log|det dy/dx| = -sum(log diag L)

    L is lower triangular. On standard noise this is the Gaussian with that mean and covariance.

    Args:
        features: D of the input `(batch, D)`.

    `fit` or `initialize` sets `mean` and `root`, L, the latter from rows without values that are
    far from all others; before, it is the identity. `initialized` is a buffer: a loaded model is
    never initialised again.

    Raises:
        ValueError: by `fit` and `initialize`, if the covariance is not positive definite.
    """

    def __init__(self, features: Count) -> None:
        super().__init__()
        self.mean: Tensor = nn.Buffer(torch.zeros(features))
        self.root: Tensor = nn.Buffer(torch.eye(features))
        self.initialized: Tensor = nn.Buffer(torch.tensor(False))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.solve(x - self.mean), -self._log_det(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y @ self.root.T + self.mean, self._log_det(y)

    def solve(self, x: Tensor) -> Tensor:
        """L^-1 x for each row of x `(batch, D)`."""
        return torch.linalg.solve_triangular(self.root, x.T, upper=False).T

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            # In the widest floats: squares of a large column lose their digits in float32.
            rows = x.detach().to(widest(x.device))
            rows = rows[~far_values(rows).any(1)]
            self.fit(rows.mean(0), rows.T.cov(correction=0).view(x.shape[1], -1))
        return self(x)[0]

    @torch.no_grad()
    def fit(self, mean: Tensor, covariance: Tensor) -> None:
        """Set mean and covariance, such as a shrunk estimate from few rows."""
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed or not root.isfinite().all():
            raise ValueError(
                "the covariance is not positive definite: leave out features that are constant or "
                "sums of others, or give more rows."
            )
        self.mean.copy_(mean)
        self.root.copy_(root)
        self.initialized.fill_(True)

    def _log_det(self, x: Tensor) -> Tensor:
        return (
            self.root.diagonal().log().sum().expand(x.shape[0])
        )  # not len(x), which an export takes for a constant

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,), "constant")

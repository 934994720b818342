"""Away with mean and covariance: what a Gaussian knows of the data."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffeo.bijections.base import Bijection, Context


class Whiten(Bijection):
    """Bring the features to mean 0 and covariance I.

        y = L^-1 (x - mean),   L L^T = covariance,   log|det dy/dx| = -sum(log diag L)

    L is lower triangular. On standard noise this is the Gaussian with that mean and covariance.

    Args:
        features: D of the input `(batch, D)`.

    `fit` sets `mean` and `root`, L; or the first batch in training mode does, as in `Standardize`.
    `initialized` is a buffer: a loaded model is never fitted again.

    Raises:
        ValueError: if that batch has a covariance that is not positive definite.
    """

    alone = True

    mean: Tensor
    root: Tensor
    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("root", torch.eye(features))
        self.register_buffer("initialized", torch.tensor(False))

    def forward(
        self, x: Float[Tensor, "batch features"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, " batch"]]:
        if self.training and not self.initialized:
            # In float64, since the squares of a large column lose their digits in float32.
            rows = x.detach().double()
            self.fit(rows.mean(0), rows.T.cov(correction=0).view(x.shape[1], -1))
        y = torch.linalg.solve_triangular(self.root, (x - self.mean).T, upper=False).T
        return y, -self._log_det(x)

    def inverse(
        self, y: Float[Tensor, "batch features"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, " batch"]]:
        return y @ self.root.T + self.mean, self._log_det(y)

    @torch.no_grad()
    def fit(
        self, mean: Float[Tensor, " features"], covariance: Float[Tensor, "features features"]
    ) -> None:
        """Take mean and covariance from elsewhere, such as a shrunk estimate of few rows."""
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
        return self.root.diagonal().log().sum().expand(len(x))

    def extra_repr(self) -> str:
        return f"{len(self.mean)}"

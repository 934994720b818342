"""Where a flow of a table starts: the Gaussian of its bent columns, found without a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from diffeo.bijections.sinh_arcsinh import SinhArcsinh
from diffeo.models.table_flow import TableFlow

# Statistics of more rows than these, taken evenly, differ from those of all only far behind the
# comma.
ROWS = 10_000
# The links that start from data, and stay.
START = 3
ITERATIONS = 60
# Precision of the normal prior on skew and tail.
PRIOR = 20.0
# Against columns that are sums of others; in units of a column's variance.
RIDGE = 1e-6


def start(flow: TableFlow, x: Tensor, context: Tensor | None) -> None:
    """Set the links of a flow in float64 that start from data.

    The columns are bent to maximise the likelihood of independent normal distributions, less
    a prior on how much they are bent: what a few rows say of tails is chance. Their covariance
    is shrunk (Ledoit & Wolf 2004). Unlike `Flow.initialize` this passes constant columns, whose
    scale is 1.

    Args:
        flow: in float64.
        x: rows `(n, features)`, float64.
        context: `(n, context_features)` or None.
    """
    links: Any = flow.bijection
    standardize, bend, whiten = links[:START]
    _standardize(standardize, x)
    if context is not None:
        _standardize(flow.context_encoder, context)
    with torch.no_grad():
        x = standardize(x[:: -(-len(x) // ROWS)])[0]
    bend_marginals(bend, x)
    with torch.no_grad():
        y = bend(x)[0]
    mean, covariance = _covariance(y.numpy())
    whiten.fit(mean, covariance)


def _standardize(link: Any, x: Tensor) -> None:
    """Set a `Standardize`, with scale 1 where x does not vary."""
    scaler = StandardScaler().fit(x.numpy())
    link.mean.copy_(torch.from_numpy(scaler.mean_))
    link.std.copy_(torch.from_numpy(scaler.scale_))
    link.initialized.fill_(True)


def bend_marginals(bend: SinhArcsinh, x: Tensor) -> None:
    """Univariate each column of standardized x `(n, features)` into the shape of a normal one.

        minimise  log std(y_j) - mean(log dy_j/dx_j) + 20 (skew_j^2 + tail_j^2) / 2n

    with mean and standard deviation of y found in closed form.
    """
    weights = list(bend.parameters())
    optimizer = torch.optim.LBFGS(weights, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        y, log_det = bend(x)
        entropy = 0.5 * y.var(0, correction=0).clamp(min=1e-12).log().sum() - log_det.mean()
        prior = (bend.skew.square().sum() + bend.tail.square().sum()) * PRIOR / (2 * len(x))
        total = entropy + prior
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        y, log_det = bend(x)
    if not (y.isfinite().all() and log_det.isfinite().all()):
        # Left as they were: a start that is not best is no harm.
        for weight in weights:
            weight.data.zero_()


def _covariance(y: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and shrunk covariance, which is of full rank whatever the columns are."""
    mean, std = y.mean(0), y.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    correlation, _ = ledoit_wolf((y - mean) / std, assume_centered=True)
    flat = np.diag(correlation) < math.sqrt(RIDGE)
    correlation[flat, flat] = 1.0
    correlation = (1 - RIDGE) * correlation + RIDGE * np.eye(len(std))
    return torch.from_numpy(mean), torch.from_numpy(correlation * np.outer(std, std))

"""Set the start of a flow for a table: the Gaussian of its transformed columns, without a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from diffeo.bijections.elementwise import SinhArcsinh
from diffeo.models.tables import TableFlow

MAX_ROWS = 10_000  # statistics of more, taken evenly, differ only in late digits
START = 3  # links that are set from data, and do not change in training
ITERATIONS = 60
PRIOR = 20.0  # precision of the normal prior on skew and tail
RIDGE = 1e-6  # for columns that are sums of others; in units of a column's variance


def set_start(flow: TableFlow, x: Tensor, context: Tensor | None) -> None:
    """Set the links of a flow that start from data.

    The columns are transformed to maximise the likelihood of independent normal distributions,
    with a prior on skew and tail, since the tails of a few rows are chance. Their covariance is
    shrunk (Ledoit & Wolf 2004). Unlike `Flow.initialize` this accepts constant columns, which get
    scale 1. Flow, rows `(n, features)` and context `(n, context_features)` are in float64.
    """
    links: Any = flow.bijection
    standardize, transform, whiten = links[:START]
    _standardize(standardize, x)
    if context is not None:
        _standardize(flow.context_encoder, context)
    with torch.no_grad():
        x = standardize(x[:: -(-len(x) // MAX_ROWS)])[0]
    fit_marginals(transform, x)
    with torch.no_grad():
        y = transform(x)[0]
    whiten.fit(*_shrunk_covariance(y.numpy()))


def _standardize(link: Any, x: Tensor) -> None:
    scaler = StandardScaler().fit(x.numpy())
    link.mean.copy_(torch.from_numpy(scaler.mean_))
    link.std.copy_(torch.from_numpy(scaler.scale_))
    link.initialized.fill_(True)


def fit_marginals(transform: SinhArcsinh, x: Tensor) -> None:
    """Transform each column of standardized x `(n, features)` to be as normal as possible.

        minimise  log std(y_j) - mean(log dy_j/dx_j) + 20 (skew_j^2 + tail_j^2) / 2n

    with mean and standard deviation of y in closed form.
    """
    weights = list(transform.parameters())
    optimizer = torch.optim.LBFGS(weights, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        y, log_det = transform(x)
        entropy = 0.5 * y.var(0, correction=0).clamp(min=1e-12).log().sum() - log_det.mean()
        penalty = transform.skew.square().sum() + transform.tail.square().sum()
        total = entropy + penalty * PRIOR / (2 * len(x))
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        y, log_det = transform(x)
    if not (y.isfinite().all() and log_det.isfinite().all()):
        # The identity is a valid start, if not the best.
        for weight in weights:
            weight.data.zero_()


def _shrunk_covariance(y: np.ndarray) -> tuple[Tensor, Tensor]:
    """The mean, and a covariance of full rank for any columns."""
    mean, std = y.mean(0), y.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    correlation, _ = ledoit_wolf((y - mean) / std, assume_centered=True)
    flat = np.diag(correlation) < math.sqrt(RIDGE)
    correlation[flat, flat] = 1.0
    correlation = (1 - RIDGE) * correlation + RIDGE * np.eye(len(std))
    return torch.from_numpy(mean), torch.from_numpy(correlation * np.outer(std, std))

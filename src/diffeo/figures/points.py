"""Points to draw, the limits of a panel that shows them, and the base density."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.bases import Base
from diffeo.figures.style import Array

Limits = tuple[float, float]
Window = tuple[Limits, Limits]


def check_table(x: Tensor, columns: Sequence[str], *, two: bool = False) -> None:
    """Refuse x `(rows, columns)` if it cannot be drawn: the errors say why."""
    if x.ndim != 2 or x.shape[1] < 1 or (two and x.shape[1] != 2):
        wanted = "2" if two else "at least 1"
        raise ValueError(f"expected x of shape (rows, {wanted}), got {tuple(x.shape)}.")
    if len(columns) != x.shape[1]:
        raise ValueError(f"{len(columns)} column names were given for {x.shape[1]} columns.")
    if not finite_rows(to_numpy(x)).any():
        raise ValueError("x has no row of finite values to draw.")


def to_numpy(x: Tensor) -> Array:
    """The tensor as float64 in NumPy."""
    return x.detach().to("cpu", torch.float64).numpy()


def finite_rows(points: Array) -> NDArray[np.bool_]:
    """Which rows have only finite values."""
    return np.asarray(np.isfinite(points).all(axis=-1))


def thin(x: Tensor, n: int = 2_000) -> Tensor:
    """At most n rows, evenly spread over the table."""
    return x if len(x) <= n else x[torch.linspace(0, len(x) - 1, n, device=x.device).long()]


def limits(values: Array, tail: float, margin: float) -> Limits:
    """From the lower to the upper tail quantile of the finite values, and some margin."""
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    pad = margin * (high - low) or max(0.5, 0.05 * abs(high))
    return float(low - pad), float(high + pad)


def square_window(points: Array) -> Window:
    """Limits of a square panel, of one scale on both axes unless one range dwarfs the other."""
    x, y = (limits(values, tail=0.0005, margin=0.08) for values in points.T)
    spans = x[1] - x[0], y[1] - y[0]
    if max(spans) > 2.5 * min(spans):
        return x, y
    half = max(spans) / 2
    (left, right), (low, high) = ((sum(ends) / 2 - half, sum(ends) / 2 + half) for ends in (x, y))
    return (left, right), (low, high)


def base_density(base: Base, z: Array) -> Array:
    """The base density in one dimension, of z `(n,)`."""
    return to_numpy(base.log_prob(torch.from_numpy(z)[:, None]).exp())


def latent_reach(base: Base) -> float:
    """The half-width of panels of latents: where the base density falls below e^-5 of its peak."""
    z = np.arange(0, 50, 0.5)
    density = base_density(base, z)
    return float(z[np.argmax(density < np.exp(-5) * density[0])])

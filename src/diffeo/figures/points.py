"""Tables as points to draw: which can be drawn, and the limits that show them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.figures.style import Array

Limits = tuple[float, float]
Window = tuple[Limits, Limits]


def check(x: Tensor, columns: Sequence[str], *, plane: bool) -> None:
    """Refuse what is no table of two columns, or, off the plane, of any.

    Raises:
        ValueError: if so, or if the names do not match or no row is finite.
    """
    if x.ndim != 2 or x.shape[1] < 1 or (plane and x.shape[1] != 2):
        wanted = "2" if plane else "at least 1"
        raise ValueError(f"expected x of shape (rows, {wanted}), got {tuple(x.shape)}.")
    if len(columns) != x.shape[1]:
        raise ValueError(f"{len(columns)} column names were given for {x.shape[1]} columns.")
    if not finite(numbers(x)).any():
        raise ValueError("x has no row of finite values to draw.")


def numbers(x: Tensor) -> Array:
    """The tensor as float64 in NumPy."""
    return x.detach().to("cpu", torch.float64).numpy()


def finite(points: Array) -> NDArray[np.bool_]:
    """Which rows have nothing but finite values."""
    return np.asarray(np.isfinite(points).all(axis=-1))


def thin(x: Tensor, n: int = 2_000) -> Tensor:
    """At most n rows, evenly spread over the table: the same ones at every call."""
    return x if len(x) <= n else x[torch.linspace(0, len(x) - 1, n, device=x.device).long()]


def limits(values: Array, tail: float, margin: float) -> Limits:
    """From the lower to the upper tail quantile of the finite values, and some margin."""
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    pad = margin * (high - low) or max(0.5, 0.05 * abs(high))
    return float(low - pad), float(high + pad)


def square(points: Array) -> Window:
    """Limits of a square panel, of one scale on both axes unless one range dwarfs the other."""
    x, y = (limits(values, tail=0.0005, margin=0.08) for values in points.T)
    spans = x[1] - x[0], y[1] - y[0]
    if max(spans) > 2.5 * min(spans):
        return x, y
    half = max(spans) / 2
    (left, right), (low, high) = ((sum(ends) / 2 - half, sum(ends) / 2 + half) for ends in (x, y))
    return (left, right), (low, high)

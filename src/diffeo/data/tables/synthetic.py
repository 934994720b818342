"""Two-dimensional distributions to try a flow on, and the exact density of one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffeo.utils.ranges import Count, Positive, Seed32, checked

Floats = NDArray[np.float64]
Drawn = tuple[Floats, NDArray[Any] | None]

DEFAULT_ROWS = 200_000


@dataclass(frozen=True)
class Generator:
    """One law: its coordinates' names, its default noise, and `draw(rows, seed, noise)`."""

    columns: tuple[str, str]
    noise: float
    draw: Callable[[int, int, float], Drawn]


def _scikit(name: str, rows: int, seed: int, noise: float, **settings: float) -> Drawn:
    from sklearn import datasets

    points, labels = getattr(datasets, name)(rows, noise=noise, random_state=seed, **settings)
    return points, labels


def _moons(rows: int, seed: int, noise: float) -> Drawn:
    """The points of scikit-learn's `make_moons`, to load which takes longer than to draw them."""
    random = np.random.RandomState(seed)
    outer, inner = (np.linspace(0, np.pi, count) for count in (rows // 2, rows - rows // 2))
    x = np.concatenate((np.cos(outer), 1 - np.cos(inner)))
    y = np.concatenate((np.sin(outer), 1 - np.sin(inner) - 0.5))
    label = np.repeat((0, 1), (len(outer), len(inner)))
    order = np.arange(rows)
    random.shuffle(order)
    points = np.stack((x, y), 1)[order]
    return points + random.normal(scale=noise, size=points.shape), label[order]


def _swiss_roll(rows: int, seed: int, noise: float) -> Drawn:
    points, _ = _scikit("make_swiss_roll", rows, seed, noise)
    return points[:, [0, 2]], None  # the height between them is independent of the roll


def _gaussians(rows: int, seed: int, noise: float) -> Drawn:
    random = np.random.default_rng(seed)
    label = random.integers(8, size=rows)
    angle = label * (np.pi / 4)
    centres = 2.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centres + noise * random.standard_normal((rows, 2)), label


GENERATORS = {
    "moons": Generator(("x", "y"), 0.05, _moons),
    "circles": Generator(("x", "y"), 0.05, partial(_scikit, "make_circles", factor=0.5)),
    "swiss_roll": Generator(("x", "z"), 0.5, _swiss_roll),
    "gaussians": Generator(("x", "y"), 0.2, _gaussians),
}


@checked
def generate(
    name: str, rows: Count = DEFAULT_ROWS, seed: Seed32 = 0, noise: Positive | None = None
) -> tuple[Floats, list[str], NDArray[Any] | None]:
    """Draws points of a two-dimensional law.

    Args:
        name: one of `GENERATORS`.
        rows: how many points.
        seed: the same seed draws the same points; the global random state is not touched.
        noise: standard deviation of the noise on each coordinate; None for the law's own.

    Returns:
        Points `[rows, 2]`, the names of the two coordinates, and the class of each point `[rows]`,
        or None where the law has no classes.

    Raises:
        ValueError: an unknown name.
    """
    if name not in GENERATORS:
        raise ValueError(f"unknown generator '{name}': choose one of {', '.join(GENERATORS)}")
    law = GENERATORS[name]
    noise = law.noise if noise is None else noise
    points, labels = law.draw(rows, seed, noise)
    return points, list(law.columns), labels


@checked
def moons_log_density(x: Floats, noise: Positive = 0.05) -> Floats:
    """The exact log-density of `make_moons`, in nats.

        p(x) = 1/2 sum_arcs 1/pi int_0^pi N(x; c(t), noise^2 I) dt
        c(t) = (cos t, sin t)  and  (1 - cos t, 1/2 - sin t)

    Args:
        x: points in the generator's own units, not standardized, `[rows, 2]`.
        noise: the standard deviation with which the points were drawn.

    Returns:
        Log-densities `[rows]`. A standardized point's is greater by `log(std_x * std_y)`.

    Raises:
        ValueError: points that are not `[rows, 2]`.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"moons are points of shape (rows, 2), not {x.shape}")
    # Gauss-Legendre needs a few nodes per bump of width noise / sqrt(distance from the centre).
    reach = max(1.0, float(np.abs(x).max(initial=1.0)))
    nodes, weights = np.polynomial.legendre.leggauss(64 + int(12 * reach**0.5 / noise))
    t = (nodes + 1) * (np.pi / 2)
    arc = np.stack([np.cos(t), np.sin(t)], axis=1)
    centres = np.concatenate([arc, [1.0, 0.5] - arc])
    # Half the weight for each arc; Legendre's weights on [-1, 1] sum to 2, the law's on it to 1.
    log_weights = np.log(np.tile(weights / 4, 2)) - np.log(2 * np.pi * noise**2)
    # -|x - c|^2 / (2 noise^2) is linear in (x, 1) but for |x|^2, which is the same for all nodes.
    linear = np.vstack([centres.T, noise**2 * log_weights - 0.5 * (centres**2).sum(axis=1)])
    linear /= noise**2
    points = np.column_stack([x, np.ones(len(x))])
    result = -0.5 * (x**2).sum(axis=1) / noise**2
    # In parts that stay in the processor's cache: to fetch them costs more than to compute them.
    rows_at_once = max(1, 2**15 // len(centres))
    for start in range(0, len(x), rows_at_once):
        part = slice(start, start + rows_at_once)
        exponents = points[part] @ linear
        top = exponents.max(axis=1)
        exponents -= top[:, None]
        result[part] += top + np.log(np.exp(exponents, out=exponents).sum(axis=1))
    return result

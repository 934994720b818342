"""`python -m benchmarks targets`: learn unnormalised densities by reverse KL, without their draws.

The three targets in two dimensions of the normflows package (Stimper et al. 2023), written out. A
neural spline flow of couplings learns each, annealed from a flat version of it. Nine tenths of the
gradient are those of the score: by paths alone the mass of the two moons, with nothing between
them, drifts until one is lost (with `--score 0`, six seeds of nine end below 3 %). Printed are the
effective sample size of importance sampling, Pareto's k, and log Z against quadrature.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from diffeo.bijections import RationalQuadraticSpline
from diffeo.flow import Flow
from diffeo.losses import LogDensity, importance_sample, reverse_kl
from diffeo.models import CouplingNSF

DRAWS = 100_000
SCORE = 0.9  # share of the gradient (see `reverse_kl`)
REACH = 6.0  # of quadrature, beyond which the targets are below 1e-80


def two_moons(x: Tensor) -> Tensor:
    """A ring of radius 2 with most of its mass on the left and on the right."""
    across = x[:, 0].abs()  # both bumps in one, whose slope at 0 is none
    bumps = torch.stack((across - 2, across + 2)) / 0.3
    ring = (x.norm(dim=1) - 2) / 0.2
    return -0.5 * ring.square() + (-0.5 * bumps.square()).logsumexp(0)


def circle(x: Tensor, modes: int = 8) -> Tensor:
    """Gaussians on a circle of radius 2, which hardly overlap."""
    angles = torch.arange(modes, dtype=x.dtype, device=x.device) * (2 * math.pi / modes)
    places = 2 * torch.stack((angles.sin(), angles.cos()), 1)
    scale = 2 / 3 * math.sin(math.pi / modes)
    square = (x[:, None] - places).square().sum(2) / scale**2
    return (-0.5 * square).logsumexp(1) - math.log(2 * math.pi * scale**2 * modes)


def rings(x: Tensor, count: int = 2) -> Tensor:
    """Rings of radii up to 2."""
    radii = 2 * torch.arange(1, count + 1, dtype=x.dtype, device=x.device) / count
    gap = (x.norm(dim=1)[:, None] - radii) * (4 * count)
    return (-0.5 * gap.square()).logsumexp(1)


TARGETS: dict[str, LogDensity] = {"two moons": two_moons, "circle": circle, "rings": rings}


def log_normalizer(log_density: Callable[[Tensor], Tensor], points: int = 2_000) -> float:
    """The logarithm of the integral over [-6, 6]^2, by midpoints, `points` of them a side."""
    line = ((torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 - 1) * REACH
    grid = torch.cartesian_prod(line, line)
    parts = [log_density(part).logsumexp(0) for part in grid.split(500_000)]
    return float(torch.stack(parts).logsumexp(0)) + 2 * math.log(2 * REACH / points)


def learn(log_density: LogDensity, steps: int, rows: int, seed: int, score: float = SCORE) -> Flow:
    """A flow that has learned a density by annealed reverse KL."""
    torch.manual_seed(seed)
    spline = RationalQuadraticSpline(bins=8, bound=4.0)
    flow = CouplingNSF(2, layers=4, hidden=(64, 64), univariate=spline)
    adam = torch.optim.Adam(flow.parameters(), lr=2e-3)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    noise = Generator().manual_seed(seed)
    for step in range(steps):
        t = min(1.0, 0.1 + 2 * step / steps)
        adam.zero_grad()
        loss = reverse_kl(
            flow, lambda x, t=t: t * log_density(x), rows, score=score, generator=noise
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        adam.step()
        plan.step()
    return flow.double().eval()  # in steep bins float32 has few digits of log q


def main(arguments: Sequence[str]) -> None:
    """Learn each target and print how well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks targets", description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rows", type=int, default=512, help="draws of a step")
    parser.add_argument("--score", type=float, default=SCORE, help="share of the gradient")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TARGETS, help="one target")
    options = parser.parse_args(arguments)
    print("target       ESS    k      log Z                 quadrature  errors  seconds")
    for name, log_density in TARGETS.items():
        if options.only not in (None, name):
            continue
        start = time.perf_counter()
        flow = learn(log_density, options.steps, options.rows, options.seed, options.score)
        seconds = time.perf_counter() - start
        noise = Generator().manual_seed(options.seed + 1)
        found = importance_sample(flow, log_density, DRAWS, generator=noise)
        log_z, error = found.log_normalizer()
        truth = log_normalizer(log_density)
        print(
            f"{name:11}  {found.efficiency():5.1%}  {found.pareto_k():.2f}  "
            f"{log_z:.4f} +- {error:.4f}  {truth:.4f}  {(log_z - truth) / error:+.1f}  "
            f"{seconds:.0f}",
            flush=True,
        )

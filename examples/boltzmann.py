"""A Boltzmann generator of two torsion angles, and the free energy between two basins.

A molecule such as alanine dipeptide is described by two torsion angles, phi and psi. Its energy has
two basins of phi, with high barriers between them, so a simulation in small steps rarely crosses.
The energy here is made up of cosines, in units of kT:

    u(phi, psi) = 3 cos(2 phi) + 0.8 sin(phi) + 1.5 cos(2 psi + sin(phi)) + cos(phi - psi)

A flow of circular splines learns the density exp(-u) / Z from the energy alone, by the reverse
Kullback-Leibler divergence (a Boltzmann generator, Noé et al. 2019; circular splines: Rezende et
al. 2020). Its draws are weighted by exp(-u) / q, which corrects what the flow has not learned, so
the free-energy difference

    F(phi >= 0) - F(phi < 0) = -log P(phi >= 0) / P(phi < 0)

has a standard error. The truth is a sum over a grid, which is exact for so smooth a periodic
function in two dimensions. In many dimensions there is no grid, but the estimate stays.

    python examples/boltzmann.py --out boltzmann.png

needs diffeo alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import diffeo
from diffeo.figures.style import DATA, DENSITY, GREY, MODEL, house_style, save
from diffeo.losses import ImportanceSample, importance_sample, reverse_kl

GRID = 400


def log_density(angles: Tensor) -> Tensor:
    """-u of angles `(n, 2)`, in radians: `(n,)`."""
    phi, psi = angles.unbind(-1)
    wells = 3 * torch.cos(2 * phi) + 0.8 * torch.sin(phi)
    return -(wells + 1.5 * torch.cos(2 * psi + torch.sin(phi)) + torch.cos(phi - psi))


def in_right(angles: Tensor) -> Tensor:
    """Whether angles `(n, 2)` lie in the basin phi >= 0."""
    return (angles[:, 0] >= 0).double()


def learn(steps: int, seed: int = 0, rows: int = 256) -> diffeo.CircularNSF:
    """A flow that has learned the energy; it has seen no draws of the true density."""
    torch.manual_seed(seed)
    flow = diffeo.CircularNSF(2, layers=4, hidden=(32, 32))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps):
        # The score balances the mass of basins that stand apart; see `reverse_kl`.
        loss = reverse_kl(flow, log_density, rows, score=0.8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow.eval()


def grid() -> tuple[Tensor, Tensor]:
    """Points `(GRID^2, 2)` at the middles of equal cells, and the log-density there."""
    axis = ((torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID * 2 - 1) * math.pi
    points = torch.cartesian_prod(axis, axis)
    return points, log_density(points)


@dataclass(frozen=True)
class Answer:
    """What was found, and the truth.

    Args:
        sample: draws of the flow with their weights.
        free_energy, error: of phi >= 0 less that of phi < 0, in kT, and its standard error.
        unweighted: the same by counting the draws of the flow.
        truth: the same by the grid.
        log_z, log_z_error, log_z_truth: of the whole density.
    """

    sample: ImportanceSample
    free_energy: float
    error: float
    unweighted: float
    truth: float
    log_z: float
    log_z_error: float
    log_z_truth: float

    def checks(self) -> dict[str, bool]:
        """What has to hold: 4 standard errors are left by chance once in 16,000 times."""
        z_gap = abs(self.log_z - self.log_z_truth)
        return {
            "free energy right to 4 standard errors": abs(self.free_energy - self.truth)
            < 4 * self.error,
            "log Z right to 4 standard errors": z_gap < 4 * self.log_z_error,
            "standard error below 0.1 kT": self.error < 0.1,
            "effective sample size above half of the draws": self.sample.efficiency() > 0.5,
        }


def solve(flow: diffeo.CircularNSF, draws: int, seed: int = 0) -> Answer:
    """Weigh draws of the flow, and compare with the grid."""
    generator = torch.Generator().manual_seed(seed)
    sample = importance_sample(flow, log_density, draws, generator=generator)
    share, error = (float(value) for value in sample.expect(in_right))
    counted = float(in_right(sample.x).mean())
    points, log_p = grid()
    true_share = float((log_p.softmax(0) * in_right(points)).sum())
    log_cell = 2 * math.log(2 * math.pi / GRID)
    return Answer(
        sample,
        math.log((1 - share) / share),
        error / (share * (1 - share)),  # of the log odds, by their derivative
        math.log((1 - counted) / counted),
        math.log((1 - true_share) / true_share),
        *sample.log_normalizer(),
        float(log_p.logsumexp(0)) + log_cell,
    )


@house_style()
def draw(answer: Answer, path: Path) -> None:
    """The energy with draws of the flow, and the free energy along phi."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    log_p = grid()[1].reshape(GRID, GRID).T
    axis = grid()[0][:GRID, 1]
    image = left.contourf(
        axis, axis, log_p.max() - log_p, levels=range(0, 13, 2), cmap=DENSITY.reversed()
    )
    figure.colorbar(image, ax=left, label="energy above the lowest, kT")
    left.scatter(*answer.sample.x[:400].T, s=3, color=DATA, linewidths=0)
    left.set(title="energy, and draws of the flow", xlabel="phi", ylabel="psi", ylim=(-3.14, 3.14))
    edges = torch.linspace(-math.pi, math.pi, 41, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    bins = torch.bucketize(answer.sample.x[:, 0].double().contiguous(), edges[1:-1])
    mass = torch.zeros(40, dtype=torch.float64).index_add(0, bins, answer.sample.weights)
    true_mass = log_p.flatten().softmax(0).reshape(GRID, GRID).sum(0).reshape(40, -1).sum(1)
    right.plot(middles, -true_mass.log(), color=GREY, label="grid")
    right.plot(middles, -mass.log(), "o", ms=3, color=MODEL, label="weighted draws")
    right.axvline(0, color=GREY, lw=0.6, ls=":")
    right.set(title="free energy along phi", xlabel="phi", ylabel="kT")
    right.legend()
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, weigh, and say what came out; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400, help="of learning")
    parser.add_argument("--draws", type=int, default=20_000, help="of the flow, to be weighed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw the energy and the answer into this image")
    options = parser.parse_args(arguments)
    answer = solve(learn(options.steps, options.seed), options.draws, options.seed)
    print(f"free energy  {answer.free_energy:7.4f} +- {answer.error:.4f} kT")
    print(f"  by the grid{answer.truth:7.4f}; of draws without weights {answer.unweighted:.4f}")
    print(f"log Z        {answer.log_z:7.4f} +- {answer.log_z_error:.4f}")
    print(f"  by the grid{answer.log_z_truth:7.4f}")
    print(f"effective sample size {100 * answer.sample.efficiency():.0f} % of {options.draws:,}")
    checks = answer.checks()
    for name, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(answer, options.out)
    return int(not all(checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())

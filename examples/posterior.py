"""The posterior of a simulator, for any observation at once, and whether it can be trusted.

An epidemic runs through a town. Its parameters are how many people an infected person infects a
day, and how many of the infected recover a day, both as logarithms, with a normal prior. On ten
days some people are tested. What do the positive tests say about the parameters?

A conditional RealNVP is the guide of a Pyro model: `pyro.infer.CSIS` draws parameters and tests
from the model, and fits the guide to them, so that it answers for every observation (amortized
inference; Le et al. 2017). Then simulation-based calibration asks whether it answers right: if the
posterior is that of the model, the rank of the true parameter among draws from it is uniform
(Talts et al. 2018).

    python examples/posterior.py --out ranks.png

needs `pip install "diffeo[pyro]"`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import CSIS
from scipy.stats import binom, chisquare
from torch import Tensor

import diffeo
from diffeo.distribution import FlowDistribution
from diffeo.figures.style import LINE, MODEL, house_style, save

NAMES = ["log infections a day", "log recoveries a day"]
PRIOR = torch.tensor([math.log(0.4), math.log(0.15)]), torch.tensor([0.4, 0.3])
DAYS, EVERY = 60, 6
TESTED, AT_FIRST = 100, 0.01
BINS = 20
STEPS = 1_500


def infected(parameters: Tensor) -> Tensor:
    """The share of the town that is infected, every six days: `(..., 10)` of parameters `(..., 2)`.

    dS/dt = -beta S I,   dI/dt = beta S I - gamma I      in steps of a day
    """
    beta, gamma = parameters.exp().unbind(-1)
    ill = torch.full_like(beta, AT_FIRST)
    healthy = 1 - ill
    shares = []
    for day in range(1, DAYS + 1):
        new = healthy * (1 - torch.exp(-beta * ill))
        healthy, ill = healthy - new, ill + new - ill * (1 - torch.exp(-gamma))
        if day % EVERY == 0:
            shares.append(ill)
    return torch.stack(shares, dim=-1).clamp(1e-6, 1 - 1e-6)


class Epidemics:
    """A Pyro model of `n` epidemics at once, and its guide, an amortized posterior.

    Args:
        n: how many are simulated in a step of learning.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.flow = diffeo.RealNVP(2, layers=8, hidden=(64, 64), context=DAYS // EVERY)
        parameters, tests = simulate(2_000)
        self.flow.initialize(parameters, tests.sqrt())

    def model(self, observations: dict[str, Tensor] | None = None) -> None:
        """Parameters from the prior, and the positive tests that follow."""
        # What is observed counts only where somebody has observed; CSIS draws it anew.
        tests = (
            torch.zeros(self.n, DAYS // EVERY) if observations is None else observations["tests"]
        )
        with pyro.plate("epidemics", self.n):
            parameters = pyro.sample("parameters", dist.Normal(*PRIOR).to_event(1))
            positive = dist.Binomial(TESTED, infected(parameters)).to_event(1)
            pyro.sample("tests", positive, obs=tests)

    def guide(self, observations: dict[str, Tensor]) -> None:
        """Parameters from the flow, given the tests."""
        pyro.module("flow", self.flow)
        with pyro.plate("epidemics", self.n):
            pyro.sample("parameters", self.posterior(observations["tests"]))

    def posterior(self, tests: Tensor) -> FlowDistribution:
        """Of the parameters `(..., 2)`, given positive tests `(..., 10)`."""
        # Square roots, since the spread of counts grows as their root.
        return self.flow.distribution(tests.sqrt())

    def learn(self, steps: int, rate: float = 5e-3) -> None:
        """Fit the guide to draws from the model, at a rate that falls to a hundredth."""
        optimizer = pyro.optim.ClippedAdam({"lr": rate, "lrd": 0.01 ** (1 / steps)})
        csis = CSIS(self.model, self.guide, optimizer, training_batch_size=1)
        self.flow.train()
        for _ in range(steps):
            csis.step()
        self.flow.eval()


def simulate(n: int) -> tuple[Tensor, Tensor]:
    """Parameters `(n, 2)` from the prior, and their positive tests `(n, 10)`."""
    parameters = dist.Normal(*PRIOR).expand((n, 2)).sample()
    return parameters, dist.Binomial(TESTED, infected(parameters)).sample()


def ranks(town: Epidemics, n: int, draws: int = 99, width: float = 1.0) -> Tensor:
    """Of each true parameter the rank among draws from its posterior: `(n, 2)`, 0 to `draws`.

    Args:
        town: has learned the posterior.
        n: how many epidemics are simulated anew.
        draws: from the posterior of each.
        width: brings the draws so much closer to their mean, to see what too narrow a posterior
            looks like.
    """
    truth, tests = simulate(n)
    drawn = town.posterior(tests).sample((draws,))
    mean = drawn.mean(0)
    return (mean + width * (drawn - mean) < truth).sum(0)


def counts(ranked: Tensor, draws: int = 99) -> Tensor:
    """How many ranks `(n, 2)` fall into each of 20 equal bins: `(2, 20)`."""
    return torch.stack([torch.histc(r.float(), BINS, 0, draws + 1) for r in ranked.unbind(1)])


def uniform(ranked: Tensor) -> list[float]:
    """The p-value of a chi-square test that the ranks are uniform, for each parameter."""
    return [float(chisquare(each.numpy()).pvalue) for each in counts(ranked)]


@house_style()
def draw(ranked: Tensor, path: Path) -> None:
    """A histogram of the ranks of each parameter, and where 99 % of its bars should end."""
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    low, high = binom.interval(0.99, len(ranked), 1 / BINS)
    for axes, name, each in zip(figure.subplots(1, 2), NAMES, counts(ranked), strict=True):
        axes.axhspan(low, high, color=LINE, alpha=0.6, lw=0, label="99 % of bars, if calibrated")
        axes.bar(torch.arange(BINS) + 0.5, each, width=0.9, color=MODEL)
        axes.set(title=name, xlabel="rank of the truth", ylabel="epidemics", xticks=[0, BINS])
        axes.set_xticklabels(["lowest", "highest"])
        axes.set_ylim(0, 1.3 * high)
    axes.legend(loc="upper right")
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, check, and say what came out; 1 if ranks are not uniform."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of learning")
    parser.add_argument("--epidemics", type=int, default=1_000, help="to check it by")
    parser.add_argument("--width", type=float, default=1.0, help="0.7 narrows the posterior")
    parser.add_argument("--out", type=Path, help="draw the ranks into this image")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    pyro.set_rng_seed(0)
    town = Epidemics(256)
    town.learn(options.steps)
    print(f"learned in {time.perf_counter() - start:.0f} s")
    ranked = ranks(town, options.epidemics, width=options.width)
    found = uniform(ranked)
    for name, p in zip(NAMES, found, strict=True):
        verdict = "calibrated, as far as this tells" if p > 0.001 else "NOT calibrated"
        print(f"{name}: ranks uniform with p = {p:.2g}, {verdict}")
    if options.out:
        draw(ranked, options.out)
    return int(min(found) <= 0.001)


if __name__ == "__main__":
    raise SystemExit(main())

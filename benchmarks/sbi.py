"""Posteriors of two of sbi's benchmark tasks by flows, against sbi's own estimators (C2ST).

Each estimator learns from the same simulations, by sbi's NPE as it comes (batches of 200, Adam at
5e-4, a tenth held out, 20 epochs of patience). Its posteriors given some observations are compared
with exact draws by a classifier, whose accuracy is 0.5 where they are the same (C2ST of sbi, with
its multilayer perceptron). The mean log-density of fresh pairs, in nats, is the less noisy measure.
Seconds are of the processor.

- two_moons: theta uniform on [-1, 1]^2, x = (0.25 + r cos a - |theta_1 + theta_2| / sqrt 2,
  r sin a + (theta_2 - theta_1) / sqrt 2), a uniform on half a circle, r ~ N(0.1, 0.01^2);
- gaussian_linear: theta ~ N(0, I / 10) of ten parameters, x ~ N(theta, I / 10).

    python -m benchmarks sbi [--simulations 2000] [--seeds 3] [--tasks two_moons ...]

Results are added to benchmarks/results/sbi.csv. (Lueckmann et al. 2021)
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, MultivariateNormal

import diffeo

RESULTS = Path(__file__).parent / "results" / "sbi.csv"
FRESH = 5_000  # pairs whose density is averaged
KEYS = ["task", "simulations", "estimator", "seed"]


class Task(ABC):
    """A simulator whose posterior can be drawn exactly."""

    prior: Distribution

    @abstractmethod
    def simulate(self, theta: Tensor, source: Generator) -> Tensor:
        """Data `(n, ...)` of parameters `(n, ...)`."""

    @abstractmethod
    def posterior(self, x: Tensor, n: int, source: Generator) -> Tensor:
        """Exact draws `(n, ...)` given one x."""


class TwoMoons(Task):
    """Two half circles, as theta and its mirror image give the same data."""

    def __init__(self) -> None:
        from sbi.utils import BoxUniform

        self.prior = BoxUniform(-torch.ones(2), torch.ones(2))

    def noise(self, n: int, source: Generator) -> Tensor:
        """Points of the half circle."""
        angle = math.pi * (torch.rand(n, generator=source) - 0.5)
        radius = 0.1 + 0.01 * torch.randn(n, generator=source)
        return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)

    def simulate(self, theta: Tensor, source: Generator) -> Tensor:
        mean = torch.stack([-theta.sum(1).abs(), theta[:, 1] - theta[:, 0]], 1) / math.sqrt(2)
        return self.noise(len(theta), source) + mean

    def posterior(self, x: Tensor, n: int, source: Generator) -> Tensor:
        found, count = [], 0
        while count < n:  # the map from theta to the mean is linear on each side of the mirror
            mean = (x - self.noise(2 * n, source)) * math.sqrt(2)
            side = torch.randint(2, (len(mean),), generator=source) * 2 - 1
            total = -mean[:, 0] * side
            theta = torch.stack([total - mean[:, 1], total + mean[:, 1]], 1) / 2
            inside = (mean[:, 0] <= 0) & (theta.abs() <= 1).all(1)
            found.append(theta[inside])
            count += int(inside.sum())
        return torch.cat(found)[:n]


class GaussianLinear(Task):
    """Ten parameters, each seen with noise as wide as the prior."""

    def __init__(self) -> None:
        self.prior = MultivariateNormal(torch.zeros(10), 0.1 * torch.eye(10))

    def simulate(self, theta: Tensor, source: Generator) -> Tensor:
        return theta + math.sqrt(0.1) * torch.randn(theta.shape, generator=source)

    def posterior(self, x: Tensor, n: int, source: Generator) -> Tensor:
        return x / 2 + math.sqrt(0.05) * torch.randn(n, 10, generator=source)


TASKS: dict[str, Callable[[], Task]] = {"two_moons": TwoMoons, "gaussian_linear": GaussianLinear}


def estimators() -> dict[str, Any]:
    """What `NPE` takes as `density_estimator`: ours, and sbi's by their names; with defaults."""
    from diffeo.integrations.sbi import posterior_estimator

    ours = {
        kind.__name__: posterior_estimator(kind)
        for kind in (diffeo.NSF, diffeo.MAF, diffeo.CouplingNSF)
    }
    theirs = ("zuko_nsf", "zuko_maf", "nsf", "maf")
    return {f"diffeo {name}": made for name, made in ours.items()} | {
        f"sbi {name if '_' in name else f'nflows_{name}'}": name for name in theirs
    }


def measure(
    task: Task, estimator: Any, seed: int, simulations: int, observations: int, draws: int
) -> dict[str, float]:
    """What one estimator reaches with one set of simulations."""
    from sbi.inference import NPE
    from sbi.utils.metrics import c2st

    # Seeds of their own: the same numbers would make the noise a function of the parameters.
    torch.manual_seed(1_000 + seed)
    theta = task.prior.sample((simulations,))
    x = task.simulate(theta, Generator().manual_seed(2_000 + seed))
    torch.manual_seed(seed)
    inference = NPE(task.prior, density_estimator=estimator, show_progress_bars=False)
    start = time.process_time()
    trained = inference.append_simulations(theta, x).train()
    learning = time.process_time() - start
    posterior = inference.build_posterior(trained)
    source, scores = Generator().manual_seed(3_000), []
    torch.manual_seed(4_000)
    fresh = task.prior.sample((FRESH,))
    observed = task.simulate(fresh, source)
    with torch.no_grad():
        log_prob = trained.log_prob(fresh[None], observed)[0]
    sampling = 0.0
    for one in observed[:observations]:
        exact = task.posterior(one, draws, source)
        start = time.process_time()
        drawn = posterior.sample((draws,), x=one, show_progress_bars=False)
        sampling += (time.process_time() - start) / observations
        scores.append(float(c2st(exact, drawn, classifier="mlp")))
    return {
        "c2st": sum(scores) / len(scores),
        "log_prob": float(log_prob.double().mean()),
        "train_seconds": learning,
        "sample_seconds": sampling,
        "epochs": inference.summary["epochs_trained"][-1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and add to the CSV."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sbi", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=[*TASKS])
    parser.add_argument("--estimators", nargs="*", help="some of them; all")
    parser.add_argument("--simulations", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--observations", type=int, default=5)
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sizes = options.simulations, options.observations, options.draws
    known = pd.read_csv(options.out) if options.out.is_file() else pd.DataFrame(columns=KEYS)
    for seed in range(options.seeds):
        for task in options.tasks:
            for name, estimator in estimators().items():
                if options.estimators and name not in options.estimators:
                    continue
                row = dict(zip(KEYS, (task, options.simulations, name, seed), strict=True))
                row |= measure(TASKS[task](), estimator, seed, *sizes)
                print(*(v if isinstance(v, str) else f"{v:.4g}" for v in row.values()), flush=True)
                known = (
                    pd.concat([known, pd.DataFrame([row])]) if len(known) else pd.DataFrame([row])
                )
                known = known.drop_duplicates(KEYS, keep="last").sort_values(KEYS)
                known.round(4).to_csv(options.out, index=False, lineterminator="\n")
    means = known.groupby(["task", "simulations", "estimator"]).mean(numeric_only=True)
    print(means.drop(columns="seed").round(3).to_string())

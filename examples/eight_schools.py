"""Eight schools: the posterior of a hierarchical model by variational inference, with its error.

Eight schools tried a coaching programme for a test, and each measured its effect y_j with a known
standard error s_j (Rubin 1981). How effective was it in each? The model of Gelman et al. (2013,
section 5.5), with weak priors:

    y_j ~ N(theta_j, s_j^2),   theta_j ~ N(mu, tau^2),   mu ~ N(0, 5^2),   tau ~ half-Cauchy(5)

All ten parameters are written as functions of standard normal noise, of which a flow learns the
posterior by the reverse Kullback-Leibler divergence. That is variational inference with the flow as
the guide (Rezende & Mohamed 2015). Its draws are then weighted, which gives each answer a
standard error and the evidence p(y).

The truth: given tau all else is normal and known in closed form, so that one integral over tau
remains, which is a sum over a grid. `--nuts 1000` also runs that many steps of a Markov chain, the
No-U-Turn sampler (Hoffman & Gelman 2014), and needs `pip install "diffeo[pyro]"`.

    python examples/eight_schools.py --out schools.png
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
from torch.distributions import Normal

import diffeo
from diffeo.figures.style import DATA, GREY, INK, MODEL, house_style, save
from diffeo.losses import ImportanceSample, importance_sample, reverse_kl

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
NAMES = ["mu", "log tau", *(f"theta {school}" for school in "ABCDEFGH")]
SCALE = 5.0  # of the priors of mu and tau


def parameters(noise: Tensor) -> Tensor:
    """mu, log tau and the eight effects theta `(n, 10)` of noise `(n, 10)`."""
    mu = SCALE * noise[:, :1]
    # The quantile function of the half-Cauchy distribution, by the tail that is precise.
    tail = torch.special.ndtr(-noise[:, 1:2]).clamp(1e-30, 1 - 1e-7)
    tau = SCALE / torch.tan(math.pi / 2 * tail)
    return torch.cat((mu, tau.log(), mu + tau * noise[:, 2:]), dim=1)


def log_joint(noise: Tensor) -> Tensor:
    """Log p(y, noise) of noise `(n, 10)`: `(n,)`, in nats."""
    theta = parameters(noise)[:, 2:]
    prior = Normal(0.0, 1.0).log_prob(noise).sum(1)
    return prior + Normal(theta, ERRORS.to(theta)).log_prob(EFFECTS.to(theta)).sum(1)


def learn(steps: int, seed: int = 0, rows: int = 256) -> diffeo.RealNVP:
    """A flow that has learned the posterior of the noise."""
    torch.manual_seed(seed)
    flow = diffeo.RealNVP(10, layers=6, hidden=(32, 32))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps):
        loss = reverse_kl(flow, log_joint, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow.eval()


def exact(points: int = 4_000) -> tuple[Tensor, Tensor, float, tuple[Tensor, Tensor]]:
    """Means and standard deviations `(10,)`, log p(y), and log tau with its masses on a grid."""
    log_tau = torch.linspace(-12, 8, points, dtype=torch.float64)[:, None]
    tau2, y, s2 = (2 * log_tau).exp(), EFFECTS.double(), ERRORS.double().square()
    # Given tau: the precision and mean of mu, and the evidence.
    precision = 1 / SCALE**2 + (1 / (s2 + tau2)).sum(1, keepdim=True)
    mu = (y / (s2 + tau2)).sum(1, keepdim=True) / precision
    apart = Normal(mu, (s2 + tau2).sqrt()).log_prob(y).sum(1, keepdim=True)
    log_prior_mu = Normal(0.0, SCALE).log_prob(mu)
    evidence = apart + log_prior_mu + 0.5 * (2 * math.pi / precision).log()
    log_prior = math.log(2 / (math.pi * SCALE)) - torch.log1p(tau2 / SCALE**2) + log_tau
    log_mass = (evidence + log_prior)[:, 0] + math.log(20 / (points - 1))
    mass = log_mass.softmax(0)[:, None]
    # Given tau and mu: theta is a weighted mean of y and mu.
    share = tau2 / (s2 + tau2)
    means = torch.cat((mu, log_tau, share * y + (1 - share) * mu), 1)
    known = torch.cat((1 / precision, 0 * mu, share * s2 + (1 - share) ** 2 / precision), 1)
    mean = (mass * means).sum(0)
    variance = (mass * (known + (means - mean).square())).sum(0)
    return mean, variance.sqrt(), float(log_mass.logsumexp(0)), (log_tau[:, 0], mass[:, 0])


@dataclass(frozen=True)
class Answer:
    """Posterior means and standard deviations, of draws of the flow, weighted, and in truth."""

    sample: ImportanceSample
    mean: Tensor
    error: Tensor
    guide_mean: Tensor
    guide_std: Tensor
    true_mean: Tensor
    true_std: Tensor
    evidence: float
    evidence_error: float
    true_evidence: float

    def checks(self) -> dict[str, bool]:
        """What has to hold; of 11 comparisons one misses 4 standard errors once in 1,400 times."""
        gap = (self.mean - self.true_mean).abs() / self.error
        evidence = abs(self.evidence - self.true_evidence) / self.evidence_error
        off = (self.guide_mean - self.true_mean).abs() / self.true_std
        return {
            "weighted means right to 4 standard errors": float(gap.max()) < 4,
            "log evidence right to 4 standard errors": evidence < 4,
            "means of the guide right to 0.1 standard deviations": float(off.max()) < 0.1,
            "standard deviations of the guide right to 10 %": float(
                (self.guide_std / self.true_std).log().abs().max()
            )
            < 0.1,
            "Pareto k of the weights below 0.7": self.sample.pareto_k() < 0.7,
        }


def solve(flow: diffeo.RealNVP, draws: int, seed: int = 0) -> Answer:
    """Weigh draws of the flow, and compare with the truth."""
    generator = torch.Generator().manual_seed(seed)
    sample = importance_sample(flow, log_joint, draws, generator=generator)
    drawn = parameters(sample.x).double()
    mean, std, evidence, _ = exact()
    weighted = sample.expect(lambda noise: parameters(noise).double())
    found = sample.log_normalizer()
    return Answer(sample, *weighted, drawn.mean(0), drawn.std(0), mean, std, *found, evidence)


def by_nuts(steps: int, seed: int = 0) -> Tensor:
    """Means `(10,)` by a Markov chain of the No-U-Turn sampler, after as many steps to adapt."""
    import pyro
    from pyro.infer import MCMC, NUTS

    pyro.set_rng_seed(seed)
    chain = NUTS(potential_fn=lambda noise: -log_joint(noise["z"][None]).sum())
    start = {"z": torch.zeros(10)}
    found = MCMC(chain, steps, initial_params=start, disable_progbar=True)
    found.run()
    mean: Tensor = parameters(found.get_samples()["z"]).mean(0)
    return mean


@house_style()
def draw(answer: Answer, path: Path) -> None:
    """Effects of the schools, and the distribution of tau."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    place = torch.arange(8)
    options = {"ls": "", "ms": 4, "capsize": 2}
    left.errorbar(place - 0.2, EFFECTS, ERRORS, fmt="o", color=DATA, label="measured", **options)
    pairs = (
        (0.0, INK, "truth", answer.true_mean, answer.true_std),
        (0.2, MODEL, "flow", answer.guide_mean, answer.guide_std),
    )
    for shift, color, name, mean, std in pairs:
        left.errorbar(place + shift, mean[2:], std[2:], fmt="o", color=color, label=name, **options)
    left.set(title="effect, and one standard deviation", xlabel="school", xticks=range(8))
    left.set_xticklabels(list("ABCDEFGH"))
    left.legend(ncols=3, loc="upper right")
    left.set_ylim(top=60)
    log_tau, mass = exact()[3]
    right.plot(log_tau, mass / (log_tau[1] - log_tau[0]), color=INK, label="truth")
    values = parameters(answer.sample.x)[:, 1]
    right.hist(values, 60, range=(-4, 5), density=True, color=MODEL, alpha=0.5, label="flow")
    right.set(title="spread between schools", xlabel="log tau", ylabel="density", xlim=(-4, 5))
    right.axvline(0, color=GREY, lw=0.6, ls=":")
    right.legend()
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, weigh, and say what came out; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="of learning")
    parser.add_argument("--draws", type=int, default=20_000, help="of the flow, to be weighed")
    parser.add_argument("--nuts", type=int, default=0, help="steps of a Markov chain, by Pyro")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw the posterior into this image")
    options = parser.parse_args(arguments)
    answer = solve(learn(options.steps, options.seed), options.draws, options.seed)
    columns = [answer.true_mean, answer.guide_mean, answer.mean, answer.error]
    columns += [answer.true_std, answer.guide_std]
    heads = ["truth", "flow", "weighted", "+-", "true std", "flow"]
    if options.nuts:
        columns, heads = [*columns, by_nuts(options.nuts, options.seed)], [*heads, "NUTS"]
    print(" " * 8 + "".join(f"{head:>10}" for head in heads))
    for name, *values in zip(NAMES, *columns, strict=True):
        print(f"{name:8}" + "".join(f"{value:10.3f}" for value in values))
    print(f"log evidence {answer.evidence:.4f} +- {answer.evidence_error:.4f}", end=", ")
    print(f"truth {answer.true_evidence:.4f}")
    print(f"effective sample size {100 * answer.sample.efficiency():.0f} %", end=", ")
    print(f"Pareto k {answer.sample.pareto_k():.2f}")
    checks = answer.checks()
    for name, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(answer, options.out)
    return int(not all(checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())

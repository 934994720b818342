"""The probability of a rare event, by a flow that learns where it happens, with its error.

A system has six uncertain inputs, independent and standard normal, and fails if the load exceeds
the strength in either of two components:

    a . x > 4.9   or   b . x > 5.0,   |a| = |b| = 1,   a . b = -0.2

The failures are far from the mean and in two places. Of plain Monte Carlo one draw in 1.3 million
fails, so that an error of 2 % takes about 3 billion draws.

A flow learns to go there, from standard normal inputs on, by the reverse Kullback-Leibler
divergence from a density that draws nearer to the failures step by step,

    log p(x) - t max(0, -margin(x)),   t from 0 to 8,

p the density of inputs, and margin above 0 where the system fails (adaptive importance sampling;
Bucklew 2004 in general, with flows Gabrié et al. 2022). Then draws of the flow are weighted by
p / q, and the weights of those that fail make an unbiased estimate with a standard error. One draw
in five is made from noise that is half as wide again (a defensive mixture, Hesterberg 1995), so
that no weight is huge at the edge of what the flow has learned.

The truth is that of two half-spaces: two normal probabilities, less that of both, a
two-dimensional normal integral.

    python examples/rare_event.py --out rare.png

needs diffeo alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.stats import multivariate_normal, norm
from torch import Tensor
from torch.distributions import Normal

import diffeo
from diffeo.figures.style import GREY, INK, MODEL, house_style, save
from diffeo.losses import reverse_kl

INPUTS, LIMITS, CORRELATION = 6, (4.9, 5.0), -0.2
WIDE, SHARE = 1.5, 0.2  # the standard deviation of the wider noise, and the share of such draws
STEEP = 8.0  # the largest t, above the slope of log p at the limits


def margins(x: Tensor) -> Tensor:
    """How far above its limit the worse component is, `(n,)` of inputs `(n, 6)`; failed above 0."""
    a = torch.full((INPUTS,), 1 / math.sqrt(INPUTS), dtype=x.dtype)
    along = torch.tensor([1.0, -1.0] * 3, dtype=x.dtype) / math.sqrt(INPUTS)  # at right angles to a
    b = CORRELATION * a + math.sqrt(1 - CORRELATION**2) * along
    return torch.maximum(x @ a - LIMITS[0], x @ b - LIMITS[1])


def truth() -> float:
    """The probability of a failure."""
    both = multivariate_normal([0, 0], [[1, CORRELATION], [CORRELATION, 1]])
    return float(sum(norm.sf(LIMITS)) - both.cdf([-LIMITS[0], -LIMITS[1]]))


def towards(x: Tensor, t: float) -> Tensor:
    """The log-density that is learned with this t, `(n,)`."""
    return Normal(0.0, 1.0).log_prob(x).sum(1) - t * (-margins(x)).clamp(min=0)


class Proposal:
    """A flow that learns where failures are, from its own noise and, in a mixture, wider noise."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.flow = diffeo.RealNVP(INPUTS, layers=6, hidden=(32, 32)).eval()

    @torch.no_grad()
    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Draws `(n, 6)` and their log-weights log p / q `(n,)`."""
        few = round(SHARE * n)
        x = torch.cat((self.flow.sample(n - few), self.flow.sample(few, temperature=WIDE)))
        z, log_q = self.flow.encode(x), self.flow.log_prob(x)
        own, wide = (Normal(0.0, std).log_prob(z).sum(1) for std in (1.0, WIDE))
        log_mixed = torch.logaddexp(math.log1p(-few / n) + own, math.log(few / n) + wide)
        log_p = Normal(0.0, 1.0).log_prob(x).sum(1)
        return x, log_p - (log_q - own + log_mixed)

    def learn(self, steps: int, rows: int) -> None:
        """Move the flow to the failures; t reaches its end after three quarters of the steps."""
        optimizer = torch.optim.Adam(self.flow.train().parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
        for step in range(steps):
            t = STEEP * min(1.0, step / (0.75 * steps))
            # The score balances the mass of failures that stand apart; see `reverse_kl`.
            loss = reverse_kl(self.flow, partial(towards, t=t), rows, score=0.8)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.flow.eval()


@dataclass(frozen=True)
class Answer:
    """What was found, and the truth.

    Args:
        x: draws of the proposal.
        probability, error: of a failure, and its standard error.
        effective: the effective number of failures that were drawn.
        calls: how many inputs were tried in all.
        truth: the probability in closed form.
    """

    x: Tensor
    probability: float
    error: float
    effective: float
    calls: int
    truth: float

    @property
    def plain_calls(self) -> float:
        """How many draws plain Monte Carlo needs for the same standard error."""
        return self.truth * (1 - self.truth) / self.error**2

    def checks(self) -> dict[str, bool]:
        """What has to hold: 4 standard errors are left by chance once in 16,000 times."""
        off = abs(self.probability - self.truth)
        return {
            "probability right to 4 standard errors": off < 4 * self.error,
            "standard error below 5 %": 0 < self.error < 0.05 * self.truth,
            "plain Monte Carlo needs 1,000 times the calls": self.plain_calls > 1e3 * self.calls,
        }


def solve(steps: int, draws: int, seed: int = 0, rows: int = 256) -> Answer:
    """Learn where failures are, and estimate their probability from fresh draws."""
    proposal = Proposal(seed)
    proposal.learn(steps, rows)
    x, log_weights = proposal.draw(draws)
    weights = torch.where(margins(x) > 0, log_weights.double().exp(), 0.0)
    mean, error = float(weights.mean()), float(weights.std() / math.sqrt(draws))
    effective = float(weights.sum().square() / weights.square().sum().clamp(min=1e-300))
    return Answer(x, mean, error, effective, steps * rows + draws, truth())


@house_style()
def draw(answer: Answer, path: Path) -> None:
    """Draws in the plane of both components, and the estimate as calls grow."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    some = answer.x[torch.randperm(len(answer.x))[:1_500]]
    plain = torch.randn(1_500, INPUTS)
    a = torch.full((INPUTS,), 1 / math.sqrt(INPUTS))
    b = torch.tensor([1.0, -1.0] * 3) / math.sqrt(INPUTS)
    b = CORRELATION * a + math.sqrt(1 - CORRELATION**2) * b
    for x, color, name in ((plain, GREY, "inputs"), (some, MODEL, "proposal")):
        left.scatter(x @ a, x @ b, s=3, linewidths=0, color=color, label=name)
    left.plot([LIMITS[0]] * 2, [-6, LIMITS[1]], color=INK, lw=1)
    left.plot([-6, LIMITS[0]], [LIMITS[1]] * 2, color=INK, lw=1)
    left.set(title="failures are beyond the lines", xlim=(-6, 8), ylim=(-6, 8))
    left.set(xlabel="load of component 1", ylabel="load of component 2")
    left.legend(loc="lower left", markerscale=3)
    calls = torch.logspace(4, 12, 50)
    right.loglog(calls, (answer.truth / calls).sqrt() / answer.truth, color=GREY, label="plain")
    right.plot(answer.calls, answer.error / answer.truth, "o", color=MODEL, label="flow")
    right.set(title="relative standard error", xlabel="calls")
    right.legend()
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, estimate, and say what came out; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400, help="of learning")
    parser.add_argument("--draws", type=int, default=20_000, help="to estimate from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw the proposal into this image")
    options = parser.parse_args(arguments)
    answer = solve(options.steps, options.draws, options.seed)
    print(f"probability {answer.probability:.4e} +- {answer.error:.1e}")
    print(f"truth       {answer.truth:.4e}")
    print(f"calls       {answer.calls:,}, of which {answer.effective:,.0f} failures count")
    print(f"plain Monte Carlo needs {answer.plain_calls:.2g} for the same error")
    checks = answer.checks()
    for name, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(answer, options.out)
    return int(not all(checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())

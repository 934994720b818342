"""Forecasts with calibrated intervals, of a series whose conditional distribution is known.

The series is made up: its next value depends on the last two, and so does the spread, and the noise
e is skewed, a gamma distribution of mean 0 and variance 1:

    y_t = 0.6 y_{t-1} + 0.2 sin(2 y_{t-2}) + s_t e_t,   s_t = 0.15 + 0.35 / (1 + exp(-3 y_{t-1}))

`FlowDensity` learns p(next | past) from a table of windows, a row for each time: the last four
values, and the next one. A flow of one variable is its distribution function, so quantiles,
intervals and scores are exact. On times that it has not seen it is compared with the truth by

- the probability integral transform, P(next <= what came), uniform if the forecast is right
  (Dawid 1984);
- how often 90 % intervals hold what came, for calm and for restless times apart;
- the continuous ranked probability score (Gneiting & Raftery 2007), against that of the truth.

A linear autoregression with normal errors is measured by the same rules.

    python examples/forecast.py --out forecast.png

needs diffeo alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LinearRegression

from diffeo.figures.style import DATA, GREY, INK, MODEL, house_style, save
from diffeo.sklearn import FlowDensity

Array = NDArray[Any]
PAST = ["lag 1", "lag 2", "lag 3", "lag 4"]
SHAPE = 3.0  # of the gamma distribution
COVERAGE, BINS = 0.9, 10
LEVELS = (np.arange(200) + 0.5) / 200  # of quantiles


def center(lag1: Array, lag2: Array) -> Array:
    """The mean of the next value."""
    return 0.6 * lag1 + 0.2 * np.sin(2 * lag2)


def spread(lag1: Array) -> Array:
    """The standard deviation of the next value."""
    return 0.15 + 0.35 / (1 + np.exp(-3 * lag1))


def noise(levels: Array) -> Array:
    """Quantiles of the noise e."""
    return (stats.gamma.ppf(levels, SHAPE) - SHAPE) / np.sqrt(SHAPE)


def series(n: int, seed: int) -> pd.DataFrame:
    """Windows of a series, a row for each of n times: the last four values, and the next."""
    random = np.random.default_rng(seed)
    y = np.zeros(n + 104)
    errors = noise(random.uniform(size=len(y)))
    for t in range(2, len(y)):
        y[t] = center(y[t - 1], y[t - 2]) + spread(y[t - 1]) * errors[t]
    y = y[100:]  # by then the zeros of the start are forgotten
    columns = {name: y[4 - lag : -lag] for lag, name in enumerate(PAST, 1)}
    return pd.DataFrame({**columns, "next": y[4:]})


@dataclass(frozen=True)
class Forecast:
    """Forecasts of many times by one method, and what they score.

    Args:
        pit: P(next <= what came), `(n,)`.
        interval: the ends of 90 % intervals `(n, 2)`.
        crps: `(n,)`.
    """

    pit: Array
    interval: Array
    crps: Array

    def coverage(self, truth: Array, where: Array | slice = slice(None)) -> float:
        """How often what came is inside of the interval."""
        inside = (self.interval[:, 0] <= truth) & (truth <= self.interval[:, 1])
        return float(inside[where].mean())

    def p_uniform(self, rows: int) -> float:
        """The p-value of the test of Kolmogorov and Smirnov that PIT values are uniform.

        What was learned from rows is no better known than by a sample of as many, so it is the
        test of two samples. That of one would reject each forecast that has learned anything.
        """
        n = len(self.pit) * rows / (len(self.pit) + rows)
        distance = stats.kstest(self.pit, "uniform").statistic
        return float(stats.kstwobign.sf(distance * np.sqrt(n)))


def of_quantiles(at: Any, pit: Array, truth: Array) -> Forecast:
    """A forecast of the quantile function `at`: of levels `(k,)`, `(n, k)`.

    CRPS = 2 int_0^1 (1[y <= q_a] - a) (q_a - y) da
    """
    q = at(LEVELS)
    loss = ((truth[:, None] <= q) - LEVELS) * (q - truth[:, None])
    ends = at(np.array([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]))
    return Forecast(pit, ends, 2 * loss.mean(1))


def forecasts(rows: int, ahead: int, seed: int) -> tuple[pd.DataFrame, dict[str, Forecast]]:
    """Windows of times that were not learned, and forecasts of the truth, flow and regression."""
    table = series(rows + ahead, seed)
    known, new = table[:rows], table[rows:].reset_index(drop=True)
    x, y = new[PAST], new["next"].to_numpy()
    lag1, lag2 = x["lag 1"].to_numpy(), x["lag 2"].to_numpy()
    mean, std = center(lag1, lag2), spread(lag1)
    pit = stats.gamma.cdf((y - mean) / std * np.sqrt(SHAPE) + SHAPE, SHAPE)
    truth = of_quantiles(lambda levels: mean[:, None] + std[:, None] * noise(levels), pit, y)

    flow = FlowDensity(context=PAST, target="next", random_state=seed).fit(known)
    found = Forecast(
        flow.cdf(x, y),
        flow.predict_interval(x, COVERAGE),
        flow.crps(x, y),
    )

    line = LinearRegression().fit(known[PAST], known["next"])
    normal = stats.norm(line.predict(x), (known["next"] - line.predict(known[PAST])).std())
    linear = of_quantiles(lambda levels: normal.ppf(levels[:, None]).T, normal.cdf(y), y)
    return new, {"truth": truth, "flow": found, "regression": linear}


def calm(new: pd.DataFrame) -> Array:
    """Which times have a spread below the median."""
    lag = new["lag 1"].to_numpy()
    return np.asarray(lag < np.median(lag))


def checks(forecast: Forecast, truth: Forecast, new: pd.DataFrame, rows: int) -> dict[str, bool]:
    """What has to hold of a forecast that was learned from so many rows."""
    y, quiet = new["next"].to_numpy(), calm(new)
    found = {"PIT values uniform (p > 0.001)": forecast.p_uniform(rows) > 1e-3}
    for name, where in (("calm", quiet), ("restless", ~quiet)):
        error = np.sqrt(COVERAGE * (1 - COVERAGE) / where.sum())
        off = abs(forecast.coverage(y, where) - COVERAGE)
        found[f"coverage of {name} times right to 4 standard errors"] = off < 4 * error
    ratio = forecast.crps.mean() / truth.crps.mean()
    return found | {"CRPS at most 5 % above that of the truth": ratio < 1.05}


@house_style()
def draw(new: pd.DataFrame, found: dict[str, Forecast], path: Path) -> None:
    """Some weeks with intervals, and the histograms of PIT values."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    some = slice(0, 60)
    ends, true_ends = found["flow"].interval[some], found["truth"].interval[some]
    left.fill_between(range(60), *ends.T, color=MODEL, alpha=0.3, lw=0, label="90 %, flow")
    left.plot(true_ends, color=INK, lw=0.8, ls="--", label=["90 %, truth", None])
    left.plot(new["next"][some], "o", ms=3, color=DATA, label="what came")
    left.set(title="forecasts of one step", xlabel="time", ylim=(None, new["next"][some].max() + 1))
    left.legend(loc="upper left", ncols=3)
    for name, color in (("flow", MODEL), ("regression", GREY)):
        right.hist(
            found[name].pit,
            BINS,
            range=(0, 1),
            density=True,
            histtype="step",
            color=color,
            label=name,
        )
    right.axhline(1, color=INK, lw=0.8, ls="--")
    right.set(title="PIT of what came", xlabel="P(next <= what came)", ylim=(0, 2))
    right.legend()
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, forecast, and say what came out; 1 if a check of the flow fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=3_000, help="times to learn from")
    parser.add_argument("--ahead", type=int, default=1_000, help="times to forecast")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw forecasts into this image")
    options = parser.parse_args(arguments)
    new, found = forecasts(options.rows, options.ahead, options.seed)
    y, quiet = new["next"].to_numpy(), calm(new)
    print(f"{'':12}{'CRPS':>8}{'coverage':>10}{'calm':>8}{'restless':>10}{'p of PIT':>10}")
    for name, forecast in found.items():
        shares = [forecast.coverage(y, where) for where in (slice(None), quiet, ~quiet)]
        print(f"{name:12}{forecast.crps.mean():8.4f}{shares[0]:10.3f}{shares[1]:8.3f}", end="")
        print(f"{shares[2]:10.3f}{forecast.p_uniform(options.rows):10.2g}")
    held = checks(found["flow"], found["truth"], new, options.rows)
    for name, holds in held.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(new, found, options.out)
    return int(not all(held.values()))


if __name__ == "__main__":
    raise SystemExit(main())

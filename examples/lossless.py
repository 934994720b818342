"""A table in as few bytes as its probability allows, and back again bit for bit.

An event of probability p takes -log2 p bits (Shannon 1948). A density of a table with exact
probabilities is therefore a compressor: `diffeo.compression` writes each cell by its distribution
given the cells before it (range coding, Martin 1979; with flows: Hoogeboom et al. 2019). The size
of the file proves the likelihood that the model claims.

The table is that of a weather station. It is made up, so that the probability of each row is known,
and with it the least that any compressor can reach on average: the entropy. A model learns from
other rows of the same source. Three sizes have to be in this order, and near each other:

    -log2 p by the source  <  -log2 p by the model  <  the file, which also has a header

General compressors, which know nothing of columns, need more.

    python examples/lossless.py --out sizes.png

needs `pip install "diffeo[compression]"`.
"""

from __future__ import annotations

import argparse
import bz2
import lzma
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from diffeo.compression import compress_table, decompress_table
from diffeo.figures.style import GREY, INK, MODEL, house_style, save
from diffeo.sklearn import FlowDensity

SKIES, SHARES = np.array(["clear", "cloudy", "rain"]), np.array([0.5, 0.3, 0.2])
WARMTH, SPREAD, STEP = np.array([18.0, 14.0, 10.0]), np.array([4.0, 3.0, 2.5]), 0.1
WIND, FAULT = np.array([3.0, 6.0, 9.0]), 0.02  # mean force; how often no wind is recorded
CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda text: zlib.compress(text, 9),
    "bzip2": lambda text: bz2.compress(text, 9),
    "xz": lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
}


def weather(n: int, random: np.random.Generator) -> pd.DataFrame:
    """Rows of a sky, a temperature with one decimal, a count of gusts and the dew point."""
    sky = random.choice(3, n, p=SHARES)
    warmth = np.round(random.normal(WARMTH[sky], SPREAD[sky]), 1)
    dew = np.round(random.normal(warmth - 5, 1.0), 1)
    wind = random.poisson(WIND[sky]).astype(float)
    wind[random.uniform(size=n) < FAULT] = np.nan
    return pd.DataFrame({"sky": SKIES[sky], "warmth": warmth, "dew": dew, "wind": wind})


def true_bits(table: pd.DataFrame) -> float:
    """-log2 of the probability of all rows, by the source that made them."""
    sky = np.searchsorted(SKIES, table.sky)

    def cell(values: pd.Series, mean: np.ndarray, std: np.ndarray | float) -> np.ndarray:
        ends = [stats.norm.cdf(values + side * STEP / 2, mean, std) for side in (-1, 1)]
        return np.log2(ends[1] - ends[0])

    wind = stats.poisson.logpmf(table.wind.fillna(0), WIND[sky]) / np.log(2)
    wind = np.where(table.wind.isna(), np.log2(FAULT), np.log2(1 - FAULT) + wind)
    warmth = cell(table.warmth, WARMTH[sky], SPREAD[sky])
    dew = cell(table.dew, table.warmth - 5, 1.0)
    return float(-(np.log2(SHARES[sky]) + warmth + dew + wind).sum())


@dataclass(frozen=True)
class Answer:
    """Sizes in bytes.

    Args:
        truth, model: -log2 p / 8 of all rows, by the source and by the model.
        file: of the compressed table.
        again: whether the table came back bit for bit.
        others: of the text of the table, and of general compressors.
        rows: how many.
    """

    truth: float
    model: float
    file: int
    again: bool
    others: dict[str, int]
    rows: int

    def checks(self) -> dict[str, bool]:
        """What has to hold."""
        return {
            "the table comes back bit for bit": self.again,
            "the file is as the model says, to 1 % and 1,000 bytes": 0
            <= self.file - self.model
            < 0.01 * self.model + 1_000,
            # By chance a model beats the source by a factor of 1,000 once in 1,000 times.
            "the model does not beat the source": 8 * (self.model - self.truth) > -10,
            "the model is less than 3 % above the source": self.model < 1.03 * self.truth,
            "all general compressors need more": min(self.others.values()) > self.file,
        }


def solve(rows: int, learned: int, seed: int = 0) -> Answer:
    """Learn from some rows, and compress others."""
    random = np.random.default_rng(seed)
    known, table = weather(learned, random), weather(rows, random)
    density = FlowDensity(random_state=seed).fit(known)
    packed = compress_table(density.flow_, table)
    again = decompress_table(density.flow_, packed)
    text = table.to_csv(index=False).encode()
    # Scores are densities per unit: a cell of both numbers with a decimal is a tenth wide.
    nats = density.score_samples(table) + 2 * np.log(STEP)
    return Answer(
        true_bits(table) / 8,
        float(-nats.sum() / np.log(2) / 8),
        len(packed),
        bool(again.equals(table)),
        {"text": len(text)} | {name: len(coder(text)) for name, coder in CODERS.items()},
        rows,
    )


@house_style()
def draw(answer: Answer, path: Path) -> None:
    """Bits a row of the file, and of all else."""
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.subplots()
    sizes = {name: float(size) for name, size in answer.others.items() if name != "text"}
    sizes |= {"diffeo, file": answer.file, "-log2 p, model": answer.model}
    sizes |= {"-log2 p, source": answer.truth}
    colors = [GREY] * 3 + [MODEL] * 2 + [INK]
    values = [8 * size / answer.rows for size in sizes.values()]
    axes.bar_label(axes.barh([*sizes], values, color=colors), fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set(title="bits for each row", xlim=(0, 1.1 * max(values)))
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, compress, and say what came out; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000, help="to compress")
    parser.add_argument("--learned", type=int, default=1_400, help="other rows, to learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw the sizes into this image")
    options = parser.parse_args(arguments)
    answer = solve(options.rows, options.learned, options.seed)
    lines = answer.others | {"diffeo, file": answer.file, "-log2 p, model": answer.model}
    for name, size in (lines | {"-log2 p, source": answer.truth}).items():
        print(f"{name:16}{size:10,.0f} bytes{8 * size / options.rows:8.2f} bits a row")
    checks = answer.checks()
    for name, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(answer, options.out)
    return int(not all(checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())

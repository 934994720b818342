"""A synthetic table, and a report of how good it is.

A table of homes for sale has categories, counts, prices in whole hundreds, a year and empty cells,
since a flat has no garden. `FlowDensity` learns it as it is, and draws rows that belong to nobody.
Are they any good? The table is made up, so that other real rows can be drawn: they are what a
perfect synthesizer would return, and each figure is compared with theirs.

- A random forest tells synthetic from real rows (AUC 1/2 if it cannot).
- Margins: the largest distance of the distribution functions of a column, or of its shares.
- Correlations between the ranks of numbers.
- Schema: no value that its column cannot have; and how many rows break a rule of two columns, that
  flats, and no others, have no garden.
- Copies: is a synthetic row nearer to a row that was learned than a new real row is?

Two bad synthesizers are judged as well, which shows that the report sees them: columns that are
drawn each by itself, and rows that are copied.

    python examples/synthetic_table.py --out synthetic.png

needs diffeo alone. (Chundawat et al. 2022 and Alaa et al. 2022 on such reports.)
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
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors

from diffeo.figures.style import DATA, MODEL, house_style, save
from diffeo.sklearn import FlowDensity

Array = NDArray[Any]
KINDS = np.array(["flat", "house", "villa"])
NUMBERS = ["rooms", "area", "garden", "year", "price"]


def homes(n: int, random: np.random.Generator) -> pd.DataFrame:
    """Real rows: a kind, rooms, areas of home and garden, the year, heating and the price."""
    kind = random.choice(3, n, p=[0.5, 0.4, 0.1])
    rooms = 1 + random.poisson(np.array([1.5, 3.5, 6.0])[kind])
    area = np.round(rooms * random.gamma(20, 1.2 + 0.2 * kind), 1)
    garden = np.round(area * random.gamma(4 + 2 * kind, 0.7))
    year = 2019 - np.round(random.gamma(2, np.array([12, 18, 20])[kind])).astype(int)
    new = year > 1990
    heating = np.where(random.uniform(size=n) < np.where(new, 0.6, 0.1), "heat pump", "gas")
    log_price = 7.4 + 0.9 * np.log(area) + 0.2 * kind + 0.15 * new + random.normal(0, 0.15, n)
    return pd.DataFrame(
        {
            "kind": KINDS[kind],
            "rooms": rooms,
            "area": area,
            "garden": np.where(kind == 0, np.nan, garden),
            "year": year,
            "heating": heating,
            "price": 100 * np.round(np.exp(log_price) / 100),
        }
    )


def as_numbers(table: pd.DataFrame) -> Array:
    """Categories as 0 and 1, empty cells as -1, prices and areas by their logarithm."""
    found = table.assign(price=np.log(table.price), area=np.log(table.area))
    found["garden"] = np.log1p(table.garden.clip(lower=0)).fillna(-1)
    return np.asarray(pd.get_dummies(found, dtype=float).reindex(columns=COLUMNS, fill_value=0))


COLUMNS = [*NUMBERS, *(f"kind_{kind}" for kind in KINDS), "heating_gas", "heating_heat pump"]


def auc(real: pd.DataFrame, other: pd.DataFrame) -> float:
    """How well a random forest tells other rows from real ones, for rows that it has not seen."""
    x = np.concatenate((as_numbers(real), as_numbers(other)))
    y = np.r_[np.zeros(len(real)), np.ones(len(other))]
    forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=0)
    p = cross_val_predict(forest, x, y, cv=4, method="predict_proba")[:, 1]
    return float(roc_auc_score(y, p))


def margin(real: pd.Series, other: pd.Series) -> float:
    """The distance of two columns; of empty cells it is that of their shares."""
    gaps = abs(real.isna().mean() - other.isna().mean())
    if real.dtype.kind in "if":
        return float(max(gaps, stats.ks_2samp(real.dropna(), other.dropna()).statistic))
    shares = real.value_counts(normalize=True), other.value_counts(normalize=True)
    return float(shares[0].sub(shares[1], fill_value=0).abs().sum() / 2)


def ranks(table: pd.DataFrame) -> Array:
    """Correlations between the ranks of numbers, where both are there."""
    return np.asarray(table[NUMBERS].corr("spearman"))


def outside(table: pd.DataFrame) -> int:
    """How many rows have a value that its column cannot have."""
    bad = ~table.kind.isin(KINDS) | ~table.heating.isin(["gas", "heat pump"])
    bad |= (table.rooms < 1) | (table.rooms % 1 != 0) | (table.year % 1 != 0) | (table.year > 2019)
    bad |= (table.price <= 0) | (table.price % 100 != 0) | (table.area <= 0) | (table.garden < 0)
    return int((bad | table.drop(columns="garden").isna().any(axis=1)).sum())


def broken(table: pd.DataFrame) -> float:
    """The share of rows that break the rule that flats, and no others, have no garden."""
    return float(((table.kind == "flat") != table.garden.isna()).mean())


def nearer(table: pd.DataFrame, known: pd.DataFrame, new: pd.DataFrame) -> float:
    """P(d < d'), d and d' the distances of rows of a table, and of new rows, to rows known."""
    x = as_numbers(known)
    index = NearestNeighbors(n_neighbors=1).fit(x / x.std(0))
    mine, others = (index.kneighbors(as_numbers(t) / x.std(0))[0][:, 0] for t in (table, new))
    return float(1 - stats.mannwhitneyu(mine, others).statistic / (len(mine) * len(others)))


@dataclass(frozen=True)
class Report:
    """What is wrong with a synthetic table; n is the number of its rows, and of the real ones."""

    n: int
    auc: float
    margins: float
    correlations: float
    outside: int
    broken: float
    nearer: float

    @classmethod
    def of(cls, table: pd.DataFrame, known: pd.DataFrame, new: pd.DataFrame) -> Report:
        """Compare a table with rows that were learned, and with new ones."""
        return cls(
            len(table),
            auc(new, table),
            max(margin(new[name], table[name]) for name in new),
            float(np.abs(ranks(new) - ranks(table)).max()),
            outside(table),
            broken(table),
            nearer(table, known, new),
        )

    def checks(self) -> dict[str, bool]:
        """Limits that three independent tables of n rows pass by chance 999 times of 1,000.

        Rows that were learned and rows to compare with are samples as well, and so is the table:
        hence three parts, each with the variance of one sample. The forest is allowed 0.1 more.
        """
        part = np.sqrt(3 / self.n)
        return {
            "forest: AUC below 0.6 and its error": self.auc < 0.6 + 4 * 0.29 * part,
            "margins no further off than samples": self.margins < 2.2 * part,
            "correlations no further off than samples": self.correlations < 4 * part,
            "no row outside of the schema": self.outside == 0,
            "the rule of gardens broken by less than one row of ten": self.broken < 0.1,
            "not nearer to learned rows than new rows are": self.nearer < 0.5 + 4 * 0.29 * part,
        }


def solve(rows: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Report]]:
    """Learn a table, and judge as many synthetic rows and those of bad synthesizers."""
    random = np.random.default_rng(seed)
    known, new, real = (homes(rows, random) for _ in range(3))
    # What a column cannot be is found in the rows; that no home is of the future is stated.
    flow = FlowDensity(kinds={"year": {"high": 2019}}, random_state=seed).fit(known)
    made = flow.sample(rows, random_state=seed)
    alone = pd.DataFrame({name: random.permutation(known[name]) for name in known})
    tables = {"flow": made, "other real rows": real, "columns alone": alone, "copies": known}
    return new, made, {name: Report.of(table, known, new) for name, table in tables.items()}


@house_style()
def draw(new: pd.DataFrame, made: pd.DataFrame, path: Path) -> None:
    """Prices and areas of real and synthetic rows, and two margins."""
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(2, 2, 1.5))
    for place, (table, color, name) in enumerate(((new, DATA, "real"), (made, MODEL, "synthetic"))):
        axes[place].scatter(table.area[:600], table.price[:600], s=3, color=color, linewidths=0)
        axes[place].set(title=name, xscale="log", yscale="log", xlabel="area", ylabel="price")
        axes[place].set(xlim=(10, 1000), ylim=(1e4, 2e6))
        shares = table.kind.value_counts(normalize=True).reindex(KINDS)
        axes[2].bar(np.arange(3) + 0.4 * place - 0.2, shares, 0.36, color=color, label=name)
    axes[2].set(title="kind", xticks=range(3), ylabel="share", ylim=(0, 0.7))
    axes[2].set_xticklabels(KINDS)
    axes[2].legend()
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, draw rows, and report on them; 1 if a check of the flow fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2_000, help="to learn from, and to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw both tables into this image")
    options = parser.parse_args(arguments)
    new, made, reports = solve(options.rows, options.seed)
    print(made.head(4).to_string(index=False))
    print(f"{'':16}{'AUC':>8}{'margins':>9}{'ranks':>8}{'outside':>9}{'broken':>8}{'nearer':>8}")
    for name, found in reports.items():
        print(f"{name:16}{found.auc:8.3f}{found.margins:9.3f}{found.correlations:8.3f}", end="")
        print(f"{found.outside:9}{found.broken:8.3f}{found.nearer:8.3f}")
    checks = reports["flow"].checks()
    for name, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(new, made, options.out)
    return int(not all(checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())

"""Real tables of the benchmarks: their numeric columns, or all, and random splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import datasets

from diffeo.data.tables.loading import step_size

DATA = Path(__file__).parents[2] / "shared" / "data"
BUNDLED = ("iris", "wine", "diabetes", "breast_cancer")
FILES = {"power-plant": "uci/power-plant.csv", "protein": "uci/protein-tertiary-structure.csv"}
# Small ones first.
NUMERIC = (
    *(*BUNDLED, "penguins", "cars", "seattle-weather", "wage"),
    *("nyc-weather", "power-plant", "credit_cards", "nyc-flights", "protein"),
)
MOST, MANY, DECIMALS = 20_000, 5_000, 9
GAPS = 0.5  # a column with a larger share of gaps is dropped, not its rows
SPARSE = 100  # a grid with so many points for each value is none
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class NumericTable:
    """The complete numeric columns of a table.

    Args:
        name: of the table.
        columns: their names.
        exact: the rows as they are written, `(rows, columns)`.
        steps: of the grid of each column, 0 for a continuous one.
        dropped: the columns that are left out, each with the reason.
    """

    name: str
    columns: list[str]
    exact: Rows
    steps: Rows
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def jittered(self) -> Rows:
        """The rows, each value spread uniformly over its cell."""
        noise = np.random.default_rng(0).random(self.exact.shape)
        parts = zip(self.exact.T, self.steps, noise.T, strict=True)
        return np.column_stack([spread(*part) for part in parts])


def read(name: str, folder: Path = DATA) -> pd.DataFrame:
    """A table as it comes.

    Raises:
        ValueError: if there is no such file.
    """
    if name in BUNDLED:
        options = {"scaled": False} if name == "diabetes" else {}
        return getattr(datasets, f"load_{name}")(as_frame=True, **options).data
    file = folder / FILES.get(name, f"tables/{name}.csv")
    if not file.is_file():
        raise ValueError(f"{name} is skipped: {file} does not exist")
    return pd.read_csv(file)


def numeric(name: str, folder: Path = DATA) -> NumericTable:
    """The numeric columns of a table that are neither constant nor functions of others."""
    frame = read(name, folder).select_dtypes("number")
    gaps = frame.isna().mean()
    dropped = {c: f"{gaps[c]:.0%} are gaps" for c in frame if gaps[c] > GAPS}
    frame = frame.drop(columns=list(dropped)).dropna()
    if len(frame) > MOST:
        frame = frame.iloc[np.random.default_rng(0).permutation(len(frame))[:MOST]]
    frame = frame.astype(np.float64).round(DECIMALS)
    dropped |= dict(functions(frame))
    frame = frame.drop(columns=[c for c in dropped if c in frame])
    exact = frame.to_numpy()
    return NumericTable(name, list(frame), exact, np.array([*map(grid_step, exact.T)]), dropped)


def functions(frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Columns that are constant, or exactly determined by others that stay."""
    columns = [c for c in frame if frame[c].nunique() > 1]
    yield from ((c, "constant") for c in frame if c not in columns)
    for column in reversed(columns.copy()):
        others = [c for c in columns if c != column]
        values, x = frame[column].to_numpy(), frame[others].to_numpy()
        x = np.column_stack(((x - x.mean(0)) / x.std(0), np.ones(len(x))))
        rest = values - x @ np.linalg.lstsq(x, values)[0]
        # Of what repeats in more than half of its rows, another column may be a table of values.
        few = [c for c in others if frame[c].nunique() < len(frame) / 2]
        by = [c for c in few if frame[c].nunique() == len(frame[[c, column]].drop_duplicates())]
        if rest.std() < 1e-6 * values.std():
            yield column, "a linear function of others"
        elif by:
            yield column, f"a function of {by[0]}"
        else:
            continue
        columns.remove(column)


def grid_step(column: Rows) -> float:
    """The step of the grid on which a column `(rows,)` lies, 0 if there is none."""
    written = (d for d in range(DECIMALS) if np.array_equal(column.round(d), column))
    step = max(step_size(column), next((10.0**-d for d in written), 0.0))
    return 0.0 if repeats(column) and np.ptp(column) > SPARSE * len({*column}) * step else step


def repeats(column: Rows) -> bool:
    """Whether most rows have a value that another row has, too."""
    counts = np.unique(column, return_counts=True)[1]
    return bool((counts == 1).sum() < len(column) / 2)


def spread(column: Rows, step: float, noise: Rows) -> Rows:
    """A column, each value at a random place of its cell; `noise` is uniform in [0, 1).

    A cell is as wide as the step of the grid. Values that repeat and lie on no grid share the
    space between them.
    """
    if step or not repeats(column):
        return column + step * (noise - 0.5)
    values, place = np.unique(column, return_inverse=True)
    middles = (values[1:] + values[:-1]) / 2
    edges = np.r_[2 * values[0] - middles[0], middles, 2 * values[-1] - middles[-1]]
    return edges[place] + noise * np.diff(edges)[place]


def split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random places of four fifths for training, and of a fifth for the test."""
    order = np.random.default_rng(seed).permutation(count)
    return order[count // 5 :], order[: count // 5]


def splits(count: int) -> int:
    """How many splits of so many rows are measured."""
    return 2 if count > MANY else 5

"""Which cell of a row is wrong? Anomalies of a real table, and their explanation.

The table is that of 569 breast tumours (Street et al. 1993), which scikit-learn has; here six
measures of each and its diagnosis. In half of the held-out rows one number is exchanged for that of
another row, as a slip in a spreadsheet does: the value itself is a usual one, and only the other
cells of the row say that it is wrong.

`FlowOutlierDetector` learns the density of the other rows. Three questions, whose truth is known
since the errors were made here:

- Do rows with an error score as less likely? (AUROC, against IsolationForest)
- Does `explain` name the wrong cell first? (by chance one row of seven)
- Are as many intact rows flagged as `contamination` says?

    python examples/odd_cells.py --out cells.png

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
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from diffeo.figures.style import DATA, GREY, MODEL, house_style, save
from diffeo.sklearn import FlowOutlierDetector

Array = NDArray[Any]
FLAGGED = 0.05
NAMES = ["radius", "area", "texture", "smoothness", "compactness", "concavity"]
NUMBERS = len(NAMES)


def tumours() -> pd.DataFrame:
    """Six numbers and a diagnosis for each tumour."""
    data = load_breast_cancer(as_frame=True)
    frame = data.data[[f"mean {name}" for name in NAMES]].set_axis(NAMES, axis=1)
    names = np.where(data.target == 1, "benign", "malignant")
    return frame.assign(diagnosis=names)


def exchanged(rows: pd.DataFrame, random: np.random.Generator) -> tuple[pd.DataFrame, Array]:
    """Rows with one number each from another row, and the place of its column."""
    wrong, places = rows.copy(), random.integers(NUMBERS, size=len(rows))
    for i, place in enumerate(places):
        old = rows.iloc[i, place]
        # By at least a standard deviation: smaller slips look like the truth.
        far = (rows.iloc[:, place] - old).abs() > rows.iloc[:, place].std()
        wrong.iloc[i, place] = random.choice(rows.iloc[:, place][far])
    return wrong, places


@dataclass(frozen=True)
class Answer:
    """What was found in one or several splits of the table.

    Args:
        intact, wrong: log-densities less the threshold, of both kinds of rows.
        forest: the AUROC of IsolationForest.
        first: of each wrong row, whether the wrong cell is named first.
        example: the explanation of one wrong row, a line for each cell.
        column: which cell is wrong there.
    """

    intact: Array
    wrong: Array
    forest: float
    first: Array
    example: pd.DataFrame
    column: str

    @property
    def auroc(self) -> float:
        """The chance that a wrong row scores below an intact one."""
        return _auroc(self.intact, self.wrong)

    def checks(self) -> dict[str, bool]:
        """What has to hold, by standard errors of shares of n rows."""
        intact, n = float((self.intact < 0).mean()), len(self.intact)
        # The threshold itself is known from a sample of rows, not far larger than these.
        error = np.sqrt(2 * FLAGGED * (1 - FLAGGED) / n)
        share = float(self.first.mean())
        slack = 4 * np.sqrt(share * (1 - share) / len(self.first))
        return {
            "AUROC above that of IsolationForest": self.auroc > self.forest,
            "the wrong cell first in more than half of the rows": share - slack > 0.5,
            "intact rows flagged as often as asked, to 4 standard errors": abs(intact - FLAGGED)
            < 4 * error,
        }


def _auroc(intact: Array, wrong: Array) -> float:
    truth = np.r_[np.zeros(len(intact)), np.ones(len(wrong))]
    return float(roc_auc_score(truth, -np.r_[intact, wrong]))


def solve(splits: int, seed: int = 0) -> Answer:
    """Learn from two thirds of the rows, and judge the others; several times, to count more."""
    table, random = tumours(), np.random.default_rng(seed)
    found: list[tuple[Array, Array, float, Array]] = []
    for split in range(splits):
        order = random.permutation(len(table))
        known, new = table.iloc[order[:380]], table.iloc[order[380:]].reset_index(drop=True)
        half = len(new) // 2
        good, (bad, places) = new[:half], exchanged(new[half:], random)
        detector = FlowOutlierDetector(contamination=FLAGGED, trim=0, random_state=split)
        detector.fit(known)
        lines = detector.explain(bad)
        worst = lines.loc[lines.groupby("row").surprise.idxmax()].sort_values("row")
        names = table.columns[places].to_numpy()
        first = worst.column.to_numpy() == names
        forest = IsolationForest(random_state=split).fit(known.iloc[:, :NUMBERS])
        pair = [forest.score_samples(rows.iloc[:, :NUMBERS]) for rows in (good, bad)]
        scores = [detector.decision_function(rows) for rows in (good, bad)]
        found.append((*scores, _auroc(*pair), first))
    intact, wrong, forests, firsts = zip(*found, strict=True)
    # One that is named right, and not the clearest of all: in the middle of their order.
    surprise = np.where(first, worst.surprise, -np.inf)
    row = int(np.argsort(surprise)[-(int(first.sum()) // 2) - 1])
    return Answer(
        np.concatenate(intact),
        np.concatenate(wrong),
        float(np.mean(forests)),
        np.concatenate(firsts),
        lines[lines.row == row].sort_values("surprise"),
        str(names[row]),
    )


@house_style()
def draw(answer: Answer, path: Path) -> None:
    """Scores of intact and wrong rows, and one explanation."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = np.linspace(-40, 15, 45)
    for values, color, name in (
        (answer.intact, DATA, "intact rows"),
        (answer.wrong, MODEL, "one cell exchanged"),
    ):
        left.hist(values.clip(-40, 15), bins, color=color, alpha=0.6, label=name)
    left.axvline(0, color=GREY, lw=0.8, ls="--")
    left.set(title="scores of new rows", xlabel="log-density above the threshold, nats")
    left.set_ylabel("rows")
    left.legend(loc="upper left")
    lines = answer.example
    colors = [MODEL if name == answer.column else GREY for name in lines.column]
    right.barh(lines.column, lines.surprise, color=colors)
    right.set(title="one wrong row: which cell is odd?", xlabel="surprise, nats")
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, look for errors, and say what came out; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--splits", type=int, default=3, help="of the table, each learned anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw scores and an explanation into this image")
    options = parser.parse_args(arguments)
    answer = solve(options.splits, options.seed)
    n = len(answer.first)
    print(f"AUROC of {n} rows with an error: {answer.auroc:.3f}, forest {answer.forest:.3f}")
    print(f"the wrong cell is named first in {100 * answer.first.mean():.1f} % of them")
    print(
        f"flagged: {100 * (answer.intact < 0).mean():.1f} % of intact rows, asked {100 * FLAGGED}",
        end="; ",
    )
    print(f"{100 * (answer.wrong < 0).mean():.1f} % of wrong ones")
    print(answer.example[::-1].head(3).to_string(index=False))
    checks = answer.checks()
    for name, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    if options.out:
        draw(answer, options.out)
    return int(not all(checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())

"""The benchmarks of outliers and of gaps: their sets, rivals and figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks import __main__ as command
from benchmarks import gaps, outliers
from benchmarks.mixed_tables import GAP, MixedTable


def test_detectors_are_compared_and_ours_is_added_to_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outliers, "ROWS", 100)
    arguments = ["outliers", "--sets", "moons", "--seeds", "1", "--out", str(tmp_path)]
    assert command.main([*arguments, "--only", "rivals"]) == 0

    class Odd:
        """Explains, and calls all rows normal."""

        def fit(self, x: np.ndarray) -> None:
            self.middle, self.scale = np.median(x, axis=0), x.std(0)

        def far(self, x: np.ndarray) -> np.ndarray:
            return np.abs(x - self.middle) / self.scale

        def explain(self, x: np.ndarray) -> pd.DataFrame:
            row, column = np.indices(x.shape)
            names = [f"x{i}" for i in column.ravel()]
            cells = {"row": row.ravel(), "column": names, "surprise": self.far(x).ravel()}
            return pd.DataFrame(cells)

        def score_samples(self, x: np.ndarray) -> np.ndarray:
            return -self.far(x).sum(1)

        def predict(self, x: np.ndarray) -> np.ndarray:
            return np.ones(len(x))

    monkeypatch.setattr("diffeo.sklearn.FlowOutlierDetector", lambda **_: Odd())
    assert command.main([*arguments, "--only", "ours"]) == 0
    printed = capsys.readouterr().out
    assert "| clean | diffeo | IsolationForest | LOF |" in printed
    assert "moons: the corrupted cell is first in" in printed
    results = pd.read_csv(tmp_path / "outliers.csv").set_index(["detector", "rows"])
    assert results.loc[("LOF", "clean"), "auroc"] > 0.6
    assert results.loc[("diffeo", "clean"), "flagged"] == 0
    assert 0.5 < results.loc[("diffeo", "clean"), "named first"] <= 1


def test_a_corrupted_row_has_one_cell_far_from_what_it_was() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    rows, column = outliers.corrupted(x, np.random.default_rng(1))
    changed = rows != x
    assert (changed.sum(1) == 1).all() and np.array_equal(changed.argmax(1), column)
    assert np.abs(rows - x)[changed].min() > 2.4 * x.std(0).min()
    assert np.abs(rows[changed]).min() > 2


def follow(rows: int = 300) -> MixedTable:
    """Two numbers and a category that follow each other, with some gaps."""
    random = np.random.default_rng(0)
    a = random.normal(size=rows)
    colour = np.where(a > 0, "red", "blue").astype(object)
    colour[:5] = GAP
    frame = pd.DataFrame({"a": a, "b": 3 * a + 0.1 * random.normal(size=rows), "colour": colour})
    frame.loc[:3, "b"] = np.nan
    return MixedTable("follow", frame, frame, {"a": 0.0, "b": 0.0}, {})


def test_errors_are_of_removed_cells_alone() -> None:
    table = follow()
    holed = gaps.remove(table, 0)
    assert holed[["a"]].isna().to_numpy().mean() == pytest.approx(0.2, abs=0.06)

    def know(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> pd.DataFrame:
        return table.exact.loc[test.index]

    assert gaps.errors(table, know, 0) == {"rmse": 0, "accuracy": 1}
    mean = gaps.errors(table, gaps.RIVALS["mean or mode"], 0)
    assert mean["rmse"] == pytest.approx(1, abs=0.2)
    for name in ("KNNImputer", "IterativeImputer"):
        found = gaps.errors(table, gaps.RIVALS[name], 0)
        assert found["rmse"] < 0.85 * mean["rmse"] and found["accuracy"] > mean["accuracy"] + 0.1


def test_the_command_fills_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gaps, "OURS", {"diffeo": gaps.RIVALS["mean or mode"]})
    arguments = ["gaps", "--tables", "wine", "cars", "--seeds", "2", "--out", str(tmp_path)]
    assert command.main([*arguments, "--data", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "cars is skipped" in printed and "| wine | rmse |" in printed
    assert len(pd.read_csv(tmp_path / "gaps.csv")) == 8

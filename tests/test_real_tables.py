"""The benchmarks of real tables: what is measured, on which rows, and how it is compared."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from benchmarks import __main__ as command
from benchmarks import numeric, real, store, timed, verdicts
from sklearn.neighbors import KernelDensity


def test_columns_that_are_functions_of_others_are_dropped(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    hour, minute, x = (
        random.integers(24, size=300),
        random.integers(60, size=300),
        random.random(300),
    )
    columns = {"hour": hour, "minute": minute, "time": 100 * hour + minute, "x": x}
    columns |= {"year": np.full(300, 2013), "square": hour**2, "gaps": np.where(x < 0.8, np.nan, 1)}
    (tmp_path / "tables").mkdir()
    frame = pd.DataFrame(columns | {"text": ["a"] * 300})
    frame.loc[3, "x"] = np.nan
    frame.to_csv(tmp_path / "tables" / "cars.csv", index=False)
    table = real.numeric("cars", tmp_path)
    assert table.columns == ["hour", "minute", "x"]
    assert [*table.dropped] == ["gaps", "year", "square", "time"]
    assert len(table.exact) == 299
    assert table.steps.tolist() == [1, 1, 0]
    assert np.array_equal(table.jittered[:, :2].round(), table.exact[:, :2])
    assert np.array_equal(table.jittered[:, 2], table.exact[:, 2])


def test_values_without_a_grid_that_repeat_share_the_space_between_them() -> None:
    column = np.log([2.0, 3.0, 3.0, 5.0] * 1_000)
    assert real.grid_step(np.r_[column, np.log(5) + 1e-6, np.log(5) + 1e-6]) == 0
    x = real.spread(column, 0.0, np.random.default_rng(0).random(len(column)))
    middles = np.log([2 * 3, 3 * 5]) / 2
    assert np.array_equal(np.digitize(x, middles), np.digitize(column, middles))
    assert np.ptp(x[column == np.log(3)]) == pytest.approx(np.diff(middles)[0], rel=0.01)


def test_rows_are_split_as_the_seed_says_and_standardized_by_training_rows() -> None:
    problem = numeric.Problem.of(real.numeric("iris"), 1, 1.0)
    assert (len(problem.train), len(problem.test)) == (120, 30)
    assert problem.train.mean(0) == pytest.approx(np.zeros(4), abs=1e-9)
    assert problem.train.std(0) == pytest.approx(np.ones(4))
    again = numeric.Problem.of(real.numeric("iris"), 1, 1.0)
    assert np.array_equal(problem.test, again.test)


@pytest.mark.parametrize("whiten", [False, True])
def test_densities_of_kernels_integrate_to_one(whiten: bool) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.9], [0.0, 0.3]]
    line = np.linspace(-6, 6, 121)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    problem = numeric.Problem(x, grid, x, grid, np.ones(2), 0, 1.0)
    log_p, _ = numeric.kernels(problem, whiten)
    assert np.exp(log_p).sum() * 0.1**2 == pytest.approx(1, abs=0.01)


def test_densities_of_kernels_are_those_of_scikit_learn() -> None:
    problem = numeric.Problem.of(real.numeric("wine"), 0, 1.0)
    log_p, chosen = numeric.kernels(problem)
    theirs = KernelDensity(bandwidth=float(chosen.split()[1])).fit(problem.train)
    assert log_p == pytest.approx(theirs.score_samples(problem.test), abs=0.1)


def test_the_loop_learns_and_stops_at_its_patience() -> None:
    pytest.importorskip("zuko")
    x = np.random.default_rng(0).normal(0.3, 0.8, size=(400, 2))
    setting = timed.Setting(1, (8,), 5e-2, 100, {})
    learner = numeric.zuko_learner("MAF", x[:300], x[300:], setting)
    before = learner.validate()
    best, steps = timed.fit(learner, 300, setting, seconds=60, steps=400, patience=8)
    mean, std = x[:300].mean(0), x[:300].std(0)
    truth = scipy.stats.norm(mean, std).logpdf(x[300:]).sum(1).mean()
    assert before < best == pytest.approx(truth, abs=0.1)
    assert learner.score(x[300:]).mean() == pytest.approx(best, abs=1e-4)
    assert 50 < steps <= 400


def normal(problem: numeric.Problem) -> tuple[np.ndarray, str]:
    return -0.5 * (problem.test**2).sum(1), "none"


def test_results_are_measured_once_and_compared_by_pairs_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFEO_BENCHMARKS", str(tmp_path / "cache"))
    rivals = {"same": normal, "worse": lambda problem: (normal(problem)[0] - 1, "none")}
    monkeypatch.setattr(numeric, "RIVALS", rivals)
    monkeypatch.setattr(numeric, "OURS", {"diffeo": normal})
    arguments = ["numeric", "--tables", "iris", "penguins", "--splits", "2"]
    arguments += ["--out", str(tmp_path), "--data", str(tmp_path)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "penguins is skipped" in printed
    assert "| iris, 150 x 4 | same |" in printed and "+0.000 ± 0.000 | within one SE" in printed
    monkeypatch.setattr(numeric, "RIVALS", {"same": None, "worse": None})  # not to be called
    better = lambda problem: (normal(problem)[0] + 2, "none")  # noqa: E731
    monkeypatch.setattr(numeric, "OURS", {"diffeo": better})
    assert command.main([*arguments, "--only", "ours", "--again"]) == 0
    assert "+2.000 ± 0.000 | best" in capsys.readouterr().out
    found = store.Store(tmp_path / "numeric-ours.csv", tmp_path / "cache")
    rows = found.rows(("iris", 1, "diffeo"))
    assert rows is not None and len(rows) == 30
    assert found.lines["iris", 1, "diffeo"]["mean"] == pytest.approx(rows.mean(), abs=1e-4)


@pytest.mark.parametrize(
    ("ours", "word"), [(1.1, "best"), (0.95, "within one SE"), (0.5, "behind")]
)
def test_the_word_is_that_of_the_difference(ours: float, word: str) -> None:
    assert verdicts.Verdict("t", "ours", "r", 1.0, ours, 0.1).word == word

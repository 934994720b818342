"""The benchmarks of mixed tables: the rivals' densities are densities, and samples are judged."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks import __main__ as command
from benchmarks import copula, forests, mixed, mixed_tables
from scipy.stats import multivariate_normal, norm


def made_up(rows: int = 400) -> pd.DataFrame:
    """A number with gaps, which depend on a category; two categories that depend on it."""
    random = np.random.default_rng(0)
    colour = random.choice(["blue", "green", "red"], rows, p=[0.5, 0.3, 0.2])
    x = random.normal(size=rows) + (colour == "red")
    flag = np.where(x + 0.5 * random.normal(size=rows) > 0.3, "yes", "no")
    x[random.random(rows) < 0.1 + 0.3 * (colour == "blue")] = np.nan
    return pd.DataFrame({"colour": colour.astype(object), "x": x, "flag": flag.astype(object)})


def cells(line: np.ndarray) -> pd.DataFrame:
    """All that a row can be, numbers on a line."""
    values = {"colour": ["blue", "green", "red"], "x": [*line, np.nan], "flag": ["yes", "no"]}
    return pd.MultiIndex.from_product(values.values(), names=values).to_frame(index=False)


@pytest.mark.parametrize("name", ["copula", "forest"])
def test_densities_of_rivals_sum_and_integrate_to_one_gaps_included(name: str) -> None:
    line = np.linspace(-8, 9, 171)
    if name == "forest":
        pytest.importorskip("arfpy")
        log_p = forests.Forest(made_up(150)).log_prob(cells(line))
    else:
        log_p = copula.GaussianCopula(made_up(150)).log_prob(cells(line))
    gap = cells(line)["x"].isna()
    total = np.exp(log_p[gap]).sum() + 0.1 * np.exp(log_p[~gap]).sum()
    assert total == pytest.approx(1, abs=0.01)
    frequency = made_up(150)["x"].isna().mean()
    assert np.exp(log_p[gap]).sum() == pytest.approx(frequency, abs=0.03)


def test_the_copula_finds_a_correlation_between_categories() -> None:
    z = np.random.default_rng(1).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 3_000)
    frame = pd.DataFrame((z > 0.5).astype(int).astype(str), columns=["a", "b"]).astype(object)
    learned = copula.GaussianCopula(frame)
    assert learned.correlation[0, 1] == pytest.approx(0.8, abs=0.05)
    truth = multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]]).cdf([0.5, 0.5])
    row = pd.DataFrame({"a": ["0"], "b": ["0"]})
    assert np.exp(learned.log_prob(row)[0]) == pytest.approx(truth, abs=0.02)


def test_intervals_of_the_normal_have_digits_in_both_tails() -> None:
    low, high = np.array([-31.0, 30.0, -0.5]), np.array([-30.0, 31.0, 0.5])
    tail = norm.logcdf(-30)
    expected = [tail, tail, np.log(norm.cdf(0.5) - norm.cdf(-0.5))]
    assert copula.log_interval(low, high) == pytest.approx(expected, rel=1e-6)
    drawn = copula.truncated(np.random.default_rng(0), low, high)
    assert ((drawn >= low) & (drawn <= high)).all()


def write_cars(folder: Path, rows: int = 300) -> None:
    random = np.random.default_rng(0)
    frame = made_up(rows).round({"x": 1})
    frame["Name"] = [f"car {i}" for i in range(rows)]
    frame["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(
        random.integers(900, size=rows), "D"
    )
    frame["doors"] = random.integers(2, 5, size=rows)
    frame["make"] = [f"make {i % 130}" for i in range(rows)]
    (folder / "tables").mkdir()
    frame.to_csv(folder / "tables" / "cars.csv", index=False)


def test_columns_become_numbers_or_categories(tmp_path: Path) -> None:
    write_cars(tmp_path)
    table = mixed_tables.mixed("cars", tmp_path)
    assert table.numbers == ["x", "day"] and table.steps == pytest.approx({"x": 0.1, "day": 1})
    assert table.categories == ["colour", "flag", "doors"]
    assert set(table.exact["doors"]) == {"2", "3", "4"}
    assert [*table.dropped] == ["Name", "make"]
    difference = table.jittered["x"] - table.exact["x"]
    assert difference.abs().max() <= 0.05 and difference.isna().any()


def test_samples_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cars(tmp_path)
    monkeypatch.setattr(mixed, "TREES", 20)
    table = mixed_tables.mixed("cars", tmp_path)
    wrong = table.exact.copy()
    assert mixed.outside(table, wrong) == 0
    wrong.loc[0, "x"], wrong.loc[1, "x"], wrong.loc[2, "doors"] = 99.0, 0.123, "7"
    wrong.loc[3, "day"] = np.nan
    assert mixed.outside(table, wrong) == pytest.approx(4 / wrong.size)
    assert mixed.outside(table, mixed.rounded(table, wrong)) == pytest.approx(3 / wrong.size)
    rows = mixed.encoded(table, table.exact)
    assert mixed.separation(rows[:150], rows[150:]) < 0.65
    assert mixed.separation(rows[:150], rows[150:] + 5) > 0.9


def test_the_command_compares_on_mixed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cars(tmp_path, 150)
    monkeypatch.setenv("DIFFEO_BENCHMARKS", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFEO_SDV", raising=False)
    monkeypatch.setattr(mixed, "TREES", 5)
    monkeypatch.setattr(mixed, "RIVALS", {"Gaussian copula": mixed.copula})
    monkeypatch.setattr(mixed, "OURS", {"diffeo": mixed.copula})
    samples = mixed.SAMPLERS["Gaussian copula"]
    sdv = mixed.SAMPLERS["SDV CTGAN"]
    samplers = {"diffeo": samples, "training rows": mixed.training_rows, "c": samples, "s": sdv}
    monkeypatch.setattr(mixed, "SAMPLERS", samplers)
    arguments = ["mixed", "--tables", "cars", "penguins", "--splits", "1"]
    arguments += ["--out", str(tmp_path), "--data", str(tmp_path)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "penguins is skipped" in printed and "+0.000 ± 0.000 | within one SE" in printed
    assert command.main([*arguments, "--samples", "--draws", "5000"]) == 0
    assert "DIFFEO_SDV names no interpreter" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "mixed-samples.csv")
    assert [*found["method"].unique()] == ["diffeo", "training rows", "c"]
    assert [*found["split"]] == [*range(mixed.FEW_SPLITS)] * 3  # since there are few rows
    assert found["outside"].max() == 0

"""`diffeo train` of tables as they are, and what is done with the run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.commands import refused

from diffeo import MixedFlow
from diffeo.cli import main
from diffeo.data import DataOptions, find_schema
from diffeo.run import Run, train
from diffeo.training.options import OptimizerOptions, TrainerOptions

TABLES = Path(__file__).parents[2] / "shared" / "data" / "tables"


def patients(rows=300, seed=0):
    source = np.random.default_rng(seed)
    ward = source.choice(["east", "north", "west"], rows, p=[0.5, 0.3, 0.2])
    frame = pd.DataFrame(
        {
            "id": [f"P{i:05d}" for i in range(rows)],
            "ward": ward,
            "smoker": source.random(rows) < 0.3,
            "visits": source.poisson(2, rows),
            "dose": np.where(source.random(rows) < 0.6, 0.0, source.exponential(size=rows)),
            "oxygen": np.round(97 + source.normal(size=rows) - 2 * (ward == "west"), 1),
            "day": pd.Timestamp("2024-03-01") + pd.to_timedelta(source.integers(0, 90, rows), "D"),
        }
    )
    frame.loc[::15, "oxygen"] = np.nan
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, and a run that learned it, in a folder."""
    place = tmp_path_factory.mktemp("mixed")
    patients().to_csv(place / "patients.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--data", "patients.csv", "--out", "run"]) == 0
        given = ["--data.context", "ward,visits", "--out", "given"]
        assert main(["train", "--data", "patients.csv", *given]) == 0
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_a_table_is_learned_by_default_and_its_columns_are_printed(here, capsys, tmp_path):
    command = ["train", "--data", "patients.csv", "--kinds", "visits=category,day=left out"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    for words in ("patient", "left out", "visits", "category", "MixedFlow learns 5 columns"):
        assert words in printed
    run = Run(tmp_path / "run")
    assert isinstance(run.flow, MixedFlow)
    assert run.columns == ["ward", "smoker", "visits", "dose", "oxygen"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"]["rows"] == 30 and results["test"]["standardized"] is None


def test_samples_are_rows_of_the_same_kinds(here):
    assert main(["sample", "run", "-n", "2000", "--seed", "1", "--out", "samples.csv"]) == 0
    data, drawn = pd.read_csv("patients.csv").drop(columns="id"), pd.read_csv("samples.csv")
    assert list(drawn.columns) == list(data.columns)
    assert list(map(str, drawn.dtypes)) == list(map(str, data.dtypes))
    kinds = [type(column) for column in find_schema(data).columns]
    assert [type(column) for column in find_schema(drawn).columns] == kinds
    assert {*drawn["ward"]} == {"east", "north", "west"} and (drawn["visits"] >= 0).all()
    assert (drawn["dose"] >= 0).all()
    assert (drawn["dose"] == 0).mean() == pytest.approx(0.6, abs=0.08)
    assert drawn["oxygen"].isna().mean() == pytest.approx(1 / 15, abs=0.04)
    assert main(["sample", "run", "-n", "20", "--out", "samples.parquet"]) == 0
    assert len(pd.read_parquet("samples.parquet")) == 20


def test_scores_are_those_of_the_model_and_unlikely_cells_have_none(here):
    frame = patients(50, seed=1)
    frame.loc[0, "ward"], frame.loc[1, "dose"] = "south", -1.0
    frame.to_csv("new.csv", index=False)
    assert main(["score", "run", "--data", "new.csv", "--out", "scores.csv"]) == 0
    scores = pd.read_csv("scores.csv")["log_prob"].to_numpy()
    assert (scores[:2] == -np.inf).all() and np.isfinite(scores[2:]).all()
    run = Run("run")
    x = torch.cat([x for x, _ in run.rows("new.csv")])
    np.testing.assert_allclose(run.flow.log_prob(x).detach().numpy(), scores, rtol=1e-9)
    assert main(["score", "run", "--data", "new.csv", "--kind", "complexity"]) == 0
    assert pd.read_csv("scores.csv")["complexity"].notna().all()


def test_it_is_evaluated_and_drawn(here, capsys):
    assert main(["eval", "run"]) == 0
    assert "standardized" not in capsys.readouterr().out
    assert main(["eval", "run", "--data", "patients.csv"]) == 0
    assert "300" in capsys.readouterr().out
    assert main(["plot", "run", "--out", "plot.png"]) == 0
    refused(["plot", "run", "--kind", "panels"], capsys, "mixed tables", "marginals")
    assert (here / "run" / "figures" / "marginals.png").stat().st_size > 10_000


def test_contexts_are_cells_of_the_table(here, capsys):
    command = ["sample", "given", "-n", "400", "--out", "at.csv"]
    assert main([*command, "--context", "ward=west,visits=3"]) == 0
    drawn = pd.read_csv("at.csv")
    assert {*drawn["ward"]} == {"west"} and {*drawn["visits"]} == {3}
    assert drawn["oxygen"].mean() == pytest.approx(95, abs=0.5)
    refused([*command, "--context", "ward=south"], capsys, "south", "east")
    pd.DataFrame({"ward": ["east", "west"], "visits": [0, 5]}).to_csv("who.csv", index=False)
    assert main(["sample", "given", "--contexts", "who.csv", "-n", "3", "--out", "six.csv"]) == 0
    assert pd.read_csv("six.csv")["ward"].tolist() == ["east"] * 3 + ["west"] * 3
    assert main(["score", "given", "--data", "patients.csv", "--out", "given.csv"]) == 0
    assert np.isfinite(pd.read_csv("given.csv")["log_prob"]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.max_epochs", "3"], ["--trainer.max_epochs", "--model RealNVP"]),
        (["--optimizer.lr", "0.1"], ["--optimizer.lr"]),
        (["--data.dequantize", "true"], ["--data.dequantize", "probabilities"]),
        (["--precision", "bf16"], ["--precision"]),
        (["--kinds", "wart=number"], ["wart", "ward"]),
        (["--data.context", "id"], ["id", "context"]),
        (["--model", "RealNVP"], ["'id'", "not numeric"]),
        (["--model", "RealNVP", "--kinds", "ward=number"], ["--data.kinds", "MixedFlow"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(here, capsys, options, words):
    refused(["train", "--data", "patients.csv", "--out", "none", *options], capsys, *words)
    assert not (here / "none").exists()


def test_a_trained_run_is_not_resumed(here, capsys):
    refused(["train", "--resume", "run"], capsys, "learns no further")


def test_in_python_it_is_learned_by_default_too(here, tmp_path):
    folder = train(None, DataOptions("patients.csv", rows=120), tmp_path / "run", seed=3)
    first, again = (
        Run(folder),
        Run(train(MixedFlow, DataOptions("patients.csv", rows=120), tmp_path / "b", seed=3)),
    )
    x = first.data().test.x
    assert torch.equal(first.flow.log_prob(x), again.flow.log_prob(x))
    with pytest.raises(ValueError, match="max_epochs"):
        train(None, DataOptions("patients.csv"), trainer=TrainerOptions(max_epochs=3))
    with pytest.raises(ValueError, match="holds images"):
        train(MixedFlow, DataOptions("digits"), optimizer=OptimizerOptions())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in TABLES.glob("*.csv")) or ["none"])
def test_real_tables_are_learned_drawn_and_scored_without_preparation(name, tmp_path, monkeypatch):
    if not TABLES.is_dir():
        pytest.skip("the tables are not on this machine")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", str(TABLES / name), "--data.rows", "2000", "--out", "run"]) == 0
    assert main(["sample", "run", "-n", "500", "--out", "samples.csv"]) == 0
    assert main(["score", "run", "--data", "samples.csv", "--out", "scores.csv"]) == 0
    assert np.isfinite(pd.read_csv("scores.csv")["log_prob"]).all()


def test_what_is_for_other_models_is_refused(here, capsys):
    refused(["export", "run", "--to", "torch", "--out", "files"], capsys, "MixedFlow", "diffeo")
    refused(["reconstruct", "run", "--out", "a.png"], capsys, "images")
    assert main(["share", "run", "--out", "shared"]) == 0
    assert main(["sample", "shared", "-n", "5", "--out", "five.csv"]) == 0
    assert len(pd.read_csv("five.csv")) == 5
    assert main(["share", "given", "--out", "shared-given"]) == 0
    card = Path("shared-given/README.md").read_text()
    code = card.partition("```python")[2].partition("```")[0]
    exec(code.replace("OWNER/NAME", "shared-given"), {})

"""`--data.weights COLUMN`: rows that count more than others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import refused

import diffeo
from diffeo.cli import main
from diffeo.data import DataOptions, Split, load_data
from diffeo.data.datasets import Batches, evenly, fingerprint
from diffeo.evaluation.likelihood import evaluate_batches
from diffeo.run import Run
from diffeo.training.loop import Training
from diffeo.training.objective import Objective
from diffeo.training.options import OptimizerOptions, TrainerOptions

SHORT = ["--trainer.max_epochs", "2", "--model.layers", "2", "--model.hidden", "[8]"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: int = 200, **changes) -> pd.DataFrame:
    source = np.random.default_rng(0)
    table = pd.DataFrame({"a": source.normal(size=rows), "b": source.normal(size=rows)})
    table["w"] = source.integers(0, 4, rows).astype(float)
    table = table.assign(**changes)
    table.to_csv(name, index=False)
    return table


def weighted_split(rows: int = 40) -> tuple[Split, Split]:
    """Rows with whole weights, and the same rows so many times."""
    source = torch.Generator().manual_seed(0)
    x, weights = torch.randn(rows, 2, generator=source), torch.arange(rows) % 4
    repeated = x.repeat_interleave(weights, 0)
    return Split(x, None, weights.float() / weights.float().mean()), Split(repeated)


def test_whole_weights_are_as_many_rows_in_the_loss_its_gradient_and_all_figures():
    torch.manual_seed(0)
    weighted, repeated = weighted_split()
    flow = diffeo.NICE(2, layers=2, hidden=(8,)).initialize(repeated.x)
    loss = Objective(flow, 1.0)
    one = loss(weighted.x, None, weighted.weights, None)
    other = loss(repeated.x, None, None, None)
    torch.testing.assert_close(one, other)
    weights = [*flow.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(one, weights), torch.autograd.grad(other, weights)
    )
    options = {"optimizer": OptimizerOptions(), "options": TrainerOptions(max_epochs=1), "seed": 0}
    losses = [Training(flow, split, split, **options).validate() for split in (weighted, repeated)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    flow.eval()
    scores = [
        evaluate_batches(flow, Batches(split, 7).with_weights()) for split in (weighted, repeated)
    ]
    assert scores[0].nll == pytest.approx(scores[1].nll, rel=1e-6)
    # The error is that of a weighted mean of as many rows as there are.
    nll = -flow.log_prob(weighted.x).detach().double()
    w, n = weighted.weights.double(), 30
    spread = (w * (nll - scores[0].nll)).square().sum() * n / (n - 1)
    assert scores[0].stderr == pytest.approx(float(spread.sqrt() / w.sum()), rel=1e-6)


def test_rows_of_weight_0_do_not_count_whatever_they_are():
    torch.manual_seed(0)
    flow = diffeo.RealNVP(2, layers=2, hidden=(8,)).initialize(torch.randn(50, 2)).eval()
    x, weights = torch.randn(6, 2), torch.tensor([1.0, 0, 2, 0, 1, 1])
    far = x.clone()
    far[[1, 3]] = 1e30
    assert flow.log_prob(far)[1] == -math.inf
    scores = [
        evaluate_batches(flow, [(rows, None, weights[used])])
        for rows, used in ((x, slice(None)), (far, slice(None)), (x[[0, 2, 4, 5]], [0, 2, 4, 5]))
    ]
    assert scores[0].nll == scores[1].nll == pytest.approx(scores[2].nll, rel=1e-6)
    assert scores[0].stderr == pytest.approx(scores[2].stderr, rel=1e-6)


def test_what_starts_from_data_starts_from_rows_drawn_evenly_by_weight():
    weighted, repeated = weighted_split(400)
    start = weighted.x[evenly(weighted, 400)]
    assert (start.mean(0) - repeated.x.mean(0)).abs().max() < 0.02
    assert weighted.weights[evenly(weighted, 50)].min() > 0
    assert evenly(repeated, 5).tolist() == [0, 1, 2, 3, 4]
    assert fingerprint(weighted) != fingerprint(Split(weighted.x))


def test_weights_are_split_with_their_rows_and_are_1_on_average(here):
    table = write("t.csv")
    data = load_data(DataOptions("t.csv", weights="w"))
    assert data.columns == ["a", "b"]
    assert data.train.weights.mean() == pytest.approx(1)
    assert "t.csv: rows are weighted by column 'w'." in data.notes
    plain = load_data(DataOptions("t.csv", columns=["a", "b"]))
    known = dict(zip(table.a.astype(np.float32).tolist(), table.w, strict=True))
    scale = np.mean([known[value] for value in plain.train.x[:, 0].tolist()])
    for split in ("train", "val", "test"):
        rows = data.split(split)
        torch.testing.assert_close(rows.x, plain.split(split).x)
        truth = [known[value] / scale for value in rows.x[:, 0].tolist()]
        torch.testing.assert_close(rows.weights, torch.tensor(truth, dtype=torch.float32))


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        (
            {"w": [1.0] * 99 + [-2.0] + [1.0] * 100},
            [],
            "t.csv: column 'w' is -2 in row 100, and a "
            "weight is never below 0: correct it, or name another column by --data.weights",
        ),
        (
            {"w": [1.0] * 99 + [math.nan] + [1.0] * 100},
            [],
            "t.csv: column 'w' has 1 row without a "
            "finite float32 value, first in row 100 (nan): remove such rows or fill them in",
        ),
        (
            {"w": 0.0},
            [],
            "t.csv: column 'w' is 0 in every row, and no row counts then: name "
            "another column by --data.weights",
        ),
        ({"w": [1.0] + [0.0] * 199}, [], "column 'w' is 0 in every row of the "),
        ({"w": "much"}, [], "t.csv: column 'w' is not numeric, row 1 holds 'much'"),
        ({"v": 1.0}, ["--data.weights", "v2"], "t.csv has no column 'v2' (did you mean 'v'?)"),
        (
            {},
            ["--data.columns", "a,w"],
            "t.csv: column 'w' is chosen twice: name it once, in "
            "--data.columns or in --data.weights",
        ),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_sentence(
    here, capsys, changes, options, sentence
):
    write("t.csv", **changes)
    refused(["train", "--data", "t.csv", "--data.weights", "w", *options], capsys, sentence)
    assert not Path("runs").exists()
    refused(["train", "--data", "digits", "--data.weights", "w"], capsys, "is for a table")


def test_a_weighted_run_is_resumed_evaluated_and_scored(here, capsys):
    positive = np.random.default_rng(1).uniform(size=200)
    write("t.csv", b=positive).drop(columns="w").to_csv("bare.csv", index=False)
    command = ["train", "--data", "t.csv", "--data.weights", "w", "--out", "run", *SHORT]
    assert main(command) == 0
    assert "rows are weighted by column 'w'" in capsys.readouterr().out
    assert yaml.safe_load(Path("run/config.yaml").read_text())["data"]["weights"] == "w"
    assert main(["train", "--resume", "run", "--trainer.max_epochs", "3"]) == 0
    refused(["train", "--resume", "run", "--data.weights", "b"], capsys, "weights w")
    results = json.loads(Path("run/results.json").read_text())
    run = Run("run")
    test = run.data().test
    log_prob, w = run.flow.log_prob(test.x).detach().double(), test.weights.double()
    assert results["test"]["nll"] == pytest.approx(float(-(w * log_prob).sum() / w.sum()), rel=1e-6)
    assert main(["eval", "run"]) == 0
    assert f"{results['test']['nll']:.4f}" in capsys.readouterr().out
    table = pd.read_csv("t.csv")
    x = torch.tensor(table[["a", "b"]].to_numpy(), dtype=torch.float32)
    log_prob = run.flow.log_prob(x).detach().double().numpy()
    assert main(["eval", "run", "--data", "t.csv"]) == 0
    assert f"{-np.average(log_prob, weights=table.w):.4f}" in capsys.readouterr().out
    assert main(["eval", "run", "--data", "bare.csv"]) == 0
    printed = capsys.readouterr().out
    assert "bare.csv has no column 'w': all rows count alike." in printed
    assert f"{-log_prob.mean():.4f}" in printed
    write("negative.csv", w=-1.0)
    refused(["eval", "run", "--data", "negative.csv"], capsys, "has a weight below 0")
    for name in ("t.csv", "bare.csv"):
        assert main(["score", "run", "--data", name, "--out", "s.csv"]) == 0


def test_a_reweighted_mixture_is_learned(here, capsys):
    # Half of the rows at -2 and half at 2, which count 1 and 9.
    source = np.random.default_rng(0)
    side = source.integers(0, 2, 4_000)
    table = pd.DataFrame({"x": 4.0 * side - 2 + 0.5 * source.normal(size=4_000)})
    table["w"] = np.where(side == 1, 9.0, 1.0)
    table.to_csv("m.csv", index=False)
    assert main(["train", "--data", "m.csv", "--data.weights", "w", "--out", "run"]) == 0
    flow, grid = Run("run").flow, torch.linspace(-6, 6, 4_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        density = flow.log_prob(grid).exp()
    assert float(torch.trapezoid(density[grid[:, 0] > 0], dx=12 / 4_000)) == pytest.approx(
        0.9, abs=0.03
    )

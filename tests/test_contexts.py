"""`diffeo sample --contexts FILE`: a context in each row, one draw or many for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import refused

import diffeo
from diffeo.cli import main
from diffeo.context import Category, ContextSpec, Number
from diffeo.run import Run


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    spec = ContextSpec((Number("age"), Category("dose", ("low", "2", "high"))))
    flow = diffeo.RealNVP(2, layers=2, hidden=(8,), context=spec)
    x, age = torch.randn(90, 2), torch.randn(90, 1) * 10 + 40
    flow.initialize(x, torch.cat([age, torch.eye(3).repeat(30, 1)], 1))
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    flow.metadata = {"columns": ["a", "b"]}
    flow.save_pretrained("model")
    return tmp_path


TABLE = pd.DataFrame({"note": ["x", "y"], "dose": ["high", 2], "age": [30.5, 60.0]})
ROWS = torch.tensor([[30.5, 0, 0, 1], [60.0, 0, 1, 0]])


@pytest.mark.parametrize("draws", [1, 3])
def test_each_row_of_a_file_is_the_context_of_its_samples(here, capsys, draws):
    TABLE.to_csv("contexts.csv", index=False)
    command = ["sample", "model", "--contexts", "contexts.csv", "--seed", "5", "--out", "s.parquet"]
    assert main([*command, *(["--num", str(draws)] if draws > 1 else [])]) == 0
    assert f"{2 * draws} rows written" in capsys.readouterr().out
    found = pd.read_parquet("s.parquet")
    rows = ROWS.repeat_interleave(draws, 0)
    assert list(found.columns) == ["a", "b", "age", "dose=low", "dose=2", "dose=high"]
    np.testing.assert_array_equal(found.iloc[:, 2:], rows)
    truth = Run("model").sample(2 * draws, context=rows, seed=5)
    np.testing.assert_allclose(found.iloc[:, :2], truth, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dose": ["high", "huge"]}, "'dose' is 'huge' in row 2: choose one of low, 2, high"),
        ({"age": [30, None]}, "'age' is nan in row 2: give it a finite number"),
        ({"age": ["old", "1"]}, "'age' is 'old' in row 1: give it a finite number"),
    ],
)
def test_a_context_that_is_none_is_refused_by_column_value_and_row(here, capsys, change, sentence):
    TABLE.assign(**change).to_csv("contexts.csv", index=False)
    refused(["sample", "model", "--contexts", "contexts.csv"], capsys, "contexts.csv: " + sentence)
    assert not Path("samples.csv").exists()


def test_what_contradicts_a_file_of_contexts_is_refused(here, capsys):
    TABLE.drop(columns="age").to_csv("contexts.csv", index=False)
    command = ["sample", "model", "--contexts", "contexts.csv"]
    refused(command, capsys, "contexts.csv lacks the column 'age'")
    refused([*command, "--context", "age=3"], capsys, "leave --context")
    refused([*command, "--part-rows", "3"], capsys, "--part-rows")
    diffeo.RealNVP(2, layers=2).save_pretrained("plain")
    refused(["sample", "plain", "--contexts", "contexts.csv"], capsys, "takes no context")


def test_the_shipped_digits_take_a_file_of_labels(here, capsys):
    Path("labels.csv").write_text("label\n3\n7\n")
    assert main(["sample", "mnist", "--contexts", "labels.csv", "--seed=1", "--out=d.npy"]) == 0
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        truth = diffeo.load("mnist").sample(2, torch.tensor([3, 7]), generator=generator)
    np.testing.assert_array_equal(np.load("d.npy").squeeze(), truth.numpy().squeeze())
    capsys.readouterr()

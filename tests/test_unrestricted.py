"""Models whose Jacobian has no structure: all that other models do, they do too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from constructors import perturb

import diffeo
from diffeo.cli import main
from diffeo.export import export
from diffeo.losses import flow_matching

MODELS = ("PlanarFlow", "SylvesterFlow", "ResidualFlow", "ContinuousFlow")
every = pytest.mark.parametrize("name", MODELS)
TRACED = (
    "{} of this flow cannot be traced: a part needs a value of a tensor in Python, such as "
    "`if x.sum() > 0` or `x.item()`: write it with operations on tensors, such as torch.where."
)


def made(name: str, features: int, context: int | None = None, by: float = 0.4) -> diffeo.Flow:
    torch.manual_seed(0)
    flow = getattr(diffeo, name)(features, layers=2, hidden=(8,), context=context)
    given = None if context is None else torch.randn(50, context)
    flow.initialize(torch.randn(50, features), given)
    return perturb(flow, by).double().eval()


@every
@pytest.mark.parametrize("context", [None, 2])
@torch.no_grad()
def test_one_feature_has_a_density_and_an_inverse(name, context):
    flow = made(name, 1, context, by=0.2)
    grid = torch.linspace(-15, 15, 6_001).double()[:, None]
    given = None if context is None else torch.tensor([[0.5, -1.0]]).double()
    log_prob = flow.log_prob(grid, None if given is None else given.expand(len(grid), -1))
    assert float(torch.trapezoid(log_prob.exp(), dx=0.005)) == pytest.approx(1, abs=1e-4)
    rows = None if given is None else given.expand(100, -1)
    x = flow.sample(100, given)
    torch.testing.assert_close(flow.decode(flow.encode(x, rows), rows), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", MODELS[:3])
@torch.no_grad()
def test_the_density_of_the_plane_integrates_to_one(name):
    flow = made(name, 2)
    side = torch.linspace(-12, 12, 241).double()
    grid = torch.cartesian_prod(side, side)
    total = flow.log_prob(grid).exp().sum() * 0.1**2
    assert float(total) == pytest.approx(1, abs=1e-4)
    z = flow.encode(grid[::500])
    assert float((z - grid[::500]).abs().max()) > 0.1  # it is no identity


def test_flow_matching_makes_data_more_likely():
    torch.manual_seed(0)
    flow = diffeo.ContinuousFlow(2, hidden=(32,), rtol=1e-3, atol=1e-3)
    x = torch.randn(1_000, 2)
    x[:, 1] += x[:, 0].square()
    flow.initialize(x)
    with torch.no_grad():
        before = -flow.log_prob(x).mean()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        flow_matching(flow, x).backward()
        optimizer.step()
    with torch.no_grad():
        after = -flow.log_prob(x).mean()
    # The entropy of the data is that of two standard normals, 2.838 nats.
    assert float(before) > 3.2 > 3.0 > float(after)


@pytest.mark.parametrize(
    ("name", "what"),
    [("ContinuousFlow", "score"), ("ContinuousFlow", "sample"), ("ResidualFlow", "sample")],
)
def test_a_solver_is_not_exported_and_one_sentence_says_so(name, what, tmp_path):
    with pytest.raises(ValueError, match="cannot be traced") as error:
        export(made(name, 2), tmp_path, "torch", what)
    assert str(error.value) == TRACED.format(what)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_determinant_that_onnx_lacks_is_named(tmp_path):
    for extra in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(extra, reason="needs pip install 'diffeo[onnx]'")
    with pytest.raises(ValueError, match="cannot be written") as error:
        export(made("ResidualFlow", 2), tmp_path, "onnx", "score")
    assert str(error.value) == (
        "this flow cannot be written as ONNX, since it lacks aten.linalg_lu_factor_ex: export to "
        "torch, or write that part with other operations."
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS[1:])
def test_it_is_trained_by_the_command_up_to_its_figures(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = np.random.default_rng(0)
    pd.DataFrame({"a": source.normal(size=60), "b": source.normal(size=60)}).to_csv("t.csv")
    options = ["--data.columns", "a,b", "--trainer.max_epochs", "1", "--model.layers", "1"]
    options += ["--model.hidden", "[8]"]
    assert main(["train", "--data", "t.csv", "--model", name, "--out", "run", *options]) == 0
    assert np.isfinite(json.loads(Path("run/results.json").read_text())["test"]["nll"])
    assert list(Path("run/figures").glob("*.png"))
    assert type(diffeo.load("run")).__name__ == name

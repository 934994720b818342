"""Two ways to one result agree: library, estimator and command line, a file and a folder."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffeo
from diffeo import latent
from diffeo.cli import main
from diffeo.cli.commands import interpolate
from diffeo.run import Run
from diffeo.sklearn import FlowDensity


@pytest.fixture(scope="module")
def density() -> FlowDensity:
    X = np.random.default_rng(0).normal(size=(300, 3))  # noqa: N806
    return FlowDensity(networks=0, random_state=0).fit(X)


def test_an_estimator_samples_in_chunks_what_its_flow_samples_at_once(density, monkeypatch):
    sizes = []
    decode = type(density.flow_).decode

    def counted(flow, z, context=None):
        sizes.append(len(z))
        return decode(flow, z, context)

    monkeypatch.setattr(type(density.flow_), "decode", counted)
    rows = 2 * density.flow_.chunk + 5
    drawn = density.sample(rows, random_state=3, temperature=0.5)
    assert sizes == [density.flow_.chunk, density.flow_.chunk, 5]
    seed = int(np.random.RandomState(3).randint(2**31 - 1))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        truth = density.flow_.sample(rows, generator=generator, temperature=0.5)
    np.testing.assert_allclose(drawn, truth.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [1e305, 1e300])
def test_an_estimator_refuses_samples_that_leave_the_range_as_a_run_does(density, temperature):
    with pytest.raises(ValueError, match="leave the range of float64: take one nearer to 1"):
        density.sample(2_000, temperature=temperature, random_state=0)


def test_paths_are_spherical_by_default_in_the_library_as_on_the_command_line():
    for function in (latent.interpolate, latent.between_four, interpolate.main):
        assert inspect.signature(function).parameters["kind"].default == "spherical"


@pytest.fixture
def glow(tmp_path, monkeypatch) -> diffeo.Flow:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    flow = diffeo.Glow((1, 8, 8), levels=1, steps=2, hidden_channels=8)
    flow.initialize(torch.randint(256, (32, 1, 8, 8), dtype=torch.uint8))
    flow.metadata = {"size": 8}
    flow.save_pretrained("model")
    Path("folder").mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save("folder/one.png")
    Image.open("folder/one.png").save("one.webp", lossless=True)
    return flow


def test_one_image_is_taken_wherever_a_folder_of_images_is(glow, capsys):
    for data in ("folder", "folder/one.png", "one.webp"):
        out = f"{Path(data).stem}.npy"
        assert main(["score", "model", "--data", data, "--out", out]) == 0
        assert main(["eval", "model", "--data", data]) == 0
        assert main(["reconstruct", "model", "--data", data, "--out", "r.png"]) == 0
    first, second = np.load("folder.npy"), np.load("one.npy")
    np.testing.assert_array_equal(first, second)
    capsys.readouterr()


def test_eval_takes_images_without_labels_as_score_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    spec = diffeo.context.ContextSpec.classes(2)
    flow = diffeo.Glow((1, 8, 8), levels=1, steps=1, hidden_channels=8, context=spec)
    flow.initialize(torch.randint(256, (32, 1, 8, 8), dtype=torch.uint8), torch.arange(32) % 2)
    flow.metadata = {"size": 8}
    flow.save_pretrained("model")
    Path("folder").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(f"folder/{i}.png")
    assert main(["score", "model", "--data", "folder", "--out", "s.npz"]) == 0
    assert main(["eval", "model", "--data", "folder"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("folder has no label: scored under all 2, equally likely.") == 2
    mean = -np.load("s.npz")["log_prob"].mean()
    assert f"{mean:.4f}" in printed
    assert main(["reconstruct", "model", "--data", "folder"]) == 2
    assert "folder lacks label, which the model is conditional on" in capsys.readouterr().err


@pytest.mark.parametrize("labels", [3, torch.tensor(3), torch.tensor([3]), torch.full((4,), 3)])
def test_the_shipped_digits_take_whole_numbers_as_labels(labels):
    flow = diffeo.load("mnist")
    one_hot = torch.zeros(1, 10)
    one_hot[0, 3] = 1
    with torch.no_grad():
        drawn = flow.sample(4, labels, generator=torch.Generator().manual_seed(0))
        truth = flow.sample(4, one_hot, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, truth)
    with pytest.raises(ValueError, match="whole numbers from 0 to 9"):
        flow.sample(2, 10)


def test_calling_a_flow_is_its_log_density_which_hooks_see():
    flow = diffeo.RealNVP(2, layers=2, hidden=(8,), context=1)
    x, context, seen = torch.randn(5, 2), torch.randn(5, 1), []
    flow.register_forward_hook(lambda module, args, out: seen.append(out))
    assert torch.equal(flow(x, context), flow.log_prob(x, context))
    assert len(seen) == 1
    parallel = torch.nn.DataParallel(flow)
    assert torch.equal(parallel(x, context), flow.log_prob(x, context))


def test_a_run_and_its_model_say_the_same_mean(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(80, 2))
    np.savetxt("t.csv", x, delimiter=",", header="a,b", comments="")
    short = ["--model.layers=2", "--trainer.max_epochs=1", "--compile=off", "--out=run"]
    assert main(["train", "--data=t.csv", *short]) == 0
    results = json.loads(Path("run/results.json").read_text())
    run = Run("run")
    with torch.no_grad():
        mean = -run.flow.log_prob(run.data().test.x).mean()
    assert results["test"]["nll"] == pytest.approx(float(mean), rel=1e-5)
    capsys.readouterr()

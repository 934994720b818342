"""Every command that opens a run computes on the device that is asked for."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from explored import make_subject
from fake_device import FakeDevice
from sklearn.datasets import load_iris
from test_latent import image_flow

import diffeo
from diffeo.cli import COMMANDS, main
from diffeo.cli.parser import make_parser
from diffeo.explorer import inspecting, mixing, sampling
from diffeo.explorer.plane import Plane
from diffeo.explorer.subject import first
from diffeo.run import Run
from diffeo.scale import Cluster, sample_parts
from diffeo.sklearn import FlowDensity

DIGITS = "data:\n  source: digits\n  rows: 120\n  splits: [0.6, 0.2, 0.2]\n"
TRAIN = "train --data moons --data.rows 200 --trainer.max_epochs 1 --model RealNVP --out table"
ON_IMAGES = {
    "eval digits": None,
    "sample digits -n 4 --seed 1": "samples.png",
    "sample digits -n 2 --seed 1 --temperatures 0,1 --out t.png": "t.png",
    "score digits --data digits --out s.csv": "s.csv",
    "plot digits --kind samples": "plot.png",
    "plot digits --kind latents": "plot.png",
    "reconstruct digits -n 4": "reconstructions.png",
    "interpolate digits --pairs 1 --frames 3": "interpolation.png",
    "directions digits": "directions.safetensors",
    "edit digits --attribute label=1 --strengths 0,1 -n 2": "edits.png",
    "levels digits -n 2 --seed 1": "levels.png",
    "share digits/model --out shared": "shared/README.md",
}
ON_TABLES = {
    "eval table": None,
    "sample table -n 50 --seed 1": "samples.csv",
    "sample table -n 50 --seed 1 --out parts --part-rows 30": "parts/part-00001.parquet",
    "score table --data moons.csv": "scores.csv",
    "plot table --kind panels": "plot.png",
    "plot table --kind density": "plot.png",
    "plot table --kind grid": "plot.png",
    "plot table --kind corner": "plot.png",
    "share table/model --out shared": "shared/README.md",
}


@pytest.fixture
def runs(tmp_path):
    """A run of images with labels as attributes, and one of a table; neither has learned much."""
    image_flow().save_pretrained("digits/model")
    (tmp_path / "digits/config.yaml").write_text(DIGITS)
    torch.manual_seed(0)
    flow = diffeo.RealNVP(2, layers=2, hidden=(8,)).initialize(torch.randn(99, 2))
    flow.metadata = {"columns": ["x", "y"]}
    flow.save_pretrained("table/model")
    (tmp_path / "table/config.yaml").write_text(DIGITS.replace("digits", "moons"))
    assert main(["sample", "table", "-n", "40", "--seed", "3", "--out", "moons.csv"]) == 0


def numbers_in(file):
    """The last column of a table."""
    if file.endswith(".parquet"):
        return pyarrow.parquet.read_table(file).columns[-1].to_numpy()
    lines = Path(file).read_text().splitlines()[1:]
    return np.array([float(line.split(",")[-1]) for line in lines])


@pytest.mark.parametrize("command", ON_IMAGES | ON_TABLES)
def test_a_command_gives_on_a_device_what_it_gives_on_the_cpu(command, runs, capsys, monkeypatch):
    file = (ON_IMAGES | ON_TABLES)[command]
    used = []
    monkeypatch.setattr(
        diffeo.Flow, "to", lambda flow, *to: used.append(to) or torch.nn.Module.to(flow, *to)
    )
    results = []
    for kind in ("cpu", "mps"):
        with FakeDevice("mps"):
            status = main([*command.split(), "--device", kind])
        out, err = capsys.readouterr()
        assert status == 0, err
        if file and file.endswith((".csv", ".parquet")):
            results.append(numbers_in(file))
        else:
            results.append(out)
        for made in ("parts", "shared"):
            shutil.rmtree(made, ignore_errors=True)
    assert any(to[0] == torch.device("mps") for to in used)
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-3)


def test_a_run_is_trained_on_a_device_and_resumed_on_another(capsys):
    with FakeDevice("mps"):
        assert main([*TRAIN.split(), "--device", "mps"]) == 0, capsys.readouterr().err
    assert Run("table").flow.device.type == "cpu"
    assert main(["train", "--resume", "table", "--trainer.max_epochs", "2", "--device", "cpu"]) == 0
    epochs = Path("table/metrics.csv").read_text().splitlines()[1:]
    assert [epoch.split(",")[0] for epoch in epochs] == ["1", "2"]


def test_every_command_that_opens_a_run_takes_a_device_or_says_why_not(capsys, runs):
    without = []
    for name in COMMANDS:
        parser = make_parser(name)
        if "run" in parser.names and "--device" not in parser._option_string_actions:
            without.append(name)
    assert sorted(without) == ["compress", "decompress", "export"]
    written = "files are written and read on the CPU, in float32"
    reasons = {
        "export table --to torch": "the files are written and checked on the CPU, in float32",
        "compress moons.csv --with table": written,
        "decompress moons.flow --with table": written,
    }
    for command, reason in reasons.items():
        assert main([*command.split(), "--device", "cpu"]) == 2
        err = capsys.readouterr().err
        name = command.split()[0]
        assert err == f"diffeo: --device is no option of {name}: {reason}.\n"


@pytest.mark.parametrize("name", ["plot", "share", "score"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name, runs, capsys):
    options = {"score": ["--data", "moons.csv"], "share": ["--out", "shared"]}.get(name, [])
    assert main([name, "table", *options, "--device", "mps"]) == 2
    assert capsys.readouterr().err == "diffeo: this machine has no mps device: choose cpu.\n"


def test_an_estimator_learns_on_a_device_and_is_used_on_the_cpu():
    x = load_iris().data[:, :2]
    settings = {"max_iter": 8, "networks": 1, "hidden": 8, "random_state": 0}
    expected = FlowDensity(**settings, device="cpu").fit(x).score_samples(x)
    with FakeDevice("mps") as device:
        density = FlowDensity(**settings, device="mps").fit(x)
        assert device.reads
    assert density.flow_.device.type == "cpu"
    np.testing.assert_allclose(density.score_samples(x), expected, rtol=1e-4, atol=1e-4)


def test_a_part_on_ray_takes_a_gpu_where_the_model_is_on_one(monkeypatch, runs):
    asked = []

    class Numbers:
        def map(self, one, **resources):
            asked.append(resources)
            return SimpleNamespace(iter_rows=lambda: (one(row) for row in [{"id": 0}]))

    ray = SimpleNamespace(data=SimpleNamespace(range=lambda *_, **__: Numbers()))
    monkeypatch.setattr("diffeo.scale.ray._ray", lambda cluster: nullcontext(ray))
    run = Run("table")
    for kind, gpus in (("cpu", 0), ("cuda", 1), ("mps", 0)):
        with FakeDevice("cuda" if kind == "cpu" else kind):
            run.flow.to(kind)
            sample_parts(run, 20, f"parts-{kind}", seed=1, cluster=Cluster())
        assert asked.pop() == {"num_cpus": 1, "num_gpus": gpus}
        run = Run("table")


@pytest.mark.parametrize("name", ["digits", "moons"])
def test_the_page_shows_on_a_device_what_it_shows_on_the_cpu(name, tmp_path):
    subject = make_subject(name, tmp_path)
    x, _ = first(subject.data.test, 2)

    def shown():
        drawn, context = sampling.sample(subject, 3, [3] * len(subject.flow.latent_shapes), 0.7, [])
        yield drawn, context
        found = inspecting.find(subject, x, ["one", "two"])
        yield found.nats
        yield inspecting.levels(subject, found)
        if name == "digits":
            slots = [mixing.slot(subject, row[None], None, "") for row in x]
            yield slots[0].z
            yield mixing.strip(subject, slots, "spherical", 3)
        else:
            plane = Plane(subject)
            yield plane.pick(0.5, 0.25).points
            yield torch.tensor(plane.film(3)["stations"])

    expected = [*shown()]
    with FakeDevice("mps"):
        subject.flow.to("mps")
        ours = [*shown()]
    for one, other in zip(ours, expected, strict=True):
        if isinstance(one, str):
            assert type(other) is str
            continue
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3)

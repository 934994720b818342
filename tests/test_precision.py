"""The precision of networks: what is asked for, what "auto" is, and how little it changes."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

import diffeo
from diffeo.bijections import Coupling
from diffeo.cli import main
from diffeo.data import DataOptions
from diffeo.run import train
from diffeo.training.options import TrainerOptions
from diffeo.utils.machine import has_bfloat16, networks_dtype, training_dtype


def small(shape):
    return diffeo.Glow(shape, levels=2, steps=2, hidden_channels=16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run on digits, with the precision left to "auto"."""
    folder = tmp_path_factory.mktemp("trained")
    train(
        small,
        DataOptions("digits", rows=400),
        folder / "digits",
        trainer=TrainerOptions(max_epochs=20, figure_every=100, device="cpu"),
        console=Console(quiet=True),
    )
    return folder


def processor(monkeypatch, **known):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)


def test_models_are_used_in_float32_unless_bfloat16_is_asked_for(monkeypatch):
    processor(monkeypatch, avx512_bf16=True)
    assert networks_dtype("auto") is networks_dtype("float32") is None
    assert networks_dtype("bf16") == torch.bfloat16
    with pytest.raises(ValueError, match="precision 'half': choose one of auto, float32, bf16"):
        networks_dtype("half")


def test_auto_trains_images_in_bfloat16_where_the_processor_has_it(monkeypatch):
    for known, has in (
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"neon": True, "bf16": True}, False),
        ({}, False),
    ):
        processor(monkeypatch, **known)
        assert has_bfloat16("cpu") == has
        assert training_dtype("auto", True, "cpu") == (torch.bfloat16 if has else None)
        assert training_dtype("auto", False, "cpu") is None
        assert training_dtype("float32", True, "cpu") is None
        assert training_dtype("bf16", False, "cpu") == torch.bfloat16


def test_devices_of_unknown_abilities_compute_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bfloat16("cpu")
    assert not has_bfloat16("mps")


@pytest.mark.parametrize("has", [False, True])
def test_a_gpu_that_emulates_bfloat16_does_not_have_it(monkeypatch, has):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation
    )
    assert has_bfloat16(torch.device("cuda", 0)) == has


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("float32", None)])
def test_training_follows_the_precision_and_saves_float32(tmp_path, monkeypatch, precision, dtype):
    processor(monkeypatch, avx512_bf16=precision == "float32")  # what is asked for counts
    flows = []
    arguments = {"precision": precision, "trainer": TrainerOptions(max_epochs=1, figure_every=9)}
    folder = train(
        lambda shape: flows.append(small(shape)) or flows[0],
        DataOptions("digits", rows=200),
        tmp_path / "run",
        console=Console(quiet=True),
        **arguments,
    )
    assert {m.precision for m in flows[0].modules() if isinstance(m, Coupling)} == {dtype}
    flow = diffeo.Flow.from_pretrained(folder / "model")
    assert {p.dtype for p in flow.parameters()} == {torch.float32}
    assert {m.precision for m in flow.modules() if isinstance(m, Coupling)} == {None}
    assert yaml.safe_load((folder / "config.yaml").read_text())["precision"] == precision


def test_a_precision_that_there_is_not_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="'half'"):
        train(out=tmp_path / "run", precision="half", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_scores_in_bfloat16_are_near_those_in_float32(run):
    def scores(*options):
        assert main(["score", "digits", "--data=digits", "--out=s.csv", *options]) == 0
        return pd.read_csv("s.csv").bits_per_dim.to_numpy()

    exact, near = scores("--precision=float32"), scores("--precision=bf16")
    assert (scores() == exact).all()
    assert (near != exact).any()
    assert abs(near.mean() - exact.mean()) < 0.002
    assert np.abs(near - exact).max() < 0.1


def test_eval_and_sample_follow_the_precision(run, capsys):
    def printed(*options):
        capsys.readouterr()
        assert main(["eval", "digits", *options]) == 0
        return [float(line.split("│")[3]) for line in capsys.readouterr().out.splitlines()[3:6]]

    exact, near = printed("--precision=float32"), printed("--precision=bf16")
    assert printed() == exact
    assert near == pytest.approx(exact, abs=0.002)

    def drawn(*options):
        assert main(["sample", "digits", "-n=64", "--seed=0", "--out=s.npz", *options]) == 0
        return np.load("s.npz")["images"].astype(int)

    exact, near = drawn("--precision=float32"), drawn("--precision=bf16")
    assert (drawn() == exact).all()
    assert (near != exact).any()
    assert np.abs(near - exact).mean() < 1

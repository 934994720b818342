"""What diffeo says where it refuses, word for word: each names the cause and the remedy."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import diffeo
from diffeo import NICE, Flow, RealNVP, TableFlow
from diffeo.bijections import Bijection, Chain, Permutation
from diffeo.cli import main
from diffeo.context import Category, ContextSpec
from diffeo.export import export
from diffeo.sklearn import FlowDensity

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(60, 2))


def text(rows: list[list[str]], header: str = "a;b", delimiter: str = ";") -> str:
    return "\n".join([header, *(delimiter.join(row) for row in rows), ""])


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with tables as spreadsheets write them, images, and a small run."""
    folder = tmp_path_factory.mktemp("sentences")
    plain = [[f"{a:.3f}", f"{b:.3f}"] for a, b in ROWS]
    many = [[f"{a:,.2f}", f"{b:,.2f}"] for a, b in 1e5 * ROWS]
    spaced = [[f"{a:,.2f}".replace(",", " ") for a in row] for row in 1e5 * ROWS]
    (folder / "t.csv").write_text(text(plain))
    (folder / "comma.csv").write_text(text([[c.replace(".", ",") for c in row] for row in plain]))
    (folder / "thousands.csv").write_text(text(many))
    (folder / "spaces.csv").write_text(text(spaced))
    (folder / "mixed.csv").write_text(text([["Adelie", b] for _, b in plain]))
    (folder / "accents.csv").write_bytes(text(plain, "größe;b").encode("latin-1"))
    (folder / "one.csv").write_text(text([[a] for a, _ in plain], "a"))
    (folder / "bad.csv.gz").write_bytes(gzip.compress(text(plain).encode())[:-20])
    (folder / "images").mkdir()
    for i in range(20):
        pixels = RNG.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
    with contextlib.chdir(folder):
        small = ["--model.layers=2", "--trainer.max_epochs=1", "--out=run"]
        assert main(["train", "--data=t.csv", *small]) == 0
    return folder


MODELS = ", ".join(sorted(diffeo.MODELS))
COMMANDS = {
    # Names and choices
    "train --model glow": f"--model is glow (did you mean 'Glow'?): choose one of {MODELS}, or a "
    "class of your own, mypackage.MyClass.",
    "train --model.step 3": "--model.step is not an option (did you mean --model.steps?): "
    "`diffeo train --help` lists them.",
    "train --model Glow --model.step 3": "--model.step is not an option (did you mean "
    "--model.steps?): `diffeo train --help` lists them.",
    "train --model Glow --model.hidden 8": "--model.hidden is not an option (did you mean "
    "--model.hidden_channels?): `diffeo train --help` lists them.",
    "train --trainer.lr 0.1": "--trainer.lr is not an option (did you mean --optimizer.lr?): "
    "`diffeo train --help` lists them.",
    "eval run --sample 5": "--sample is not an option (did you mean --samples?): "
    "`diffeo eval --help` lists them.",
    "train --data moon": "unknown source 'moon' (did you mean 'moons'?): give one of moons, "
    "circles, swiss_roll, gaussians, iris, wine, breast_cancer, diabetes, a file ending in .csv, "
    ".parquet, .npy, .npz, .tsv, .csv.gz, .csv.bz2, .csv.xz, .tsv.gz, .tsv.bz2, .tsv.xz, or "
    "hf://owner/name",
    "plot run --kind corners": "--kind is corners (did you mean 'corner'?): choose one of panels, "
    "density, grid, corner, marginals, curve, samples, reconstructions, latents.",
    # Models that do not fit the data
    "train --data images --model RealNVP": "RealNVP does not model images of (channels, height, "
    "width) = (1, 8, 8): choose another model by --model.",
    "train --data t.csv --model Glow": "Glow does not model 2 columns: choose another model by "
    "--model.",
    "train --data one.csv --model RealNVP": "a coupling needs at least 2 features, one to "
    "condition the other, not 1: add a column, or take TableFlow, which has none for one column.",
    # Forms of numbers
    "train --data comma.csv": "comma.csv: column 'a' is not numeric, row 1 holds '0,126': write "
    "`--data.thousands ,` or `--data.decimal ,` if that is a number",
    "train --data thousands.csv": "thousands.csv: column 'a' is not numeric, row 1 holds "
    "'12,573.02': write `--data.thousands ,` if that is a number",
    "train --data spaces.csv": "spaces.csv: column 'a' is not numeric, row 1 holds '12 573.02': "
    'write `--data.thousands " "` if that is a number',
    "train --data mixed.csv --model RealNVP": "mixed.csv: column 'a' is not numeric, row 1 holds "
    "'Adelie': choose numeric columns with --data.columns b, or encode it as numbers",
    "train --data accents.csv": "accents.csv is not written in utf-8: name its encoding, such as "
    "--data.encoding latin-1, cp1252 or utf-16",
    "train --data accents.csv --data.encoding latin1x": "--data.encoding is 'latin1x': choose one "
    "that Python has, such as utf-8, latin-1, cp1252 or utf-16",
    # Ranges
    "train --optimizer.clip -5": "--optimizer.clip is -5: choose a finite number above 0.",
    "train --optimizer.ema -1": "--optimizer.ema is -1: choose a number from 0 to below 1.",
    "train --optimizer.warmup 5": "--optimizer.warmup is 5: choose a number from 0 to below 1.",
    "train --optimizer.l2 -1": "--optimizer.l2 is -1: choose a finite number from 0 on.",
    "train --optimizer.lr 0": "--optimizer.lr is 0: choose a finite number above 0.",
    "train --trainer.max_epochs 0": "--trainer.max_epochs is 0: choose a whole number from 1 on.",
    "train --trainer.batch_size 0": "--trainer.batch_size is 0: choose a whole number from 1 on.",
    "train --model RealNVP --model.layers 0": "--model.layers is 0: choose a whole number from 1 "
    "on.",
    "train --optimizer.lr nan": "--optimizer.lr is nan: choose a finite number above 0.",
    "train --seed -1": "--seed is -1: choose a whole number from 0 to 9,223,372,036,854,775,807.",
    "sample run -n 0": "-n is 0: choose a whole number from 1 on.",
    "sample run --temperature -1": "--temperature is -1: choose a finite number from 0 on.",
    "eval run --samples 0": "--samples is 0: choose a whole number from 1 on.",
    "train --trainer.max_epochs 2.5": "--trainer.max_epochs is 2.5: choose a whole number from 1 "
    "on.",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_refused_says_what_to_write_instead(command, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    before = sorted(here.iterdir())
    assert main(command.split()) == 2
    assert capsys.readouterr().err == f"diffeo: {COMMANDS[command]}\n"
    assert sorted(here.iterdir()) == before


def test_a_home_that_cannot_be_written_is_named_with_what_every_command_takes(
    here, monkeypatch, capsys
):
    monkeypatch.chdir(here)
    monkeypatch.delenv("DIFFEO_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/proc/nobody")
    assert main(["train", "--data=images", "--model=Glow", "--model.levels=1"]) == 2
    assert capsys.readouterr().err == (
        "diffeo: the cache /proc/nobody/.cache/diffeo cannot be written, No such file or "
        "directory: set DIFFEO_CACHE to a folder that can be\n"
    )


class Rows(Bijection):
    """The identity, which takes the number of rows for a constant."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z, z.new_zeros(len(z))


class Branch(Rows):
    """The identity, which looks at a value."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x if x.sum() > 0 else x + 0), x.new_zeros(x.shape[0])


CALLS = {
    "NumPy": (
        lambda: RealNVP(2).log_prob(np.zeros((3, 2), np.float32)),
        "x is a NumPy array and the flow takes tensors: pass torch.from_numpy(x).",
    ),
    "float64 of NumPy": (
        lambda: RealNVP(2).log_prob(np.zeros((3, 2))),
        "x is a NumPy array and the flow takes tensors: pass "
        "torch.from_numpy(x).to(torch.float32).",
    ),
    "a list": (
        lambda: RealNVP(2).log_prob([[0.0, 1.0]]),
        "x is a list and the flow takes tensors: pass torch.tensor(x, dtype=torch.float32).",
    ),
    "a table": (
        lambda: RealNVP(2).log_prob(pd.DataFrame({"a": [0.0], "b": [1.0]})),
        "x is a DataFrame and the flow takes tensors: pass "
        "torch.tensor(x.to_numpy(), dtype=torch.float32).",
    ),
    "float64": (
        lambda: RealNVP(2).log_prob(torch.zeros(3, 2).double()),
        "x is torch.float64 and the flow takes torch.float32: pass x.to(torch.float32).",
    ),
    "shape": (
        lambda: RealNVP(2).log_prob(torch.zeros(3, 3)),
        "expected x of shape (batch, 2), got (3, 3).",
    ),
    "a context that is missing": (
        lambda: NICE(2, context=ContextSpec((Category("sex", ("f", "m")),))).sample(3),
        "this flow needs a context of shape (3, 2), got None.",
    ),
    "links in a list": (
        lambda: Chain([Permutation([1, 0])]),
        "links is a list: pass its parts one by one, Chain(*links).",
    ),
    "a class in quotes": (
        lambda: RealNVP(2, univariate="Affine"),
        "univariate is 'Affine': choose a Univariate.",
    ),
    "text in an array": (
        lambda: FlowDensity().fit([[1.0, "2,5"], [2.0, "3,5"]]),
        "could not convert string to float: '2,5': give a pandas DataFrame, whose columns may be "
        "text.",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_is_refused_says_what_to_pass_instead(case):
    call, sentence = CALLS[case]
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("part", "cause"),
    [
        (
            Branch(),
            "a part needs a value of a tensor in Python, such as `if x.sum() > 0` or `x.item()`: "
            "write it with operations on tensors, such as torch.where",
        ),
        (
            Rows(),
            "a part takes the number of rows for a constant, such as `len(x)`: write x.shape[0]",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_exported_says_the_cause_that_is_there(part, cause, tmp_path):
    flow = Flow(Chain(Permutation([1, 0]), part), 2)
    with pytest.raises(ValueError) as caught:
        export(flow, tmp_path, to="torch", what="score")
    assert str(caught.value) == f"score of this flow cannot be traced: {cause}."
    assert not list(Path(tmp_path).iterdir())


def test_a_table_flow_is_exported(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx: pip install diffeo[onnx]")
    flow = TableFlow(3, layers=2, hidden=(8,))
    flow.initialize(torch.randn(100, 3) @ torch.randn(3, 3))
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.1)
    assert all(done.error < 1e-3 for done in export(flow, tmp_path))

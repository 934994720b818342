"""What diffeo writes, it reads; and a file of JSON is JSON."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn.utils import prune

import diffeo
from diffeo.cli import main
from diffeo.evaluation.likelihood import Score, evaluate_batches
from diffeo.utils.files import dump_json
from diffeo.utils.yaml import dump_yaml

SHORT = ["--trainer.max_epochs", "1", "--compile", "off"]


def linear(flow: nn.Module) -> nn.Linear:
    return next(part for part in flow.modules() if isinstance(part, nn.Linear))


def one_in_float64(flow):
    linear(flow).double()


def another_metadata(value):
    def change(flow):
        flow.metadata = {"value": value}

    return change


CHANGES = {
    "half": (lambda flow: flow.half(), "float16"),
    "bfloat16": (lambda flow: flow.bfloat16(), "bfloat16"),
    "one layer in float64": (one_in_float64, "float32 and float64"),
    "weight norm": (
        lambda flow: nn.utils.parametrizations.weight_norm(linear(flow)),
        "layers.0 was changed",
    ),
    "pruned": (lambda flow: prune.l1_unstructured(linear(flow), "weight", 0.5), "weight_orig"),
    "no bias": (lambda flow: setattr(linear(flow), "bias", None), "layers.0.bias was changed"),
    "a buffer": (lambda flow: flow.register_buffer("mine", torch.zeros(2)), "mine was changed"),
    "numbers as keys": (another_metadata({0: "a"}), "dictionaries by strings"),
    "NaN": (another_metadata(math.nan), "not JSON compliant"),
    "no end": (another_metadata("x" * 2**26), "longer than 64 MiB"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_could_not_be_loaded_is_refused_and_the_old_one_stays(change, tmp_path):
    flow = diffeo.RealNVP(2, layers=2, hidden=(8,))
    flow.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    make, reason = CHANGES[change]
    make(flow)
    with pytest.raises(ValueError, match=re.escape(reason)):
        flow.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    diffeo.load(tmp_path)


def test_numbers_that_are_not_finite_are_null_in_json():
    text = dump_json({"a": [math.nan, 1.5], "b": {"c": -math.inf, "d": (1, None)}})
    known = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert known == {"a": [None, 1.5], "b": {"c": None, "d": [1, None]}}


def test_a_row_without_density_has_an_infinite_mean_and_comes_back_from_json():
    flow = diffeo.RealNVP(1 + 1, layers=2, hidden=(4,)).eval()
    score = evaluate_batches(flow, [(torch.tensor([[0.0, 0.0], [1e30, 1e30]]), None)])
    assert score.nll == math.inf
    assert score.stderr is None
    assert str(score) == "NLL inf nats"
    loaded = Score.from_json(json.loads(dump_json(vars(score))))
    assert loaded == score


@pytest.mark.parametrize("text", ["1e3", "1_000", ".5", "inf", "nan", "null", "yes", "0x1f", "a b"])
def test_a_text_in_settings_stays_a_text_for_each_reader_of_yaml(text):
    from jsonargparse._loaders_dumpers import yaml_load

    written = dump_yaml({"columns": [text]})
    assert yaml.safe_load(written) == yaml_load(written) == {"columns": [text]}


def write_table(file: Path, names: list[str], rows: int = 60) -> None:
    import csv

    x = np.random.default_rng(0).normal(size=(rows, len(names)))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([names, *x.tolist()])


def test_a_run_of_oddly_named_columns_is_resumed_sampled_and_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ["null", "1e3", 'a,b "q"', "é x"]
    write_table(Path("t.csv"), names)
    assert main(["train", "--data", "t.csv", "--model.layers", "2", "--out", "run", *SHORT]) == 0
    chosen = json.dumps(names[1:3])
    train = ["train", "--data", "t.csv", "--data.columns", chosen, "--model.layers", "2"]
    assert main([*train, "--out", "some", *SHORT]) == 0
    assert main(["train", "--resume", "some", "--trainer.max_epochs", "2"]) == 0
    for file in ("s.csv", "s.parquet", "s.npz"):
        assert main(["sample", "run", "--num", "20", "--out", file]) == 0
        assert main(["score", "run", "--data", file, "--out", f"scores-{file}"]) == 0
    assert main(["share", "some", "--out", "shared"]) == 0
    card = Path("shared/README.md").read_text(encoding="utf-8")
    command = shlex.split(re.search(r"^diffeo train.*$", card, re.MULTILINE)[0])
    assert main([*command[1:], "--out", "again"]) == 0
    before, after = (Path(run, "results.json").read_text() for run in ("some", "again"))
    assert json.loads(before)["test"]["rows"] == json.loads(after)["test"]["rows"]
    capsys.readouterr()


def test_results_of_a_single_row_are_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table(Path("t.csv"), ["a", "b"], rows=10)
    assert main(["train", "--data", "t.csv", "--model.layers", "2", "--out", "run", *SHORT]) == 0
    text = Path("run/results.json").read_text(encoding="utf-8")
    known = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert known["test"]["rows"] == 1
    assert known["test"]["stderr"] is None
    assert main(["share", "run", "--out", "shared"]) == 0
    assert "nan" not in Path("shared/README.md").read_text(encoding="utf-8")
    capsys.readouterr()


def test_the_commands_of_a_conditional_card_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table(Path("t.csv"), ["a", "b", "age", "dose"])
    conditional = ["--data", "t.csv", "--data.context", "age,dose", "--model.layers", "2"]
    assert main(["train", *conditional, "--out", "run", *SHORT]) == 0
    assert main(["share", "run", "--out", "shared"]) == 0
    card = Path("shared/README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^diffeo (?:sample|score) .*$", card, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = command.replace("OWNER/NAME", "shared").replace("ROWS.csv", "t.csv")
        assert main(shlex.split(words)[1:]) == 0
    capsys.readouterr()


def test_long_numbers_of_eval_are_printed_whole_in_a_narrow_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "30")
    write_table(Path("t.csv"), ["a", "b"])
    assert main(["train", "--data", "t.csv", "--model.layers", "2", "--out", "run", *SHORT]) == 0
    score = json.loads(Path("run/results.json").read_text())["test"]
    capsys.readouterr()
    assert main(["eval", "run"]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert f"{score['nll']:.4f}" in printed
    assert f"{score['standardized']:.4f}" in printed

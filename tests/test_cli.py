"""The command line: what each command does, and what it says when it cannot."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from commands import refused
from PIL import Image

import diffeo
from diffeo import cli
from diffeo.bases import Logistic
from diffeo.bijections import Affine
from diffeo.cli import COMMANDS, main, summary
from diffeo.cli.commands import doctor
from diffeo.cli.commands.train import unwrapped
from diffeo.cli.contexts import choose_contexts
from diffeo.cli.parser import classes_first, make_parser, parse
from diffeo.context import Category, ContextSpec, Number
from diffeo.data import TableOptions, load_table
from diffeo.networks import MLP

QUICK = [
    "--trainer.max_epochs=2",
    "--trainer.batch_size=100",
    "--trainer.figure_every=100",
    "--model.layers=2",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two small runs: moons, and a conditional one with three columns."""
    folder = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    values = random.normal(size=(600, 3)) * [1.0, 5.0, 0.1] + [0.0, 10.0, 3.0]
    pd.DataFrame(values, columns=["a", "b", "c"]).to_csv(folder / "abc.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data.rows=600", "--out=moons", *QUICK]) == 0
        assert main(["train", "--data=abc.csv", "--data.context", "c", "--out=abc", *QUICK]) == 0
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What the commands do -----------------------------------------------------------------------------


def test_train_names_its_folder_after_the_data_and_takes_a_free_one(tmp_path, capsys):
    for _ in range(2):
        assert main(["train", "--data=circles", "--data.rows=300", *QUICK]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["circles", "circles-2"]
    assert "runs/circles-2" in capsys.readouterr().out


def test_a_config_repeats_a_run(run):
    assert main(["train", "--config=abc/config.yaml", "--out=again"]) == 0
    assert (run / "again/metrics.csv").read_bytes() == (run / "abc/metrics.csv").read_bytes()


def test_eval_prints_what_log_prob_says(run, capsys):
    assert main(["eval", "moons"]) == 0
    out = capsys.readouterr().out
    flow = diffeo.Flow.from_pretrained("moons/model")
    table = load_table(TableOptions(rows=600))
    for split in (table.train, table.val, table.test):
        with torch.no_grad():
            nll = -flow.log_prob(split.x)
        assert f"{nll.mean():.4f}" in out
        assert f"{nll.std() / len(nll) ** 0.5:.4f}" in out


def test_eval_of_other_rows(run, capsys):
    pd.DataFrame({"c": [3.0, 3.1], "b": [9.0, 11.0], "a": [0.0, 1.0]}).to_csv(
        "new.csv", index=False
    )
    assert main(["eval", "abc", "--data=new.csv"]) == 0
    flow = diffeo.Flow.from_pretrained("abc/model")
    with torch.no_grad():
        nll = -flow.log_prob(torch.tensor([[0.0, 9.0], [1.0, 11.0]]), torch.tensor([[3.0], [3.1]]))
    assert f"{nll.mean():.4f}" in capsys.readouterr().out


def test_scores_of_a_csv_with_semicolons(run):
    rows = pd.read_csv("abc.csv").head(9)
    rows.to_csv("semi.csv", index=False, sep=";")
    rows.to_csv("comma.csv", index=False)
    assert main(["score", "abc", "--data=semi.csv", "--out=a.csv"]) == 0
    assert main(["score", "abc", "--data=comma.csv", "--out=b.csv"]) == 0
    assert (run / "a.csv").read_bytes() == (run / "b.csv").read_bytes()


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy", "npz"])
def test_sample_then_score(run, ending):
    assert main(["sample", "moons", "-n", "20", "--seed=1", f"--out=s.{ending}"]) == 0
    assert main(["score", "moons", f"--data=s.{ending}", "--out=scores.parquet"]) == 0
    flow = diffeo.Flow.from_pretrained("moons/model")
    with torch.no_grad():
        x = flow.sample(20, generator=torch.Generator().manual_seed(1))
        expected = flow.log_prob(x).numpy()
    assert np.allclose(pd.read_parquet("scores.parquet")["log_prob"], expected, atol=1e-4)


def test_sample_follows_seed_and_temperature(run):
    def drawn(*options):
        assert main(["sample", "moons", "-n=50", "--out=s.npy", *options]) == 0
        return np.load("s.npy")

    assert (drawn("--seed=1") == drawn("--seed=1")).all()
    assert (drawn("--seed=1") != drawn("--seed=2")).any()
    assert (drawn() != drawn()).any()
    # The same row again and again, but that products of float32 round by where a row stands.
    rounding = float(np.finfo(np.float32).eps)
    assert np.ptp(drawn("--temperature=0"), axis=0) == pytest.approx([0, 0], abs=rounding)


def test_sample_of_a_conditional_model(run):
    assert main(["sample", "abc", "-n=5", "--context=c=3.2", "--out=s.csv"]) == 0
    table = pd.read_csv("s.csv")
    assert list(table.columns) == ["a", "b", "c"]
    assert table["c"].to_numpy() == pytest.approx(3.2)
    assert main(["sample", "abc", "-n=20", "--seed=0", "--out=s.csv"]) == 0
    drawn = pd.read_csv("s.csv")["c"].to_numpy()
    assert np.isin(drawn.round(4), pd.read_csv("abc.csv")["c"].to_numpy().round(4)).all()


@pytest.mark.parametrize("name", ["moons", "abc"])
def test_images(run, name):
    assert main(["plot", name, "--out=plot.png"]) == 0
    assert main(["sample", name, "-n=100", "--out=sample.png"]) == 0
    for image in ("plot.png", "sample.png"):
        assert np.asarray(Image.open(image).convert("L")).std() > 5


def test_a_bare_model_folder_scores_and_samples(run):
    shutil.copytree("moons/model", "bare")
    assert main(["sample", "bare", "-n=5", "--out=s.csv"]) == 0
    assert main(["score", "bare", "--data=s.csv", "--out=t.csv"]) == 0
    assert list(pd.read_csv("s.csv").columns) == ["x", "y"]


def test_a_model_of_ones_own(run, capsys):
    (run / "homemade.py").write_text(
        "import diffeo\n\n\nclass Mine(diffeo.RealNVP):\n    pass\n", encoding="utf-8"
    )
    arguments = ["train", "--model=homemade.Mine", "--data.rows=300", "--out=mine", *QUICK]
    assert main(arguments) == 0
    assert json.loads((run / "mine/model/config.json").read_text())["class"] == "homemade.Mine"
    assert main(["eval", "mine"]) == 0


def test_a_table_of_one_column(run, capsys):
    pd.DataFrame({"height": np.random.default_rng(0).normal(size=300)}).to_csv(
        "one.csv", index=False
    )
    words = ["train", "--data=one.csv", "--model=TableFlow", "--out=one", "--trainer.max_epochs=2"]
    assert main(words) == 0
    assert (run / "one/figures/corner.png").is_file()


def test_help_and_version_explain(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"diffeo {diffeo.__version__}\n"
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    assert "--data SOURCE" in capsys.readouterr().out


def test_the_overview_lists_each_command_on_a_line(capsys):
    modules = {path.stem for path in Path(cli.__file__).with_name("commands").glob("[a-z]*.py")}
    assert {*COMMANDS} == modules
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        assert f"  {name:<13}{summary(name)}" in lines
        assert len(summary(name)) < 80


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--model.layerz 3", "--model.layerz is not an option (did you mean --model.layers?)"),
        ("--model NoSuch", "--model is NoSuch: choose one of CircularNSF, ContinuousFlow"),
        ("--model.univariate Nope", "--model.univariate is Nope: choose one of Additive, Affine"),
        ("--model.univariate Affine --model.univariate.bins 3", "--model.univariate.bins is not"),
        ("--model.layers x", "--model.layers is x: choose a whole number from 1 on."),
        ("--trainer.max_epochs x", "--trainer.max_epochs is x: choose a whole number from 1 on."),
        ("--trainer.memory z", "--trainer.memory is z: choose one of auto, stored, constant."),
        ("--model.coupling additive", "write --model.univariate Additive"),
        ("--model.bound=2", "--model.univariate Affine --model.univariate.bound"),
        ("--data.delimiter=;", "--data.delimiter is no longer an option: it is found"),
        ("--model.base logistic", "--model.base is logistic (did you mean 'Logistic'?)"),
    ],
)
def test_wrong_options_are_refused_in_plain_words(words, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse("train", words.split())


class Stretch(Affine):
    """A univariate map that only this file knows."""


def test_parts_of_models_are_found_by_name():
    for name in diffeo.MODELS:
        assert parse("train", ["--model", name]).model.class_path == f"diffeo.{name}"
    words = "--model.univariate Stretch --model.univariate.bound 2 --model.base Logistic"
    parser = make_parser("train")
    options = parse("train", [*words.split(), "--model.network=diffeo.networks.MLP"], parser)
    model = unwrapped(parser.instantiate(options).model)
    flow = model(3)
    assert (type(flow), flow.arguments["univariate"].bound) == (diffeo.RealNVP, 2.0)
    assert isinstance(flow.arguments["univariate"], Stretch)
    assert isinstance(flow.base, Logistic)
    assert flow.arguments["network"].func is MLP


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("temp=C=3", {"temp=C": [3.0]}),
        ("temp=C = -3,label=a=b", {"temp=C": [-3.0], "label": [0.0, 1.0]}),
        ("label=c", {"label": [1.0, 0.0]}),
    ],
)
def test_names_and_classes_may_contain_an_equals_sign(words, values):
    flow = diffeo.RealNVP(
        2, 2, context=ContextSpec((Number("temp=C"), Category("label", ("c", "a=b"))))
    )
    rows = SimpleNamespace(train=SimpleNamespace(context=torch.zeros(1, 3)))
    run = SimpleNamespace(flow=flow, data=lambda: rows, config_file=Path(__file__))
    assert choose_contexts(run, words, None).values == values
    with pytest.raises(ValueError, match="give temp=C=VALUE,label=NAME"):
        choose_contexts(run, "temp=3", None)
    with pytest.raises(ValueError, match="choose label from c, a=b"):
        choose_contexts(run, None, "d")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_of_each_command_has_help(name):
    for action in make_parser(name)._actions:
        assert action.help, action.option_strings


def output_of(code):
    """What Python prints, with the diffeo that is under test."""
    environment = os.environ | {"PYTHONPATH": str(Path(diffeo.__file__).parents[1])}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_what_is_heavy_is_imported_where_it_is_used():
    code = (
        "import sys, diffeo, diffeo.cli\n"
        "diffeo.cli.main(['--help'])\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    loaded = {*output_of(code).splitlines()[-1].split()}
    assert loaded.isdisjoint({"torch", "numpy", "accelerate", "pandas", "pyarrow", "matplotlib"})
    code = "import sys, diffeo\ndiffeo.Flow\nprint(*sys.modules)"
    loaded = {*output_of(code).split()}
    optional = {"datasets", "pyro", "onnx", "onnxruntime", "onnxscript", "gradio", "ray"}
    optional |= {"sbi", "nessai", "zuko", "sdv", "keras"}
    seldom = {"accelerate", "tensorboard", "matplotlib", "pandas", "sklearn", "jsonargparse"}
    assert "torch" in loaded
    assert loaded.isdisjoint(optional | seldom)


# What they say when they cannot -------------------------------------------------------------------

ROWS = [[i / 7, (i * 37 % 101) / 3, i % 13 + 0.1] for i in range(40)]


def bad_nan(rows):
    rows[3][1] = float("nan")


def bad_text(rows):
    for i, row in enumerate(rows):
        row[1] = "red" if i % 2 else "blue"


def bad_constant(rows):
    for row in rows:
        row[1] = 5.0


def bad_one_row(rows):
    del rows[1:]


def bad_no_rows(rows):
    rows.clear()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (bad_nan, ["'second'"]),
        (bad_text, ["'second'", "blue"]),
        (bad_constant, ["'second'", "5"]),
        (bad_one_row, ["1 row"]),
        (bad_no_rows, ["no rows"]),
    ],
)
def test_bad_tables_of_numbers_are_refused(tmp_path, capsys, spoil, words):
    rows = [list(row) for row in ROWS]
    spoil(rows)
    pd.DataFrame(rows, columns=["first", "second", "third"]).to_csv("bad.csv", index=False)
    before = contents(tmp_path)
    command = ["train", "--data=bad.csv", "--out=run", "--model=RealNVP"]
    refused(command, capsys, "bad.csv", *words)
    if spoil in (bad_one_row, bad_no_rows):
        refused(command[:-1], capsys, "bad.csv", *words)
    assert contents(tmp_path) == before


def test_one_column_is_a_table_too(tmp_path, capsys):
    pd.DataFrame(ROWS, columns=["a", "b", "c"]).to_csv("t.csv", index=False)
    one = ["train", "--data=t.csv", "--data.columns=a"]
    refused([*one, "--model=RealNVP"], capsys, "at least 2", "add a column")
    assert not (tmp_path / "runs").exists()
    assert main([*one, "--out=one"]) == 0
    assert main(["sample", "one", "-n", "50", "--out=s.csv"]) == 0
    assert list(pd.read_csv("s.csv").columns) == ["a"]
    assert main(["eval", "one"]) == 0
    assert main(["plot", "one", "--out=one.png"]) == 0
    assert main([*one, "--model=TableFlow", "--trainer.max_epochs=2", "--out=two"]) == 0
    assert main(["train", "--resume=two", "--trainer.max_epochs=3"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data=missing.csv"], ["missing.csv"]),
        (["train", "--data=mooons"], ["mooons", "moons"]),
        (["train", "--out=moons"], ["moons", "already holds a run", "--resume"]),
        (["train", "--out=full"], ["full", "not empty"]),
        (["train", "--out=abc.csv/run"], ["abc.csv/run"]),
        (["train", "--out=/proc/run"], ["/proc/run"]),
        (["train", "--resume=nothing"], ["nothing", "no run"]),
        (["train", "--model=NoSuch"], ["NoSuch"]),
        (["train", "--model.layerz=3"], ["layerz"]),
        (["train", "--trainer.max_epochs=many"], ["max_epochs", "many"]),
        (["train", "--unknown=3"], ["--unknown"]),
        (["eval", "nothing"], ["nothing"]),
        (["eval", "abc", "--data=lacking.csv"], ["lacking.csv", "'b'"]),
        (["score", "moons", "--data=missing.csv", "--out=o.csv"], ["missing.csv"]),
        (["score", "moons", "--data=abc.csv", "--out=o.xlsx"], ["o.xlsx", ".parquet"]),
        (["sample", "moons", "-n=-3", "--out=o.csv"], ["-3"]),
        (["sample", "moons", "--temperature=-1", "--out=o.csv"], ["temperature"]),
        (["sample", "moons", "--context=c=1", "--out=o.csv"], ["context"]),
        (["sample", "abc", "--context=d=1", "--out=o.csv"], ["c=VALUE"]),
        (["sample", "moons", "--out=o.docx"], ["o.docx"]),
        (["train", "--precision=half"], ["precision", "half", "float32", "bf16"]),
        (["eval", "moons", "--precision=float16"], ["precision", "float16", "float32", "bf16"]),
        (["score", "moons", "--data=abc.csv", "--precision=16"], ["precision", "float32"]),
        (["sample", "moons", "--precision=double"], ["precision", "double", "float32"]),
        (["plot", "moons", "--kind=pie", "--out=o.png"], ["pie"]),
        (["plot", "moons", "--out=o.xyz"], ["o.xyz"]),
        ([], ["command"]),
    ],
)
def test_errors_are_one_sentence(run, capsys, arguments, words):
    (run / "full").mkdir()
    (run / "full/letter.txt").write_text("dear")
    (run / "lacking.csv").write_text("a,c\n1,2\n3,4\n")
    before = contents(run)
    refused(arguments, capsys, *words)
    assert contents(run) == before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def rename_class(path):
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"class": "os.path.Stranger"}))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("model.safetensors", truncate, ["model.safetensors", "damaged"]),
        ("config.json", truncate, ["config.json", "damaged"]),
        ("config.json", rename_class, ["config.json", "os.path.Stranger", "--trust"]),
    ],
)
@pytest.mark.parametrize("command", ["eval", "sample", "plot"])
def test_damaged_models_are_refused(run, capsys, name, damage, words, command):
    damage(run / "moons/model" / name)
    before = contents(run)
    refused([command, "moons"], capsys, *words)
    assert contents(run) == before


def test_a_strangers_class_is_imported_only_on_trust(run, capsys, monkeypatch):
    (run / "stranger.py").write_text(
        "import diffeo\nopen('ran', 'w').close()\nclass Theirs(diffeo.RealNVP): pass\n"
    )
    monkeypatch.syspath_prepend(run)
    path = run / "moons/model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class": "stranger.Theirs"}))
    refused(["eval", "moons"], capsys, "stranger.Theirs")
    assert not (run / "ran").exists()
    assert "stranger" not in sys.modules
    assert main(["eval", "moons", "--trust"]) == 0


def test_doctor_prints_what_there_is_and_how_to_get_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setitem(doctor.EXTRAS, "made-up", "no-such-package")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pixels").write_bytes(bytes(3_000_000))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for words in (
        f"torch {torch.__version__}",
        'no-such-package is missing: pip install "diffeo[made-up]"',
        f"{torch.get_num_threads()} on ",
        "none: torch.compile needs a C++ compiler, and there is none: install g++.",
        f"{tmp_path / 'cache'}, 3 MB (set DIFFEO_CACHE for another)",
    ):
        assert words in printed
    for name in ("cpu", "cuda", "mps"):
        assert name in printed


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        ("--model.layers 2 --model RealNVP", "--model RealNVP --model.layers 2"),
        ("--model.layers=2 --seed 1 --model=NSF", "--model=NSF --model.layers=2 --seed 1"),
        (
            "--model.univariate.bins 4 --model.univariate Spline --model NSF",
            "--model NSF --model.univariate Spline --model.univariate.bins 4",
        ),
        ("run --seed 3 --num 2 more", "run --seed 3 --num 2 more"),
        ("--model NSF --model.layers 2 --model.layers 3", None),
        ("a.b a --shift -1", None),
    ],
)
def test_a_class_may_be_named_after_its_options(words, ordered):
    assert classes_first(words.split()) == (ordered or words).split()


def test_a_model_may_be_named_after_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--data", "iris", "--model.layers", "2", "--trainer.max_epochs=1"]
    assert main([*words, "--model", "RealNVP", "--out", "run"]) == 0
    assert diffeo.load("run").arguments["layers"] == 2

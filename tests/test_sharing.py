"""Sharing a model: what is written and pushed, what its card says, and the names that ship."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import refused
from constructors import perturb
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from jsonargparse import Namespace
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file

import diffeo
from diffeo import Flow, figures
from diffeo.bijections import Affine
from diffeo.cli import main
from diffeo.cli.parser import parse
from diffeo.context import Category, ContextSpec, Number
from diffeo.evaluation.likelihood import evaluate
from diffeo.pretrained import zoo
from diffeo.pretrained.card import Card
from diffeo.run import Run, share
from diffeo.run.folder import as_setting
from diffeo.run.sharing import command_of
from diffeo.utils.config import to_config

DIGITS = ContextSpec.classes(10)
NASTY = "a`b]( |\n---\n# c <img src=x> ```"
TABLE = ["x", NASTY]
GLOW = ["--model=Glow", "--model.levels=1", "--model.steps=2", "--model.hidden_channels=8"]


def glow(context=None, **options) -> Flow:
    """A small Glow of digits whose weights are not those of the start."""
    flow = diffeo.Glow((1, 8, 8), 2, 2, 8, context=context, **options)
    context = torch.rand(64, flow.context_features) if flow.context else None
    flow.initialize(torch.randint(17, (64, 1, 8, 8), dtype=torch.uint8), context)
    return perturb(flow, 0.05).eval()


MODELS = {
    "Glow": glow,
    "its matrices": lambda: glow(lu=False),
    "ImageRealNVP": lambda: perturb(diffeo.ImageRealNVP((1, 8, 8), scales=1, blocks=1)).eval(),
    "RealNVP": lambda: perturb(diffeo.RealNVP(4, layers=2, hidden=(8,))).eval(),
    "NICE": lambda: perturb(diffeo.NICE(4, layers=2, hidden=(8,))).eval(),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of digits given their labels, and one of a table with wild names in a private place."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "private").mkdir()
    values = np.random.default_rng(0).normal(size=(300, 3))
    names = [*TABLE, "age"]
    pd.DataFrame(values, columns=names).to_parquet(folder / "private/my rows.parquet")
    quick = ["--trainer.max_epochs=1", "--trainer.figure_every=9"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        digits = ["--data=digits", "--data.rows=300", "--data.context=label", *quick]
        assert main(["train", *GLOW, *digits, "--out=digits"]) == 0
        rows = [f"--data={folder}/private/my rows.parquet", "--data.context=age", *quick]
        assert main(["train", "--model=RealNVP", "--model.layers=2", *rows, "--out=table"]) == 0
    return folder


@pytest.fixture
def hub(monkeypatch):
    """What would have been sent to the hub: the calls, and each file that was pushed."""
    calls = {}

    def create_repo(api, repo_id, **given):
        calls["create"] = {"repo_id": repo_id, "token": api.token} | given
        return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{repo_id.split('/')[-1]}")

    def upload_folder(api, *, folder_path, **given):
        calls["upload"] = given
        calls["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return "https://huggingface.co/there"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return calls


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """Two small models that ship: `tiny` is of digits given their labels, `rows` of a table."""
    flow = glow(DIGITS)
    flow.metadata = {"size": None}
    flow.save_pretrained(tmp_path / "zoo/tiny")
    perturb(diffeo.RealNVP(2, layers=2)).save_pretrained(tmp_path / "zoo/rows")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    return flow


def card_of(folder) -> tuple[dict, str]:
    """The header and the body of a card."""
    _, header, body = Path(folder, "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), body


def fenced(body, language) -> str:
    return re.search(rf"^(`{{3,}}){language}\n(.*?)\n\1$", body, re.M | re.S)[2]


def equal_states(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Fewer bits ---------------------------------------------------------------------------------------


@every_model
def test_only_kernels_of_networks_are_rounded_and_to_the_nearest(make):
    flow = make()
    flow.save_pretrained("m", dtype=torch.bfloat16)
    stored, state = load_file("m/model.safetensors"), flow.state_dict()
    rounded = {name for name in stored if stored[name].dtype == torch.bfloat16}
    assert stored.keys() == state.keys()
    assert rounded
    for name, values in state.items():
        if name not in rounded:
            assert stored[name].dtype == values.dtype
            assert torch.equal(stored[name], values)
            continue
        assert "conditioner" in name
        assert values[0].numel() > 1  # no bias, and no scale
        # Eight bits of precision: half a unit of the last is 2^-9 of the power of two below.
        assert ((stored[name].float() - values).abs() <= values.abs() * 2**-8).all()
        assert not torch.equal(stored[name].float(), values)
    # Whatever else is large in a network is rounded too.
    networks = {name for name in state if ".conditioner." in name} - rounded
    assert all(state[name].ndim < 2 or state[name][0].numel() == 1 for name in networks)


@every_model
def test_a_rounded_model_computes_as_any_other(make):
    flow = make()
    flow.save_pretrained("m", dtype=torch.bfloat16)
    loaded = Flow.from_pretrained("m")
    stored = load_file("m/model.safetensors")
    state = {name: value.to(flow.state_dict()[name]) for name, value in stored.items()}
    flow.load_state_dict(state, assign=True)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert equal_states(loaded.state_dict(), flow.state_dict())
    x = flow.sample(5)
    z = loaded.encode(x)
    assert torch.equal(z, flow.encode(x))
    back = loaded.decode(z)
    assert torch.equal(back, x) if flow.takes_pixels else torch.allclose(back, x, atol=1e-3)


def test_rounding_halves_the_file_of_a_wide_model():
    flow = diffeo.Glow((1, 8, 8), 1, 2, 128)
    for folder, dtype in (("whole", None), ("half", torch.bfloat16)):
        flow.save_pretrained(folder, dtype=dtype)
    whole, half = (Path(f, "model.safetensors").stat().st_size for f in ("whole", "half"))
    assert half < 0.54 * whole


def test_a_rounded_float64_model_comes_back_in_float64():
    flow = perturb(diffeo.RealNVP(4, layers=2)).double().eval()
    flow.save_pretrained("m", dtype=torch.bfloat16)
    loaded = Flow.from_pretrained("m")
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    name = next(name for name in flow.state_dict() if name.endswith("layers.0.weight"))
    assert torch.equal(loaded.state_dict()[name], flow.state_dict()[name].bfloat16().double())
    assert json.loads(Path("m/config.json").read_text())["stored_as"] == "bfloat16"


def test_a_rounded_model_is_saved_whole_again():
    glow().save_pretrained("m", dtype=torch.bfloat16)
    loaded = Flow.from_pretrained("m")
    loaded.save_pretrained("again")
    assert "stored_as" not in json.loads(Path("again/config.json").read_text())
    assert equal_states(Flow.from_pretrained("again").state_dict(), loaded.state_dict())
    assert {t.dtype for t in load_file("again/model.safetensors").values()} >= {torch.float32}


def test_other_types_are_refused():
    with pytest.raises(ValueError, match=r"torch\.bfloat16"):
        glow().save_pretrained("m", dtype=torch.float16)
    assert not Path("m").exists()


@pytest.mark.parametrize("damage", [{"stored_as": "int4"}, {"dtype": "int8"}, {"dtype": None}])
def test_an_unknown_type_is_damage(damage):
    glow().save_pretrained("m", dtype=torch.bfloat16)
    path = Path("m/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(ValueError, match="damaged"):
        Flow.from_pretrained("m")


def test_whoever_may_read_the_config_may_read_the_weights():
    glow().save_pretrained("m")
    assert len({path.stat().st_mode for path in Path("m").iterdir()}) == 1


# The hub ------------------------------------------------------------------------------------------


def test_options_of_a_download_do_no_harm_to_a_folder(tmp_path):
    flow = glow()
    flow.save_pretrained(tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    given = {"revision": None, "cache_dir": None, "token": None}
    given |= {"force_download": False, "local_files_only": False}
    loaded = Flow.from_pretrained(tmp_path / "m", **given)
    assert equal_states(loaded.state_dict(), flow.state_dict())
    assert to_config(loaded.arguments) == to_config(flow.arguments)


def test_options_of_a_download_reach_the_hub(monkeypatch):
    flow = glow()
    flow.save_pretrained("fetched")
    asked = {}

    def snapshot_download(repo_id, **given):
        asked.update(given, repo_id=repo_id)
        return "fetched"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    given = {"revision": "v2", "token": "hf_x", "cache_dir": "c", "force_download": True}
    loaded = diffeo.load("owner/name", **given, local_files_only=True)
    assert equal_states(loaded.state_dict(), flow.state_dict())
    assert asked.pop("allow_patterns") == ["config.json", "model.safetensors"]
    assert asked == given | {"local_files_only": True, "repo_id": "owner/name"}


def test_a_push_carries_the_model_and_a_card(hub):
    flow = glow()
    flow.metadata = {"data": "digits"}
    given = {"branch": "b", "commit_message": "Mine", "create_pr": True}
    where = flow.push_to_hub("me/mine", dtype=torch.bfloat16, private=True, token="hf_x", **given)
    assert where == "https://huggingface.co/there"
    assert hub["create"] == {
        "repo_id": "me/mine", "token": "hf_x", "private": True, "exist_ok": True,
    }  # fmt: skip
    assert hub["upload"]["repo_id"] == "me/mine"
    assert hub["upload"]["revision"] == "b"
    assert hub["upload"]["commit_message"] == "Mine"
    assert hub["upload"]["create_pr"]
    assert hub["files"].keys() == {"config.json", "model.safetensors", "README.md"}
    card = hub["files"]["README.md"].decode()
    assert 'diffeo.load("me/mine")' in card
    assert "bfloat16" in card
    Path("pushed").mkdir()
    for name, content in hub["files"].items():
        Path("pushed", name).write_bytes(content)
    stored = load_file("pushed/model.safetensors")
    assert torch.bfloat16 in {tensor.dtype for tensor in stored.values()}
    assert type(Flow.from_pretrained("pushed")) is diffeo.Glow


def test_saving_may_push(hub):
    glow().save_pretrained("mine", push_to_hub=True, dtype=torch.bfloat16, private=True)
    assert hub["create"]["repo_id"] == "mine"
    assert hub["create"]["private"]
    assert b"stored_as" in hub["files"]["config.json"]
    assert {path.name for path in Path("mine").iterdir()} == {"config.json", "model.safetensors"}


def test_a_card_has_a_header_for_the_hub():
    glow().save_pretrained("mine", model_card_kwargs={"name": "me/mine", "license": "mit"})
    card = huggingface_hub.ModelCard.load("mine/README.md")
    assert card.data.library_name == "diffeo"
    assert card.data.license == "mit"
    assert {"glow", "normalizing-flow"} <= set(card.data.tags)


def test_a_model_that_cannot_be_saved_makes_no_repository(hub):
    flow = glow()
    with torch.no_grad():
        next(flow.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        flow.push_to_hub("me/mine")
    assert "create" not in hub


# Names --------------------------------------------------------------------------------------------


def test_load_takes_folders_runs_and_names(run, shipped):
    flow = diffeo.load("tiny")
    assert not flow.training
    assert equal_states(flow.state_dict(), shipped.state_dict())
    loaded = diffeo.load("digits")
    assert equal_states(loaded.state_dict(), diffeo.load("digits/model").state_dict())


def test_a_model_in_a_folder_wins_over_one_that_ships(shipped):
    other = glow()
    other.save_pretrained("tiny")
    assert equal_states(diffeo.load("tiny").state_dict(), other.state_dict())
    shutil.rmtree("tiny")
    other.save_pretrained("tiny/model")
    assert equal_states(diffeo.load("tiny").state_dict(), other.state_dict())
    shutil.rmtree("tiny/model")  # what is left may hold data of that name
    assert equal_states(diffeo.load("tiny").state_dict(), shipped.state_dict())


def test_unknown_names_are_answered_with_those_that_ship(shipped, capsys):
    refused(["sample", "minst"], capsys, "minst is neither", "rows, tiny")


def test_commands_take_a_name_that_ships(shipped, capsys):
    digits = ["--data", "digits"]
    for command in (
        ["sample", "tiny", "-n=6", "--seed=0", "--label=3", "--out=grid.png"],
        ["eval", "tiny", *digits],
        ["score", "tiny", *digits, "--out=s.csv"],
        ["interpolate", "tiny", *digits, "--pairs=1", "--frames=3", "--out=i.png"],
        ["edit", "tiny", *digits, "--attribute=label=3", "-n=2", "--strengths=0,1", "--out=e.png"],
        ["levels", "tiny", *digits, "-n=2", "--out=l.png"],
        ["reconstruct", "tiny", *digits, "-n=2", "--out=r.png"],
        ["sample", "rows", "-n=6", "--out=rows.csv"],
    ):
        assert main(command) == 0, command
    assert len(pd.read_csv("s.csv")) == 1_797
    with torch.no_grad():
        context = torch.eye(10)[[3]]
        drawn = shipped.sample(6, context, generator=torch.Generator().manual_seed(0))
    figures.save_images(drawn, "own.png")
    assert np.array_equal(np.asarray(Image.open("grid.png")), np.asarray(Image.open("own.png")))


@pytest.mark.parametrize("command", ["eval", "plot", "interpolate", "levels", "directions"])
def test_what_needs_the_training_data_says_so(command, shipped, capsys):
    refused([command, "tiny"], capsys, "tiny does not say where its data are", "--data")


SEEN = """
import sys
from diffeo.cli import main
assert main(["sample", "m", "-n=4", "--out=grid.png"]) == 0
heavy = "accelerate matplotlib pandas pyarrow sklearn scipy tensorboard datasets"
print([name for name in heavy.split() if name in sys.modules])
"""


def test_sampling_imports_only_what_it_needs():
    glow().save_pretrained("m")
    done = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


TRAINED = """
import sys
from diffeo.cli import main
assert main(["train", "--data.rows=300", "--trainer.max_epochs=1", "--out=run"]) == 0
heavy = "accelerate pandas pyarrow sklearn scipy datasets torch._dynamo"
print([name for name in heavy.split() if name in sys.modules])
"""


def test_a_short_training_imports_only_what_it_needs():
    done = subprocess.run([sys.executable, "-c", TRAINED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# Cards --------------------------------------------------------------------------------------------


def headings(body) -> list[str]:
    tokens = MarkdownIt().parse(body)
    return [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]


def inlines(body) -> list:
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    return [child for token in tokens for child in token.children or []]


SECTIONS = ["What it models", "How well", "How it was made", "How to use it", "Licence"]


def test_names_cannot_break_a_card(run, capsys):
    assert main(["share", "table", "--out=out"]) == 0
    header, body = card_of("out")
    assert header["library_name"] == "diffeo"
    assert header.keys() == {"library_name", "tags"}
    assert headings(body)[1:] == SECTIONS
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    assert not {"html_block", "table_open", "hr"} & {token.type for token in tokens}
    assert not {"html_inline", "link_open"} & {child.type for child in inlines(body)}
    # A line break in a name is shown as a space, and all else as it is.
    code = [child.content for child in inlines(body) if child.type == "code_inline"]
    assert " ".join(NASTY.split()) in [text.strip() for text in code]


@pytest.mark.parametrize("where", ["data", "license", "dataset", "name", "command", "caption"])
def test_no_text_ends_its_place(where, tmp_path):
    flow = glow(ContextSpec((Category(NASTY, (NASTY, "b")), Number(f"{NASTY}=b"))))
    given = {"command": "diffeo train", "results": {"test": "1 ± 2"}, "image": tmp_path / "p.png"}
    if where == "data":
        flow.metadata["data"] = NASTY
    else:
        given[where] = NASTY
    (tmp_path / "p.png").write_bytes(b"")
    flow.save_pretrained("m", model_card_kwargs=given)
    header, body = card_of_text(Path("m/README.md").read_text(encoding="utf-8"))
    assert headings(body)[1:] == SECTIONS[: 4 if where == "license" else 5]
    assert header.get("license") == (NASTY if where == "license" else None)
    assert header.get("datasets") == ([NASTY] if where == "dataset" else None)
    assert not {"html_inline", "link_open"} & {child.type for child in inlines(body)}
    assert [child.attrs["src"] for child in inlines(body) if child.type == "image"] == [
        "samples.png"
    ]


def card_of_text(text) -> tuple[dict, str]:
    """Header and body by the hub's own reader."""
    card = huggingface_hub.ModelCard(text)
    return card.data.to_dict(), card.text


def test_a_card_has_no_path_and_no_row(run):
    assert main(["share", "table", "--out=out"]) == 0
    text = "".join(
        Path("out", name).read_text(encoding="utf-8") for name in ("README.md", "config.json")
    )
    assert "my rows.parquet" in text
    assert "private" not in text
    assert str(run) not in text
    assert "trained" not in text.replace("trained on", "")
    rows = pd.read_parquet("private/my rows.parquet").to_numpy()
    for value in rows.ravel():
        assert f"{value:.4f}" not in text.replace("-", "") or abs(value) < 0.01
    assert {path.name for path in Path("out").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "samples.png",
    }  # fmt: skip


def test_a_card_says_what_was_measured(run):
    results = json.loads(Path("digits/results.json").read_text())
    assert main(["share", "digits", "--out=out", "--license=cc0-1.0"]) == 0
    header, body = card_of("out")
    assert header["license"] == "cc0-1.0"
    assert header["pipeline_tag"] == "unconditional-image-generation"
    assert "## Licence" not in body
    for split in ("train", "val", "test"):
        score = results[split]
        given = f"{score['bits_per_dim']:.4f} ± {score['bits_stderr']:.4f} bits/dim"
        assert re.search(rf"- {split}: {re.escape(given)}.*, {score['rows']:,} images", body)
    # A class in each column, of eight rows of 8 x 8 pixels.
    width, height = Image.open("out/samples.png").size
    assert width / height == pytest.approx(10 / 8, abs=0.02)


def test_a_rounded_model_is_scored_as_it_is_shared(run):
    assert main(["share", "digits", "--out=out", "--dtype=bfloat16"]) == 0
    score = evaluate(diffeo.load("out"), Run("digits").data(), "test")
    whole = json.loads(Path("digits/results.json").read_text())["test"]["bits_per_dim"]
    assert score.bits_per_dim != whole
    assert str(score) in card_of("out")[1].replace("\\", "")
    assert "after rounding" in card_of("out")[1]


def test_where_the_data_are_gone_a_card_says_what_was_rounded(run):
    path = Path("table/config.yaml")
    path.write_text(path.read_text().replace("my rows", "gone"))
    assert main(["share", "table", "--out=out", "--dtype=bfloat16"]) == 0
    assert "before the kernels were rounded" in card_of("out")[1]
    assert not Path("out/samples.png").exists()  # it would need ages to draw for


def by_name(value):
    """A class of the settings by its name, however written; other values as they are."""
    value = value.as_dict() if isinstance(value, Namespace) else value
    if not isinstance(value, dict):
        return value
    arguments = {key: by_name(part) for key, part in value.get("init_args", {}).items()}
    return value["class_path"].rpartition(".")[2], arguments


@pytest.mark.parametrize("name", ["digits", "table"])
def test_the_command_of_a_card_repeats_the_run(name, run):
    assert main(["share", name, "--out=out"]) == 0
    words = shlex.split(fenced(card_of("out")[1], "console"))
    assert words[:2] == ["diffeo", "train"]
    if name == "table":
        words[words.index("my rows.parquet")] = f"{run.parent}/never/my rows.parquet"
    given = parse("train", words[2:])
    settings = yaml.safe_load(Path(name, "config.yaml").read_text())
    for section in ("optimizer", "trainer"):
        assert vars(given[section]) == settings[section]
    for option, value in settings["data"].items():
        found = given.data[option]
        assert (
            Path(found).name == Path(value).name
            if option == "source"
            else (list(found) if isinstance(found, tuple) else found) == value
        )
    assert (given.seed, given.precision) == (settings["seed"], settings["precision"])
    assert given.model.class_path.endswith(settings["model"]["class_path"].split(".")[-1])
    defaults = getattr(diffeo, settings["model"]["class_path"].split(".")[-1]).defaults
    for option, value in settings["model"]["init_args"].items():
        found = given.model.init_args[option]
        if found is None and option in defaults:  # what None stands for is in the settings
            found = as_setting(defaults[option])
        assert by_name(found) == by_name(value)


def test_a_preset_is_named_where_it_says_it_all(run):
    path = Path("digits/config.yaml")
    settings = yaml.safe_load(path.read_text())
    preset = yaml.safe_load(Path(diffeo.run.presets.find("mnist-labels")).read_text())
    for section in ("data", "optimizer", "trainer"):
        settings[section] |= preset[section]
    settings["data"] |= {"source": f"{run}/MNIST/", "rows": None, "cache": f"{run}"}
    settings["model"]["init_args"] |= preset["model"]["init_args"]
    command = ["diffeo", "train", "--preset", "mnist-labels", "--data", "MNIST"]
    assert shlex.split(command_of(settings, diffeo.Glow)) == command
    settings["trainer"]["max_epochs"] = 3
    longer = [*command, "--trainer.max_epochs", "3"]
    assert shlex.split(command_of(settings, diffeo.Glow)) == longer


CONTEXTS = {
    "none": ContextSpec(),
    "classes": DIGITS,
    "numbers": ContextSpec((Number("age"), Number(NASTY), Number("temp=C"))),
    "both": ContextSpec((Category("k", ("a", "b")), Number("age"), Category(NASTY, ("a", NASTY)))),
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
def test_the_python_of_a_card_runs(context):
    flow = glow(context)
    flow.save_pretrained("m", model_card_kwargs={"name": "m"})
    found: dict = {}
    exec(fenced(card_of("m")[1], "python"), found)
    assert found["x"].shape == (16, 1, 8, 8)
    assert found["log_prob"].isfinite().all()
    assert ("context" in found) == bool(context)
    for variable, columns in context.parts():
        given = found["context"][:, columns]
        assert given.shape == (16, len(variable.columns))
        # One value of each category; a number is anything.
        assert isinstance(variable, Number) or (given.sum(1).eq(1) & given.amax(1).eq(1)).all()


def test_the_commands_of_a_card_run(run):
    assert main(["share", "digits", "digits", "--out=out"]) == 0
    body = card_of("out")[1]
    usage = body[body.index("## How to use it") :]
    sample, score = (shlex.split(line)[1:] for line in fenced(usage, "console").splitlines())
    assert main([*sample, "-n=4"]) == 0
    assert main([word.replace("FOLDER", "digits") for word in score[:2]] + ["--data=digits"]) == 0
    assert Path("grid.png").exists()


def test_classes_of_somebody_else_are_loaded_with_trust(tmp_path):
    class Mine(diffeo.RealNVP):
        pass

    Mine(2, layers=1).save_pretrained("m", model_card_kwargs={"name": "me/m"})
    body = card_of("m")[1]
    assert 'diffeo.load("me/m", trust=True)' in body
    assert "diffeo sample me/m --trust" in body


def test_samples_are_drawn_without_data():
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    figure = figures.corner(None, rows, ["a", "b", "c"])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["samples, 500 rows"]
    filled = [patch for axes in figure.axes for patch in axes.patches if patch.get_alpha() == 0.3]
    filled = [patch for patch in filled if patch.get_path().get_extents().height > 0]
    assert not filled  # data are drawn as filled steps


# Sharing a run ------------------------------------------------------------------------------------


def test_share_pushes_what_it_would_write(run, hub, capsys):
    flow = Run("digits")
    where = share(flow, "me/digits", dtype=torch.bfloat16, private=True)
    assert where == "https://huggingface.co/there"
    assert hub["create"]["private"]
    share(flow, "me/digits", "out", dtype=torch.bfloat16)
    assert hub["files"] == {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert main(["share", "digits", "me/digits", "--message=Mine"]) == 0
    assert "Pushed to https://huggingface.co/there" in capsys.readouterr().out
    assert hub["create"]["private"] is None
    assert hub["upload"]["commit_message"] == "Mine"


def test_a_bare_model_is_shared_with_what_it_knows(run):
    assert main(["share", "digits/model", "--out=out"]) == 0
    assert headings(card_of("out")[1])[1:] == ["What it models", "How to use it", "Licence"]
    # Labels alone need no data to draw for.
    assert Path("out/samples.png").exists()


def test_what_cannot_be_shared_is_refused(run, capsys, monkeypatch):
    refused(["share", "digits"], capsys, "owner/name", "--out")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    refused(["share", "digits", "--out=full"], capsys, "not empty")
    assert [path.name for path in Path("full").iterdir()] == ["mine.txt"]
    refused(["share", "digits", "--out=o", "--dtype=int8"], capsys, "bfloat16")
    refused(["share", "digits", "not a name"], capsys, "not a name")
    for error in (ConnectionError("no way\nthere"), HfHubHTTPError.__bases__[0]("no answer")):

        def failing(*_, error=error, **__):
            raise error

        monkeypatch.setattr(HfApi, "create_repo", failing)
        refused(["share", "digits", "me/x"], capsys, "me/x could not be pushed", "hf auth login")
    for name, damage in (("results.json", "[1]"), ("config.yaml", "- 1")):
        whole = Path("digits", name).read_text()
        Path("digits", name).write_text(damage)
        refused(["share", "digits", "--out=o"], capsys, f"digits/{name} is damaged")
        Path("digits", name).write_text(whole)
    assert not Path("o").exists()


# What ships ---------------------------------------------------------------------------------------


SHIPPED = {"mnist": "mnist-labels", "pixel-mnist": "pixel-mnist", "shapes": "glow-shapes"}
OF_MNIST = ("mnist", "pixel-mnist")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_ships_small_and_says_how_good_it_is(name):
    folder = zoo.FOLDER / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    header, body = card_of(folder)
    assert header["license"] == "apache-2.0"
    count = "10,000" if name in OF_MNIST else "2,000"
    score = rf"- test: [01]\.\d{{4}} ± 0\.\d{{4}} (exact )?bits/dim.*{count} images"
    assert re.search(score, body)
    assert f"diffeo train --preset {SHIPPED[name]}" in body
    assert not re.search(r"[\s'\"](/|~/)\w", body)


@pytest.mark.parametrize("name", OF_MNIST)
def test_a_model_of_mnist_draws_by_class(name):
    x = diffeo.load(name).sample(2, torch.eye(10)[[3, 8]])
    assert x.shape == (2, 1, 28, 28)


def test_the_data_of_the_model_of_shapes_are_at_hand(capsys):
    """They are drawn as then, so that all commands work without a file."""
    run = Run("shapes")
    data = run.data()
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [16_000, 2_000, 2_000]
    x, context = data.test.take(torch.arange(300))
    with torch.no_grad():
        bits = run.flow.bits_per_dim(x, context, generator=torch.Generator().manual_seed(0))
    given = float(re.search(r"- test: ([01]\.\d+)", card_of(zoo.FOLDER / "shapes")[1])[1])
    assert bits.mean().item() == pytest.approx(given, abs=4 * bits.std().item() / 300**0.5)
    asked = "--context=shape=circle,x=0.4,filled=1"
    assert main(["sample", "shapes", "-n", "4", "--seed=0", asked, "--out=circles.png"]) == 0
    refused(["sample", "shapes", "--context=shape=star"], capsys, "circle, square, triangle")


def test_samples_of_shapes_have_the_attributes_that_are_asked_for():
    """As their pixels say: the place of what is not background, and its area and colour."""
    run = Run("shapes")
    _, context = run.data().test.take(torch.arange(200))
    x = run.sample(200, context=context, temperature=0.7, seed=0).double()
    column = dict(zip(run.context_columns, context.double().T, strict=True))
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], dim=2)
    apart = (x - border.median(2).values[:, :, None, None]).abs().sum(1)
    steps = (torch.arange(24) + 0.5).double() / 24
    mass = apart * (apart > 60)
    total = mass.sum((1, 2))
    for name, places in (
        ("x", (mass.sum(1) @ steps) / total),
        ("y", (mass.sum(2) @ steps) / total),
    ):
        assert torch.corrcoef(torch.stack([places, column[name]]))[0, 1] > 0.95
    hue = torch.stack([(x[:, i] * mass).sum((1, 2)) / total for i in (2, 1, 0)], dim=1)
    wanted = torch.stack([column[f"colour={name}"] for name in ("blue", "green", "red")], dim=1)
    assert (hue.argmax(1) == wanted.argmax(1)).double().mean() > 0.95
    assert ((border.mean((1, 2)) < 128) == (column["dark"] > 0.5)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_MNIST)
def test_a_model_is_as_good_as_its_card_says(name, shared_data):
    given = float(re.search(r"- test: ([01]\.\d+)", card_of(zoo.FOLDER / name)[1])[1])
    run = Run(name)
    gallery = run.gallery(str(shared_data / "mnist" / "test.parquet"))
    x, context = gallery.images.take(torch.arange(2_000))
    with torch.no_grad():
        parts = zip(x.split(100), context.split(100), strict=True)
        bits = torch.cat([run.flow.bits_per_dim(*part) for part in parts])
    assert bits.mean().item() == pytest.approx(given, abs=4 * bits.std().item() / 2_000**0.5)


def test_the_files_of_a_model_are_package_data():
    import tomllib

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    patterns = tomllib.loads(text)["tool"]["setuptools"]["package-data"]["diffeo"]
    package = Path(diffeo.__file__).parent
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assert {path for path in zoo.FOLDER.glob("*/*") if path.suffix != ".pyc"} <= packed


def test_a_card_takes_no_unknown_word():
    with pytest.raises(TypeError):
        Card(colour="red")


class Wider(diffeo.RealNVP):
    """A model that hands on whatever other arguments it gets."""

    def __init__(self, features, layers=2, **options):
        super().__init__(features, layers, **options)


def test_arguments_that_a_class_hands_on_are_saved_by_their_names(tmp_path):
    affine = Affine(bound=1.5)
    flow = Wider(2, hidden=(8,), univariate=affine).initialize(torch.randn(20, 2)).eval()
    flow.save_pretrained(tmp_path / "model")
    again = diffeo.Flow.from_pretrained(tmp_path / "model")
    assert type(again) is Wider
    assert again.arguments.keys() == {"features", "layers", "hidden", "univariate"}
    assert to_config(again.arguments) == to_config(flow.arguments)
    assert again.arguments["univariate"].bound == 1.5
    x = torch.randn(5, 2)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))

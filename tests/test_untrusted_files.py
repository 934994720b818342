"""Files of a stranger: nothing in them is run, nothing takes all memory, each gets one sentence."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import os
import pickle
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from robustness import attacks, damage, specimens
from safetensors.torch import save_file

import diffeo
from diffeo import models
from diffeo.cli import main
from diffeo.data import ImageOptions, TableOptions, files, load_gallery, load_table, stream
from diffeo.data.arrow import parquet_batches, to_numpy
from diffeo.evaluation.scores import Reference
from diffeo.flow import Flow
from diffeo.latent import Directions
from diffeo.pretrained import storage
from diffeo.run import Run
from diffeo.utils.console import PlainConsole, printable
from diffeo.utils.files import read_text
from diffeo.utils.yaml import parse_yaml

FAILING = sorted((Path(__file__).parent / "failing_inputs").glob("*-*"))


def refused(words: list[str], capsys, *parts: str) -> str:
    """The one sentence by which a command refuses its files."""
    capsys.readouterr()
    assert main(words) == 2
    _, err = capsys.readouterr()
    (sentence,) = [line for line in err.splitlines() if line]
    assert sentence.startswith("diffeo: ") and sentence.isprintable()
    for part in parts:
        assert part in sentence, sentence
    return sentence


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch) -> Path:
    """A folder of whole files."""
    # What a test puts here is not found by accident.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "run" / "model", tmp_path / "table")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The specimens that all tests copy."""
    return specimens.whole(tmp_path_factory.mktemp("specimens") / "whole")


def meet(kind, whole: Path, here: Path, monkeypatch) -> None:
    """Let commands meet some attacks of a kind; none runs its code."""
    marker = here / "marker"
    for number, attack in enumerate(itertools.islice(kind(whole, marker), 0, None, 9)):
        if "--resume" not in attack.words:  # which trains; see the robustness run
            home = here / f"attacked-{number}"
            shutil.copytree(whole, home)
            attack.place(home)
            monkeypatch.chdir(home)
            assert main(attack.words) in (0, 2), attack.words
            assert not marker.exists() and "evil" not in sys.modules, attack


# Pickles ----------------------------------------------------------------------------------------


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(specimens.Bomb(marker)))
    assert marker.exists()


def test_no_file_is_unpickled(whole, here, monkeypatch, capsys):
    meet(attacks.pickles, whole, here, monkeypatch)


def test_a_checkpoint_needs_no_class_and_runs_no_code(here, monkeypatch):
    from diffeo.run import train
    from diffeo.training.options import TrainerOptions

    train(
        lambda features: diffeo.RealNVP(features, layers=2, hidden=[4]),
        diffeo.data.DataOptions("rows.csv"),
        here / "own",
        trainer=TrainerOptions(max_epochs=1, device="cpu"),
        console=Console(quiet=True),
    )
    for path in (here / "own" / "checkpoints").glob("*.ckpt"):
        assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    # Nothing but what torch allows itself, by name, has been allowed to be made.
    allowed = torch.serialization.get_safe_globals()
    assert all(thing.__module__.startswith("torch.") for thing in allowed)
    bomb = specimens.Bomb(here / "marker")
    for path in (here / "own" / "checkpoints").glob("*.ckpt"):
        whole = torch.load(path, weights_only=True)
        torch.save(whole | {"hyper_parameters": bomb, "loops": bomb}, path)
    # What torch says of it is made a sentence where checkpoints are looked at.
    with contextlib.suppress(pickle.UnpicklingError):
        assert main(["train", "--resume", "own"]) == 2
    assert not (here / "marker").exists()


# Classes ----------------------------------------------------------------------------------------


def test_a_class_that_settings_name_is_not_imported(whole, here, monkeypatch, capsys):
    meet(attacks.classes, whole, here, monkeypatch)


def test_a_class_is_imported_where_it_is_trusted_or_typed(here, capsys, monkeypatch):
    (here / "mine.py").write_text("import diffeo\nclass Mine(diffeo.RealNVP): pass\n")
    (here / "c.yaml").write_text("model: {class_path: mine.Mine, init_args: {layers: 2}}\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    stop = ["--data", "rows.csv", "--out", "run"]  # which is in use
    refused(["train", "--config", "c.yaml", *stop], capsys, "c.yaml", "mine.Mine", "--trust")
    assert "mine" not in sys.modules
    for more in (["--trust"], ["--model", "mine.Mine"]):
        words = ["train", "--config", "c.yaml", *more, *stop]
        refused(words, capsys, "run already holds a run")
        assert sys.modules.pop("mine")
    refused(["train", "--model=mine.Mine", *stop], capsys, "run already holds a run")
    text = (here / "run" / "config.yaml").read_text()
    (here / "run" / "config.yaml").write_text(text.replace("diffeo.RealNVP", "mine.Mine"))
    refused(["train", "--resume", "run"], capsys, "run/config.yaml", "mine.Mine", "--trust")


def test_every_model_of_ours_may_be_named():
    def below(model: type) -> set[type]:
        return {model}.union(*map(below, model.__subclasses__()))

    found = {m for m in below(Flow) - {Flow} if not inspect.isabstract(m)}
    ours = {m for m in found if m.__module__.startswith("diffeo.")}
    assert ours == {getattr(models, name) for name in diffeo.MODELS}


def test_no_module_is_found_where_the_user_is_unless_a_class_is_named(here, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    refused(["train", "--data", "rows.csv", "--out", "run"], capsys, "already holds")
    assert str(here) not in sys.path and "" not in sys.path


# Sizes ------------------------------------------------------------------------------------------


def test_aliases_unfold_up_to_a_bound():
    assert parse_yaml("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}
    laughs = "a0: &a0 [1, 1]\n"
    laughs += "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 20))
    for text in (laughs, "a: &a [*a]", "[" * 10**5, "a: !!python/name:os.system x", "\0"):
        with pytest.raises(ValueError):
            parse_yaml(text)
    # Of nine nines there are 9^5 at the sixth level, and 100,000 at most.
    parse_yaml("".join(laughs.splitlines(keepends=True)[:4]))


def test_a_text_ends_and_is_a_plain_file(tmp_path):
    (tmp_path / "long").write_bytes(b"a" * 101)
    assert len(read_text(tmp_path / "long", 101)) == 101
    with pytest.raises(ValueError, match="longer"):
        read_text(tmp_path / "long", 100)
    with pytest.raises(ValueError, match="no plain file"):
        read_text(Path("/dev/zero"), 100)


def test_a_model_takes_no_more_than_its_weights():
    state = diffeo.RealNVP(4, layers=2, hidden=[8]).state_dict()
    with storage.limit_allocation(state):
        diffeo.RealNVP(4, layers=2, hidden=[8])
    for wrong in ({"layers": 10**9}, {"hidden": [10**9]}, {"hidden": [30_000, 30_000]}):
        with (
            pytest.raises(ValueError, match="many more weights"),
            storage.limit_allocation(state),
        ):
            diffeo.RealNVP(4, **wrong)
    # Afterwards there are no bounds.
    assert diffeo.RealNVP(4, layers=600, hidden=[1])


def test_a_models_words_and_weights_are_checked(here, capsys):
    config = json.loads((here / "table" / "config.json").read_text())
    for key, value in (("columns", ["x"]), ("columns", 5)):
        changed = config | {"metadata": config["metadata"] | {key: value}}
        (here / "table" / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match="does not fit the model"):
            Run(here / "table")
    config["arguments"]["layers"] = 10**9
    (here / "table" / "config.json").write_text(json.dumps(config))
    refused(["sample", "table"], capsys, "many more weights")
    flow = diffeo.load(here / "glow")
    for name, tensor in flow.state_dict().items():
        if name.endswith("permutation"):
            tensor.zero_()
    flow.save_pretrained(here / "images-model")
    with pytest.raises(ValueError, match="permutation"):
        diffeo.load(here / "images-model")
    moved = diffeo.NICE([1, 2, 2], layers=2, hidden=[2])
    moved.state_dict()["bijection.links.2.order"].fill_(9)
    moved.save_pretrained(here / "moved")
    with pytest.raises(ValueError, match="does not fit"):
        diffeo.load(here / "moved")
    whole = diffeo.RealNVP(2, layers=2, hidden=[2])
    whole.save_pretrained(here / "half")
    save_file(whole.half().state_dict(), here / "half" / "model.safetensors")
    with pytest.raises(ValueError, match="float16"):
        diffeo.load(here / "half")


def test_a_saved_reference_is_checked():
    whole = {"events": 3, "mean": 0.0, "quantiles": [0.0] * 101}
    assert Reference.from_json(whole).events == 3
    code = {"edges": [0.0, 1.0], "counts": [1]}
    for wrong in (
        {"quantiles": [0.0]}, {"quantiles": [float("nan")] * 101}, {"mean": "x"}, {"events": []},
        {"codes": [code | {"edges": [1.0, 0.0]}]}, {"codes": [code | {"counts": [1, 2]}]},
        {"codes": [code | {"counts": [-1]}]}, {"unlabelled": 5},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="damaged"):
            Reference.from_json(whole | wrong)


def test_directions_are_checked(tmp_path):
    path = tmp_path / "d.safetensors"
    vectors = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(2, 16)
    shape, counts = [(4, 2, 2)], ([3, 4], [4, 3])
    Directions(["a", "b"], vectors, *counts, "mean", "diffeo.Glow", shape).save(path)
    whole = path.read_bytes()
    assert Directions.load(path).names == ["a", "b"]
    (length,) = struct.unpack("<Q", whole[:8])
    for old, new in (
        ('[\\"a\\", \\"b\\"]', '[\\"a\\", 5]'), ('[\\"a\\", \\"b\\"]', '[\\"a\\"]'),
        ("[[4, 2, 2]]", "[[4, 2, 3]]"), ("[3, 4]", '[3, \\"x\\"]'), ('"notes"', '"other"'),
    ):  # fmt: skip
        header = whole[8 : 8 + length].decode()
        assert old in header
        changed = header.replace(old, new, 1).encode()
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + whole[8 + length :])
        with pytest.raises(ValueError, match="holds no directions"):
            Directions.load(path)


def test_settings_of_a_run_have_their_types(here):
    text = (here / "run" / "config.yaml").read_text()
    assert Run(here / "run").data().columns == ["x", "y"]
    for old, new in (("  seed: 0", "  seed: x"), ("rows: null", "rows: [1]"), ("0.8", "a")):
        assert old in text
        (here / "run" / "config.yaml").write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match="section 'data' cannot be read"):
            Run(here / "run").data()


# Tables and images ------------------------------------------------------------------------------


def test_a_table_has_columns_that_can_be_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_COLUMNS", 1_000)
    fields = [(f"c{i}", pa.float64()) for i in range(1_001)]
    pq.write_table(pa.schema(fields).empty_table(), tmp_path / "wide.parquet")
    pq.write_table(pa.schema(fields[:3]).empty_table(), tmp_path / "few.parquet")
    (tmp_path / "wide.csv").write_text(",".join(["a"] * 1_001) + "\n1\n")
    for name in ("wide.parquet", "wide.csv"):
        with pytest.raises(ValueError, match=f"^{tmp_path / name} has 1,001 columns"):
            load_table(TableOptions(str(tmp_path / name)))
    with pytest.raises(ValueError, match="no rows"):
        load_table(TableOptions(str(tmp_path / "few.parquet")))


def test_lines_and_chunks_of_text_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 1_000)
    path = tmp_path / "a.csv"
    for text in ("x,y\n1,2\n" + "3" * 2_000, "x" * 2_000):
        path.write_text(text)
        with pytest.raises(ValueError, match="line of more than"):
            list(stream(str(path), ["x", "y"]))
    path.write_text('x,y\n"1,2\n' + "3,4\n" * 10_000)
    monkeypatch.setattr(files, "LONGEST_CHUNK", 20_000)
    with pytest.raises(ValueError, match="a quote of which may never be closed"):
        list(stream(str(path), ["x", "y"]))
    # What a file holds altogether is not bounded.
    path.write_text("x,y\n" + "3,4\n" * 100_000)
    monkeypatch.setattr(files, "LONGEST_CHUNK", 300_000 + 2**19)
    assert sum(len(x) for x, _ in stream(str(path), ["x", "y"], batch_rows=10_000)) == 100_000


def test_what_unpacks_into_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "UNPACKED", 2**20)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((10**5, 2)))
    np.savez(tmp_path / "b.npz", x=np.random.default_rng(0).normal(size=(10**5, 2)))
    zeros = pa.table({"x": np.zeros(10**6), "y": np.arange(1e6)})
    pq.write_table(zeros, tmp_path / "a.parquet", compression="zstd", use_dictionary=["y"])
    pq.write_table(zeros, tmp_path / "b.parquet", compression="none", use_dictionary=False)
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(ValueError, match="unpacks"):
            load_table(TableOptions(str(tmp_path / name), columns=None if "z" in name else ["x"]))
    assert load_table(TableOptions(str(tmp_path / "b.npz"))).features == 2
    assert sum(len(x) for x, _ in stream(str(tmp_path / "b.parquet"), ["x", "y"])) == 10**6


def test_a_dictionary_is_held_once(tmp_path):
    column = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None] * 100, pa.int32()), pa.array([b"\0" * 10**6, b"x"], pa.binary())
    )
    table = pa.table({"image": column, "y": np.arange(300.0)})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    (batch, *_) = parquet_batches("a", tmp_path / "a.parquet", ["image", "y"], 256)
    assert pa.types.is_dictionary(batch.column(0).type)
    values = to_numpy(batch.column(0))
    assert values[0] is values[3] and values[1] == b"x" and values[2] is None
    numbers = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array([5, 7]))
    assert to_numpy(numbers)[[0, 2]].tolist() == [7, 5] and np.isnan(to_numpy(numbers)[1])


def test_images_are_of_a_size_that_can_be_held(tmp_path):
    large = attacks.png(12_000, 12_000)
    contents = {
        "wide.png": attacks.png(60_000, 1),
        # It claims 16 x 16 pixels.
        "icon.ico": struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(large), 22)
        + large,
        "unscaled.png": attacks.png(5_000, 5_000, whole=True),
    }
    for name, content in contents.items():
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"1 too large.*{name}"):
            load_gallery(ImageOptions(str(folder)))
    assert load_gallery(ImageOptions(str(tmp_path / "unscaled"), size=8)).names == ["unscaled.png"]


def test_a_cache_that_lies_is_made_anew(here):
    options = ImageOptions(str(here / "images"), cache=str(here / "own"))
    gallery = load_gallery(options)
    pixels = gallery.images.all()
    folder = next((here / "own").glob("*/"))
    meta = json.loads((folder / "meta.json").read_text())
    short = (folder / "pixels.bin").read_bytes()[:130]
    for change in (
        lambda: np.save(folder / "values.npy", np.zeros((24, 3))),
        lambda: (folder / "meta.json").write_text(json.dumps(meta | {"shape": [24, 1, 4, 5]})),
        lambda: (folder / "meta.json").write_text(json.dumps(meta | {"labels": [99] * 24})),
        lambda: (folder / "meta.json").write_text(json.dumps(meta | {"labels": [-2] * 24})),
        lambda: (folder / "meta.json").write_text(json.dumps(meta | {"splits": {"train": 9}})),
        lambda: (folder / "meta.json").write_text(json.dumps(meta | {"names": [1] * 24})),
        lambda: (folder / "pixels.bin").write_bytes(short),
    ):
        change()
        again = load_gallery(options)
        assert torch.equal(again.images.all(), pixels)
        assert again.names == gallery.names


# Words ------------------------------------------------------------------------------------------


def test_names_give_no_orders_to_the_terminal(here, capsys):
    assert printable("a\x1b[31m\n\udcff é") == r"a\x1b[31m\n\udcff é"
    odd = "\x1b[31mred\x1b[0m\n[bold]"
    (here / f"{odd}.csv").write_text("a,b\n1,2\n")
    refused(["score", "table", "--data", f"{odd}.csv"], capsys, r"\x1b[31mred\x1b[0m [bold].csv")
    console = PlainConsole(record=True, width=200)
    console.print("[bold]a[/bold] \x1b[31m :smile: [/]")
    assert console.export_text() == "[bold]a[/bold] \\x1b[31m :smile: [/]\n"


@pytest.mark.parametrize("name", ["csv", "parquet", "npy", "npz"])
def test_what_is_no_plain_file_is_not_opened(here, capsys, name):
    path = here / f"rows.{name}"
    for special in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path.unlink()
        special(path)
        refused(damage.TARGETS[name].words, capsys, "not a plain file")


@pytest.mark.parametrize("option", ["--conf", "--config", "--optimizer", "--model"])
def test_no_option_reads_settings_unseen(here, capsys, option):
    (here / "evil2.py").write_text("raise SystemError('imported')\n")
    section = "model: evil2.E" if "conf" in option else "class_path: evil2.E"
    (here / "c.yaml").write_text(section + "\n")
    refused(["train", option, "c.yaml", "--data", "rows.csv", "--out", "run"], capsys)
    assert "evil2" not in sys.modules


# Found by random changes ------------------------------------------------------------------------


@pytest.mark.parametrize("path", FAILING, ids=lambda path: path.name)
def test_what_once_failed_is_read_or_refused(path, here):
    damage.read(path.name.rpartition("-")[0], path.read_bytes(), here)


@pytest.mark.parametrize("section", ["model", "data", "optimizer", "trainer"])
def test_settings_name_no_class_by_one_word_either(tmp_path, capsys, section):
    Path("mine.py").write_text("open('ran', 'w').close()\n\n\nclass Mine:\n    pass\n")
    Path("a.yaml").write_text(f"{section}: mine.Mine\n")
    refused(["train", "--config=a.yaml"], capsys, "a.yaml names the class mine.Mine", "--trust")
    assert not Path("ran").exists()

"""Scoring and sampling by parts: the same numbers wherever they are computed, nothing lost."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import refused

import diffeo
from diffeo.cli import main
from diffeo.context import ContextSpec
from diffeo.data import ImageOptions, load_gallery
from diffeo.evaluation.scores import Reference
from diffeo.run import Run
from diffeo.scale import Cluster, sample_parts, scoring
from diffeo.scale.folder import MOST_DEATHS, PARTIAL, place
from diffeo.scale.job import Done, Part, Work, attempt, finish
from diffeo.scale.sampling import part_seed, split_rows, write_samples
from diffeo.scale.scoring import find_parts

NAMES = ["a", "b", "c"]
ROWS = [300, 70_000, 1, 0]  # more than one batch; one row; none


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of a table and one of images with labels, as folders, and rows in a few files."""
    folder = tmp_path_factory.mktemp("scale")
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    flow = diffeo.RealNVP(3, layers=2)
    flow.initialize(torch.randn(500, 3) * 2 + 1)
    flow.metadata["columns"] = NAMES
    Reference.measure(flow, [(torch.randn(100, 3), None)]).attach(flow)
    flow.save_pretrained(folder / "model")
    glow = diffeo.Glow(
        (1, 4, 4), levels=1, steps=1, hidden_channels=4, context=ContextSpec.classes(2)
    )
    x = torch.randint(256, (50, 1, 4, 4), dtype=torch.uint8)
    glow.initialize(x, torch.randint(2, (50,)))
    glow.save_pretrained(folder / "glow")
    (folder / "rows").mkdir()
    for i, rows in enumerate(ROWS):
        table = pd.DataFrame(random.normal(size=(rows, 4)), columns=["c", "id", "a", "b"])
        table.to_parquet(folder / f"rows/part-{i}.parquet", index=False)
    return folder


def digests(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.parquet")}


def score(*options):
    return main(["score", "model", "--data=rows", "--out=out", *options])


# Scores -------------------------------------------------------------------------------------------


def test_scores_of_a_folder_are_those_of_each_file_in_its_order(run, capsys):
    assert score() == 0
    assert "70,301 rows in 4 parts written to out." in capsys.readouterr().out
    assert not (run / "out" / PARTIAL).exists()
    flow = diffeo.Flow.from_pretrained("model")
    for i, rows in enumerate(ROWS):
        found = pd.read_parquet(f"out/part-{i}.parquet")
        assert list(found.columns) == ["log_prob"]
        assert len(found) == rows
        x = torch.tensor(pd.read_parquet(f"rows/part-{i}.parquet")[NAMES].to_numpy()).float()
        with torch.no_grad():
            expected = flow.log_prob(x).numpy()
        assert found["log_prob"].to_numpy() == pytest.approx(expected, abs=1e-4)


def test_a_part_has_the_digits_of_its_file_scored_alone(run):
    assert score() == 0
    torch.set_num_threads(1)
    for i in (0, 1):
        assert main(["score", "model", f"--data=rows/part-{i}.parquet", "--out=one.parquet"]) == 0
        assert (run / "one.parquet").read_bytes() == (run / f"out/part-{i}.parquet").read_bytes()


@pytest.mark.parametrize("kind", ["typicality", "complexity"])
def test_scores_of_another_kind(run, kind):
    """Seen against what the model keeps, or against other data."""
    for options in ([], ["--reference=rows/part-0.parquet"]):
        out = f"--out=out{len(options)}"
        assert main(["score", "model", "--data=rows", out, f"--kind={kind}", *options]) == 0
        alone = ["score", "model", "--data=rows/part-0.parquet", "--out=one.parquet"]
        assert main([*alone, f"--kind={kind}", *options]) == 0
        found = pd.read_parquet(f"out{len(options)}/part-0.parquet")
        pd.testing.assert_frame_equal(found, pd.read_parquet("one.parquet"))
    assert digests("out0") != digests("out1")


def test_which_files_are_parts(run):
    for name in ("2/b.parquet", "2/a.parquet", "10/a.parquet", "_meta/a.parquet", ".h.parquet"):
        (run / "deep" / name).parent.mkdir(parents=True, exist_ok=True)
        (run / "deep" / name).write_bytes((run / "rows/part-0.parquet").read_bytes())
    (run / "deep/notes.csv").write_text("a,b,c\n1,2,3\n")
    assert main(["score", "model", "--data=deep", "--out=out"]) == 0
    made = sorted(p.relative_to("out").as_posix() for p in Path("out").rglob("*.parquet"))
    assert made == ["10/a.parquet", "2/a.parquet", "2/b.parquet"]


def test_a_folder_of_csv_files_and_one_file(run):
    (run / "lists").mkdir()
    table = pd.read_parquet("rows/part-0.parquet")
    table.to_csv("lists/x.csv", index=False, sep=";")
    assert main(["score", "model", "--data=lists", "--out=out"]) == 0
    assert main(["score", "model", "--data=lists/x.csv", "--out=one"]) == 0
    assert digests("out").keys() == {"x.parquet"}
    assert digests("out") == digests("one")


# What is finished, and whose ----------------------------------------------------------------------


def test_what_is_finished_is_not_done_again(run, capsys):
    assert score() == 0
    first = digests("out")
    (run / "out/part-0.parquet").unlink()
    (run / "out/part-1.parquet").write_bytes(first["part-1.parquet"][:-1])
    (run / "out" / PARTIAL / "left").mkdir(parents=True)
    time_of_change = (run / "out/part-2.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert score() == 0
    assert "70,300 rows in 2 parts written to out; 2 finished before." in capsys.readouterr().out
    assert digests("out") == first
    assert (run / "out/part-2.parquet").stat().st_mtime_ns == time_of_change
    assert not (run / "out" / PARTIAL).exists()


def test_a_folder_is_of_one_model_and_of_one_source(run, capsys):
    assert score() == 0
    command = ["score", "model", "--data=rows", "--out=out"]
    refused([*command, "--kind=typicality"], capsys, "another kind", "--out")
    refused([*command, "--precision=bf16"], capsys, "another precision")
    with (run / "model/config.json").open("a") as file:
        file.write("\n")
    refused(command, capsys, "out", "another model")
    refused(["sample", "model", "-n=5", "--out=out"], capsys, "another")


def test_a_folder_of_other_things_is_left_alone(run, capsys):
    (run / "mine").mkdir()
    (run / "mine/thesis.txt").write_text("all")
    refused(["score", "model", "--data=rows", "--out=mine"], capsys, "mine", "new or an empty")
    (run / "mine/parts.json").write_text("{")
    refused(["score", "model", "--data=rows", "--out=mine"], capsys, "parts.json is damaged")
    assert sorted(p.name for p in (run / "mine").iterdir()) == ["parts.json", "thesis.txt"]


def test_a_damaged_part_keeps_no_other_from_being_done(run, capsys):
    whole = (run / "rows/part-1.parquet").read_bytes()
    (run / "rows/part-1.parquet").write_bytes(whole[:-50])
    error = refused(["score", "model", "--data=rows", "--out=out"], capsys, "rows/part-1.parquet")
    assert "the other 3 parts" in error
    assert digests("out").keys() == {"part-0.parquet", "part-2.parquet", "part-3.parquet"}
    # Mended, it is done, and so is one that was replaced meanwhile; the others stay.
    (run / "rows/part-1.parquet").write_bytes(whole)
    (run / "rows/part-0.parquet").write_bytes((run / "rows/part-2.parquet").read_bytes())
    assert score() == 0
    assert "70,001 rows in 2 parts written to out; 2 finished before" in capsys.readouterr().out
    assert digests("out")["part-1.parquet"] != digests("out")["part-0.parquet"]
    assert len(pd.read_parquet("out/part-0.parquet")) == 1


def test_other_files_are_other_data(run, capsys):
    assert score() == 0
    for path in (run / "rows").iterdir():
        os.utime(path)
    refused(["score", "model", "--data=rows", "--out=out"], capsys, "another data")
    (run / "rows/part-3.parquet").unlink()
    refused(["score", "model", "--data=rows", "--out=out"], capsys, "another data")
    assert len(digests("out")) == 4


def test_a_full_disk_ends_it_at_once(run, capsys, monkeypatch):
    tried = []

    def full(path, columns, batches):
        tried.append(path)
        if len(tried) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, columns, batches)

    write = scoring.write_table
    monkeypatch.setattr(scoring, "write_table", full)
    error = refused(["score", "model", "--data=rows", "--out=out"], capsys, "No space left")
    assert "part-1.parquet" in error
    assert len(tried) == 2
    assert digests("out").keys() == {"part-0.parquet"}
    assert score() == 0
    assert len(tried) == 5


def test_stopped_by_the_keyboard(run, capsys, monkeypatch):
    monkeypatch.setattr(scoring, "write_table", lambda *_: signal.raise_signal(signal.SIGINT))
    assert score() == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_part_at_which_processes_die_is_given_up(tmp_path):
    for _ in range(MOST_DEATHS):
        with place(tmp_path, "others/a.parquet") as file:
            file.write_text("")
        file.parent.mkdir()  # as one that was killed leaves it
    with place(tmp_path, "b.parquet") as file:
        file.write_text("well")
    with pytest.raises(ValueError, match="4 processes were killed"):
        place(tmp_path, "others/a.parquet").__enter__()


def test_a_part_is_written_atomically(tmp_path):
    (tmp_path / "a.parquet").write_text("old")

    def fail(file):
        file.write_text("ne")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), place(tmp_path, "a.parquet") as file:
        fail(file)
    assert (tmp_path / "a.parquet").read_text() == "old"
    with place(tmp_path, "a.parquet") as one, place(tmp_path, "a.parquet") as other:
        one.write_text("of one")
        other.write_text("of another")
    assert (tmp_path / "a.parquet").read_text() == "of one"  # it ended last


def test_a_part_has_one_thread(tmp_path):
    torch.set_num_threads(2)
    seen = attempt(lambda part: Done(torch.get_num_threads()), Part(0, "x"))
    assert seen == Done(1)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


# Samples ------------------------------------------------------------------------------------------


def test_samples_are_drawn_part_by_part(run, capsys):
    arguments = ["sample", "model", "-n=2500", "--part-rows=1000", "--seed=7", "--out=out"]
    assert main(arguments) == 0
    assert "2,500 rows in 3 parts written to out." in capsys.readouterr().out
    opened = Run("model")
    parts = [pd.read_parquet(f"out/part-0000{i}.parquet") for i in range(3)]
    assert [len(part) for part in parts] == [1000, 1000, 500]
    for i, part in enumerate(parts):
        assert list(part.columns) == NAMES
        assert (part.to_numpy() == opened.sample(len(part), seed=part_seed(7, i)).numpy()).all()
    every = pd.concat(parts)
    assert not every.duplicated().any()
    # They are of the model: a sum over 2,500 of known mean, within 5 standard errors.
    x = opened.sample(20_000, seed=1).numpy()
    assert (abs(every.mean() - x.mean(0)) < 5 * x.std(0) / 50).all()


def test_samples_continue_with_the_random_seed(run, capsys):
    arguments = ["sample", "model", "-n=30", "--part-rows=10", "--out=out"]
    assert main(arguments) == 0
    first = digests("out")
    (run / "out/part-00001.parquet").unlink()
    assert main(arguments) == 0
    assert digests("out") == first
    # A part of too few rows is not one that is finished.
    (run / "out/part-00001.parquet").write_bytes(first["part-00001.parquet"])
    pd.read_parquet("out/part-00002.parquet").head(9).to_parquet("out/part-00002.parquet")
    assert main(arguments) == 0
    assert digests("out") == first
    assert main([*arguments[:-1], "--out=other"]) == 0
    assert digests("other") != first
    for option in ("-n=31", "--seed=1", "--temperature=0.5", "--part-rows=11"):
        refused([*arguments, option], capsys, "out holds parts of another")


def test_no_two_parts_have_the_same_noise():
    """PyTorch takes the lower 32 bits of a seed; what is drawn at random meets among 100,000."""
    generator = torch.Generator()
    here = torch.randn(4, generator=generator.manual_seed(3))
    assert (torch.randn(4, generator=generator.manual_seed(3 + 2**32)) == here).all()
    seeds = {part_seed(0, number) for number in range(200_000)}
    assert len(seeds) == 200_000
    assert max(seeds) < 2**32
    assert not {seed + 1 for seed in seeds} & seeds  # where contexts are drawn
    assert part_seed(0, 0) != part_seed(1, 0)


def test_draws_have_as_many_rows_as_asked_for():
    for n, rows in ((1, 1), (10, 3), (9, 3), (2, 5)):
        parts = split_rows(n, rows, "x")
        assert sum(part.rows for part in parts) == n
        assert [part.number for part in parts] == list(range(len(parts)))
    names = [part.name for part in split_rows(100_001, 1, "x")]
    assert names == sorted(names)


def test_each_sample_has_its_own_context(tmp_path, monkeypatch):
    torch.manual_seed(0)
    flow = diffeo.RealNVP(2, layers=2, context=2)
    flow.initialize(torch.randn(100, 2), torch.randn(100, 2))
    monkeypatch.setattr(diffeo.Flow, "chunk", 3)
    flow.save_pretrained(tmp_path / "conditional")
    opened = Run(tmp_path / "conditional")
    context, file = torch.arange(10.0).view(5, 2), tmp_path / "s.npy"
    for given, expected in ((context, context), (context[1:2], context[1:2].expand(5, 2))):
        write_samples(opened, 5, file, given, 1.0, 0)
        rows = np.load(file)
        assert (rows[:, 2:] == expected.numpy()).all()
        assert (rows[:, :2] == opened.sample(5, context=given, seed=0).numpy()).all()


def test_images_with_labels_and_back(run, capsys):
    """Drawn into a folder that is a source of images, with their labels, and scored."""
    arguments = ["sample", "glow", "-n=25", "--part-rows=10", "--seed=1", "--out=drawn"]
    assert main(arguments) == 0
    opened, seen = Run("glow"), set()
    gallery = load_gallery(ImageOptions("drawn"))
    labels = gallery.images.attributes
    assert gallery.attribute_names == ["label=0", "label=1"]
    for i, count in enumerate((10, 10, 5)):
        seed, rows = part_seed(1, i), slice(10 * i, 10 * i + count)
        assert (labels[rows].sum(1) == 1).all()
        seen |= {tuple(labels[rows, 0].tolist())}
        x = opened.sample(count, context=labels[rows], seed=seed)
        assert (gallery.images.all()[rows] == x).all()
    assert len(seen) == 3
    assert main(["score", "glow", "--data=drawn", "--out=out", "--kind=complexity"]) == 0
    assert main(["score", "glow", "--data=drawn/train-00000.parquet", "--out=one.csv"]) == 0
    found = pd.read_parquet("out/train-00000.parquet")
    assert list(found.columns) == ["image", "log_prob", "bits_per_dim", "complexity"]
    alone = pd.read_csv("one.csv")
    assert list(found["image"]) == list(alone["image"])
    assert found["log_prob"].to_numpy() == pytest.approx(alone["log_prob"].to_numpy(), rel=1e-5)
    # No two parts are scored with the same noise of dequantization.
    one = (run / "drawn/train-00000.parquet").read_bytes()
    (run / "twice").mkdir()
    for name in ("a", "b"):
        (run / f"twice/{name}.parquet").write_bytes(one)
    assert main(["score", "glow", "--data=twice", "--out=noisy"]) == 0
    a, b = (pd.read_parquet(f"noisy/{name}.parquet")["log_prob"] for name in "ab")
    assert (a == found["log_prob"]).all()
    assert (a != b).any()


def test_images_without_labels_say_so_once(run, capsys):
    assert main(["sample", "glow", "-n=6", "--part-rows=3", "--out=drawn"]) == 0
    for i in range(2):
        table = pd.read_parquet(f"drawn/train-0000{i}.parquet")[["image"]]
        table.to_parquet(f"drawn/train-0000{i}.parquet")
    assert main(["score", "glow", "--data=drawn", "--out=out"]) == 0
    out = capsys.readouterr().out
    assert out.count("drawn has no label: scored under all 2") == 1


def test_a_label_for_all(run):
    arguments = ["sample", "glow", "-n=6", "--part-rows=3", "--out=out", "--label=1"]
    assert main(arguments) == 0
    for i in range(2):
        assert (pd.read_parquet(f"out/train-0000{i}.parquet")["label=1"] == 1).all()


# Sentences ----------------------------------------------------------------------------------------


def test_what_is_refused(run, capsys):
    (run / "empty").mkdir()
    command = ["score", "model"]
    refused([*command, "--data=empty", "--out=out"], capsys, "empty holds no .parquet")
    refused([*command, "--data=nothing", "--out=out"], capsys, "no file or folder nothing")
    refused([*command, "--data=model/config.json", "--out=out"], capsys, ".parquet or .csv")
    refused([*command, "--data=rows"], capsys, "rows is a folder", "--out")
    refused([*command, "--data=rows", "--out=x.csv", "--ray"], capsys, "x.csv is a file")
    refused(["sample", "model", "--out=out"], capsys, "--num")
    refused(["sample", "model", "-n=5", "--out=out", "--part-rows=-1"], capsys, "--part-rows is -1")
    refused(["sample", "glow", "-n=5", "--out=out", "--ray", "--temperatures=1"], capsys, "figure")
    assert not (run / "out").exists()


def test_without_ray(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(["score", "model", "--data=rows", "--out=out", "--ray"], capsys, "diffeo[ray]")
    assert score() == 0  # which needs it no less


def test_an_address_where_nobody_answers(run, capsys):
    pytest.importorskip("ray", reason="needs the extra ray: pip install diffeo[ray]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    for address in (f"127.0.0.1:{port}", "nonsense"):
        arguments = ["score", "model", "--data=rows", "--out=out", f"--ray-address={address}"]
        refused(arguments, capsys, address, "--ray-address HOST:PORT")
    assert time.monotonic() - start < 20


def test_ray_is_imported_where_it_is_used():
    code = "import sys, diffeo.scale; print('ray' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# Ray ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deadly:
    """The work of another, and a process that is killed at one part, the first time."""

    work: Work
    out: Path
    number: int

    def __call__(self, part: Part) -> Done:
        killed = self.out.parent / "killed"
        import ray

        if part.number == self.number and not killed.exists():
            with place(self.out, part.name) as file:
                file.write_bytes(b"half a part")
                killed.write_text(ray.util.get_node_ip_address())
                os.kill(os.getpid(), signal.SIGKILL)
        return self.work(part)


@pytest.mark.slow
def test_ray_loses_a_worker_and_no_digit(run):
    """One worker is killed amid a part: the parts are those of one process, each once."""
    pytest.importorskip("ray", reason="needs the extra ray: pip install diffeo[ray]")
    from ray import cloudpickle

    assert score() == 0
    out = run / "ray"
    work = partial(scoring._score_part, Run("model"), "rows", out, "log_prob", None)
    parts = find_parts("rows")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers know no tests
    try:
        outcome = finish(Deadly(work, out, 1), parts, out, Cluster(workers=2))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert (outcome.parts, outcome.before, outcome.rows) == (4, 0, sum(ROWS))
    assert outcome.deaths == 1
    assert (run / "killed").read_text() == "127.0.0.1"  # where nobody else hears it
    assert digests(out) == digests("out")
    assert not (out / PARTIAL).exists()


@pytest.mark.slow
def test_ray_draws_what_one_process_draws(run):
    pytest.importorskip("ray", reason="needs the extra ray: pip install diffeo[ray]")
    opened = Run("model")
    for out, cluster in (("one", None), ("two", Cluster(workers=2))):
        sample_parts(opened, 50_000, out, seed=3, rows=9_000, cluster=cluster)
    assert digests("one") == digests("two")

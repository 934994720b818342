"""A run keeps what it has reached: kills, full disks, damage, Ctrl-C, and other runs beside it."""

import contextlib
import errno
import functools
import io
import os
import pickle
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from rich.console import Console

from diffeo import RealNVP
from diffeo.cli import Interrupts, main
from diffeo.data import DataOptions, Split
from diffeo.run import train
from diffeo.run.learning import prepare
from diffeo.training import observers
from diffeo.training.checkpoints import (
    BEFORE,
    BEST,
    LAST,
    Checkpoints,
    epochs_in,
    load,
    newest,
    save,
)
from diffeo.training.loop import Training
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.files import atomic_write

QUIET = Console(quiet=True)
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a disk without room")
ARGUMENTS = ["train", "--data=rows.csv", "--model.layers=2", "--model.hidden=[8]"]
ARGUMENTS += ["--trainer.batch_size=32", "--trainer.device=cpu", "--trainer.max_epochs=4"]


@pytest.fixture
def rows(tmp_path):
    noise = np.random.default_rng(0)
    x = noise.standard_normal((200, 3)) @ noise.standard_normal((3, 3))
    np.savetxt(tmp_path / "rows.csv", x, delimiter=",", header="a,b,c", comments="")
    return torch.tensor(x, dtype=torch.float32)


# Divergence ---------------------------------------------------------------------------------------


class Losses:
    """As much of a training as `Divergence` sees."""

    metric, unit = "bpd", "bits/dim"

    def __init__(self, losses):
        self.history = [{"train_bpd": loss} for loss in losses]


@pytest.mark.parametrize(
    ("losses", "diverges"),
    [
        ([1.02, 0.93, 0.90, 4.01], True),  # as a PixelFlow of MNIST did
        ([1.02, 0.93, 0.90, 1.10], False),  # some of what it had learned is lost
        ([1.02, 1.01, 1.08], False),  # by chance
        ([3.0, 2.0, 1.0, 0.9], False),
        ([2.0, 9.0], True),
    ],
)
def test_a_training_that_diverges_says_so_once(losses, diverges):
    file = io.StringIO()
    observer = observers.Divergence(Console(file=file, width=400))
    for count in range(1, len(losses) + 1):
        observer.on_epoch_end(Losses(losses[:count]))
    observer.on_epoch_end(Losses([*losses, losses[-1] + 1]) if diverges else Losses(losses))
    printed = file.getvalue()
    assert printed.count("Training diverges") == diverges
    if diverges:
        assert f"is {losses[-1]:.4f} after epoch {len(losses)}" in printed
        assert f"was {min(losses):.4f} bits/dim" in printed


def test_a_learning_rate_that_is_too_large_is_announced(tmp_path, rows, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--model=RealNVP", *ARGUMENTS[1:-1], "--trainer.max_epochs=30"]
    words += ["--optimizer.lr=3", "--optimizer.clip=1e6", "--optimizer.warmup=0.9"]
    assert main([*words, "--out", "run"]) == 0
    assert "Training diverges" in capsys.readouterr().out


# Checkpoints --------------------------------------------------------------------------------------


def state(epoch):
    """As much of a checkpoint as matters here."""
    weights = torch.randn(500, generator=torch.Generator().manual_seed(epoch))
    return {"epochs": epoch + 1, "flow": {"weight": weights}}


@pytest.fixture
def two(tmp_path):
    """The checkpoints of epochs 4 and 5."""
    checkpoints = Checkpoints(tmp_path, tmp_path / "model")
    for epoch in (2, 3, 4):
        checkpoints.save_last(state(epoch))
    return tmp_path


def test_the_checkpoint_before_the_last_stays(two):
    assert (epochs_in(two / LAST), epochs_in(two / BEFORE)) == (5, 4)
    assert newest(two, QUIET) == two / LAST
    assert torch.equal(load(two / BEFORE)["flow"]["weight"], state(3)["flow"]["weight"])
    assert sorted(path.name for path in two.iterdir()) == [BEFORE, LAST]


def flip(path):
    data = bytearray(path.read_bytes())
    data[data.index(state(4)["flow"]["weight"][:9].numpy().tobytes()) + 20] ^= 16
    path.write_bytes(data)


def shortened(path):
    path.write_bytes(path.read_bytes()[:-200])


def empty(path):
    path.write_bytes(b"")


def pickled(path):
    """What is loaded would write a file, were anything called."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, ("called",)

    torch.save({"epochs": 5, "evil": Evil()}, path)
    assert pickle.dumps(Evil())


@pytest.mark.parametrize("harm", [flip, shortened, empty, pickled, Path.unlink])
def test_damage_is_noticed_and_the_checkpoint_before_is_taken(two, capsys, harm):
    harm(two / LAST)
    if harm is flip:
        assert not torch.equal(
            torch.load(two / LAST)["flow"]["weight"], state(4)["flow"]["weight"]
        ), "torch itself does not notice"
    assert newest(two, Console(width=60)) == two / BEFORE
    trouble = "missing" if harm is Path.unlink else "damaged"
    line = f"{two / LAST} is {trouble}: going on from the one before, of epoch 4."
    assert capsys.readouterr().out == line + "\n"
    assert not Path("called").exists()


def test_where_both_are_damaged_nothing_is_begun_anew(two):
    empty(two / LAST)
    shortened(two / BEFORE)
    with pytest.raises(ValueError, match=r"last.ckpt is damaged, and the one before it is too: "):
        newest(two, QUIET)
    (two / BEFORE).unlink()
    with pytest.raises(ValueError, match=r"there is none before it: restore it from a copy, or "):
        newest(two, QUIET)
    (two / LAST).unlink()
    assert newest(two, QUIET) is None


def test_any_flipped_bit_is_noticed_or_means_nothing(two):
    chance, good = random.Random(0), (two / LAST).read_bytes()
    noticed = 0
    for _ in range(300):
        data = bytearray(good)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (two / LAST).write_bytes(data)
        if newest(two, QUIET) == two / BEFORE:
            noticed += 1
        else:
            read = load(two / LAST)
            assert read["epochs"] == 5
            assert torch.equal(read["flow"]["weight"], state(4)["flow"]["weight"])
    assert noticed > 150


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_good_one(two):
    flip(two / LAST)
    checkpoints = Checkpoints(two, two / "model", newest(two, QUIET))
    checkpoints.save_last(state(4))
    assert (epochs_in(two / LAST), epochs_in(two / BEFORE)) == (5, 4)
    checkpoints.save_last(state(5))
    assert (epochs_in(two / LAST), epochs_in(two / BEFORE)) == (6, 5)


def test_a_checkpoint_that_was_loaded_becomes_the_one_before(two):
    Checkpoints(two, two / "model", newest(two, QUIET)).save_last(state(5))
    assert (epochs_in(two / LAST), epochs_in(two / BEFORE)) == (6, 5)


@pytest.mark.parametrize("nth", [0, 1])
def test_a_kill_at_a_rename_leaves_a_good_checkpoint(two, monkeypatch, nth):
    checkpoints, rename = Checkpoints(two, two / "model", newest(two, QUIET)), Path.replace
    calls = iter(range(2))

    def killed(path, target):
        if next(calls) == nth:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_last(state(5))
    assert epochs_in(newest(two, QUIET)) == 5


# A disk that is full ------------------------------------------------------------------------------


@needs_full
@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"some"),
        lambda path: Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path, format="PNG"),
        lambda path: Image.fromarray(np.zeros((9, 9), np.uint8)).save(path, format="GIF"),
    ],
)
def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path, write):
    (tmp_path / "a.x").write_text("what was there")
    (tmp_path / ".a.partial.x").symlink_to(FULL)
    with (
        pytest.raises(OSError, match="No space left") as message,
        atomic_write(tmp_path / "a.x") as partial,
    ):
        write(partial)
    assert (message.value.errno, message.value.filename) == (errno.ENOSPC, str(tmp_path / "a.x"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.x"]
    assert (tmp_path / "a.x").read_text() == "what was there"


@needs_full
def test_a_full_disk_keeps_the_checkpoints_that_there_are(two):
    (two / ".last.partial.ckpt").symlink_to(FULL)
    checkpoints = Checkpoints(two, two / "model", two / LAST)
    with pytest.raises(OSError, match="No space left") as message:
        # More than is held back until the file is closed.
        checkpoints.save_last(state(5) | {"more": torch.zeros(100_000)})
    assert message.value.filename == str(two / LAST)
    assert (epochs_in(two / LAST), epochs_in(two / BEFORE)) == (5, 4)


def test_safetensors_tells_a_full_disk_as_the_system_does(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(tensors, path):
        raise SafetensorError("Error while serializing: I/O error: No space (os error 28)")

    flow = RealNVP(2, layers=2, hidden=(8,))
    flow.save_pretrained(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    flow.metadata = {"data": "another"}
    monkeypatch.setattr("diffeo.pretrained.storage.save_file", full)
    with pytest.raises(OSError, match="No space left") as message:
        flow.save_pretrained(tmp_path / "model")
    assert message.value.filename == str(tmp_path / "model" / "model.safetensors")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_in_torch(*args, **options):
    """As torch's writer tells it."""
    try:
        full()
    except OSError:
        raise RuntimeError("unexpected pos 242304 vs 242256")  # noqa: B904


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("csv.DictWriter.writerows", "run/metrics.csv"),
        ("tensorboard.summary.writer.record_writer.RecordWriter.write", "run/tensorboard"),
        ("matplotlib.figure.Figure.savefig", "run/figures/corner.png"),
        ("safetensors.torch.serialize_file", "run/model/model.safetensors"),
        ("torch.save", "run/checkpoints/best.ckpt"),
    ],
)
def test_a_run_on_a_full_disk_ends_with_one_sentence(rows, capsys, monkeypatch, place, named):
    monkeypatch.setattr(place, full_in_torch if place == "torch.save" else full)
    assert main([*ARGUMENTS, "--trainer.max_epochs=1", "--out=run"]) == 2
    assert capsys.readouterr().err == (
        f"diffeo: {named} cannot be written (No space left on device): make room, then diffeo "
        "train --resume run goes on.\n"
    )
    assert not [*Path("run").rglob("*.partial*")]


# A stop -------------------------------------------------------------------------------------------


def stopping_at(monkeypatch, epoch, act):
    """Let something happen when an epoch (from 0) begins."""
    begin = Training._run_epoch

    def begins(self, batches):
        if self.epoch == epoch:
            act()
        begin(self, batches)

    monkeypatch.setattr(Training, "_run_epoch", begins)


def metrics(folder):
    return (Path(folder) / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("signals", "epoch", "status", "message"),
    [
        ([signal.SIGINT], 2, 130, "stopped: epochs 1 to 2 are saved, and "),
        ([signal.SIGINT, signal.SIGINT], 1, 130, "stopped: epoch 1 is saved, and "),
        ([signal.SIGTERM], 0, 143, "stopped before the first epoch was over: "),
    ],
)
def test_a_stop_says_what_is_saved_and_how_to_go_on(
    rows, capsys, monkeypatch, signals, epoch, status, message
):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def stop():
        # The second comes while the first is answered.
        with contextlib.ExitStack() as after:
            for number in signals[1:]:
                after.callback(os.kill, os.getpid(), number)
            os.kill(os.getpid(), signals[0])
            time.sleep(5)

    assert main([*ARGUMENTS, "--out=whole"]) == 0
    with monkeypatch.context() as patched:
        stopping_at(patched, epoch, stop)
        assert main([*ARGUMENTS, "--out=my run"]) == status
    does = "goes on from there" if epoch else "starts anew"
    assert capsys.readouterr().err == f"diffeo: {message}diffeo train --resume 'my run' {does}.\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    Path("my run").rename("moved")
    assert main(["train", "--resume=moved"]) == 0
    assert metrics("moved") == metrics("whole")
    assert epochs_in(Path("moved/checkpoints", BEST)) == epochs_in(Path("whole/checkpoints", BEST))


def test_a_stop_before_there_is_a_run_is_short(rows, capsys, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffeo.run.learning.load_data", stopped)
    assert main([*ARGUMENTS, "--out=run"]) == 130
    assert capsys.readouterr().err == "diffeo: stopped.\n"
    assert not Path("run").exists()


def test_two_signals_are_one_stop_unless_they_are_far_apart(monkeypatch):
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr("diffeo.cli.ONE_STOP", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# A run that goes on -------------------------------------------------------------------------------


def fitted(folder, x, epochs, *, resume=False, patience=None, lr=None):
    torch.manual_seed(0)
    training = prepare(
        RealNVP(3, layers=2, hidden=(8,)),
        Split(x[:160]),
        Split(x[160:180]),
        folder,
        seed=0,
        optimizer=OptimizerOptions(lr=lr),
        options=TrainerOptions(max_epochs=epochs, batch_size=32, patience=patience, device="cpu"),
        resume=resume,
        console=QUIET,
    ).run()
    return training.seconds, len(metrics(folder).splitlines()) - 1


def test_each_epoch_has_its_checkpoint_and_a_run_that_ended_trains_no_further(tmp_path, rows):
    stored = tmp_path / "checkpoints"
    _, epochs = fitted(tmp_path, rows, 20, patience=2, lr=0.3)
    assert 2 < epochs < 20
    # The last two were no better than the best: a checkpoint of each is there all the same.
    assert epochs_in(stored / LAST) == epochs
    assert epochs_in(stored / BEFORE) == epochs - 1
    assert epochs_in(stored / BEST) == epochs - 2
    before = {path: path.read_bytes() for path in tmp_path.rglob("m*") if path.is_file()}
    assert fitted(tmp_path, rows, 20, patience=2, lr=0.3, resume=True)[1] == epochs
    assert all(path.read_bytes() == data for path, data in before.items())
    more = fitted(tmp_path, rows, 20, patience=4, lr=0.3, resume=True)[1]
    assert more > epochs, "a run may be told to be more patient"


def test_metrics_are_those_of_the_checkpoint_and_seconds_add_up(tmp_path, rows):
    fitted(tmp_path, rows, 3)
    text = metrics(tmp_path)
    before = load(tmp_path / "checkpoints" / LAST)["seconds"]
    (tmp_path / "metrics.csv").write_text("nonsense")
    again, _ = fitted(tmp_path, rows, 3, resume=True)
    assert metrics(tmp_path) == text
    assert again > before > 0


@pytest.mark.parametrize("harm", [shortened, empty, Path.unlink])
def test_a_damaged_model_is_taken_from_the_checkpoint_of_its_epoch(tmp_path, rows, harm):
    _, epochs = fitted(tmp_path, rows, 20, patience=2, lr=0.3)
    assert epochs_in(tmp_path / "checkpoints" / BEST) < epochs
    files = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    for damaged in files:
        harm(damaged)
        fitted(tmp_path, rows, 20, patience=2, lr=0.3, resume=True)
        assert {path: path.read_bytes() for path in files} == files
    # One of another epoch is not passed off as the best.
    harm(damaged)
    for path in (tmp_path / "checkpoints").iterdir():
        values = torch.load(path)
        values["best_epoch"] += 1 if path.name == LAST else 0
        torch.save(values, path)
    fitted(tmp_path, rows, 20, patience=2, lr=0.3, resume=True)
    assert not damaged.exists() or damaged.read_bytes() != files[damaged]


def test_a_curve_of_damaged_metrics_is_a_sentence(rows, capsys):
    assert main([*ARGUMENTS, "--out=run"]) == 0
    Path("run/metrics.csv").write_text("epoch,step\n1")
    capsys.readouterr()
    assert main(["plot", "run", "--kind=curve", "--out=curve.png"]) == 2
    assert capsys.readouterr().err == (
        "diffeo: run/metrics.csv is damaged: diffeo train --resume run writes it again.\n"
    )


def test_nothing_but_tensors_and_plain_values_is_in_a_checkpoint(tmp_path, rows):
    fitted(tmp_path, rows, 1)
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        for name in (LAST, BEST):
            path = tmp_path / "checkpoints" / name
            assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
            torch.load(path, weights_only=True)
    finally:
        torch.serialization.add_safe_globals(allowed)


def test_a_damaged_checkpoint_costs_an_epoch_and_no_digit(rows, capsys, monkeypatch):
    assert main([*ARGUMENTS, "--out=whole"]) == 0
    with monkeypatch.context() as patched:
        stopping_at(patched, 3, functools.partial(os.kill, os.getpid(), signal.SIGINT))
        assert main([*ARGUMENTS, "--out=run"]) == 130
    path = Path("run/checkpoints", LAST)
    data = bytearray(path.read_bytes())
    weight = load(path)["flow"]["bijection.links.1.conditioner.layers.0.weight"]
    data[data.index(weight.numpy().tobytes()) + 2] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    assert main(["train", "--resume=run"]) == 0
    assert f"{path} is damaged: going on from the one before, of epoch 2.\n" in (
        capsys.readouterr().out
    )
    assert metrics("run") == metrics("whole")
    assert (epochs_in(path), epochs_in(path.with_name(BEFORE))) == (4, 3)


def test_a_run_cannot_go_back(tmp_path):
    x = torch.randn(200, 3)
    fitted(tmp_path, x, 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="trained for 2 epochs"):
        fitted(tmp_path, x, 1, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    fitted(tmp_path, x, 2, resume=True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--trainer.max_epochs=1"], "it has trained for 4 epochs: give"),
        (["--model.layers=3"], "it has the weights of another model: leave --model.layers as it"),
        (
            ["--model.univariate.bound=5"],  # whose weights have the same shapes
            "it has the weights of another model: leave --model.univariate.bound as it was",
        ),
        (["--model.base=Logistic"], "it has the weights of another model: leave --model.base as"),
        (["--data.seed=7"], "it learned from data with seed 0, not 7: leave --data.seed as it was"),
        (["--data.columns=a,b"], "it learned from data with columns None, not ['a', 'b']: leave"),
        (["--data.rows=100"], "it learned from data with rows None, not 100: leave --data.rows"),
    ],
)
def test_a_refused_resume_writes_nothing(rows, capsys, words, reason):
    assert main([*ARGUMENTS, "--out=run"]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["train", "--resume=run", *words]) == 2
    assert capsys.readouterr().err.startswith(f"diffeo: run cannot be resumed so: {reason}")
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_table_that_changed_is_refused_by_a_resume_which_writes_nothing(rows, capsys):
    assert main([*ARGUMENTS, "--out=run"]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    source = Path("rows.csv")
    text = source.read_text()
    source.write_text(text + text.splitlines()[-1] + "\n")
    capsys.readouterr()
    assert main(["train", "--resume=run"]) == 2
    assert "its rows for training are not those that it learned from" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    source.write_text(text)
    assert main(["train", "--resume=run"]) == 0


def test_a_resume_into_another_folder_is_refused(rows, capsys):
    assert main([*ARGUMENTS, "--out=run"]) == 0
    assert main(["train", "--resume=run", "--out=other"]) == 2
    assert "--resume goes on in run: leave --out other out" in capsys.readouterr().err
    assert not Path("other").exists()


def test_data_that_are_refused_leave_a_flow_as_it_was():
    flow = RealNVP(2, layers=2, hidden=(8,), context=1)
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    x, context = torch.randn(50, 2), torch.randn(50, 1)
    flat = torch.stack([x[:, 0], torch.ones(50)], 1)
    with pytest.raises(ValueError, match="feature 1 is constant"):
        flow.initialize(flat, context * 100)
    assert all(torch.equal(tensor, before[name]) for name, tensor in flow.state_dict().items())
    flow.initialize(x, context)
    torch.testing.assert_close(flow.context_encoder.mean, context.mean(0))


def test_a_device_that_is_not_there_is_refused_before_there_is_a_folder(rows, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*ARGUMENTS, "--trainer.device=cuda", "--out=run"]) == 2
    assert "this machine has no cuda device: choose " in capsys.readouterr().err
    assert not Path("run").exists()


# The folder ---------------------------------------------------------------------------------------


def test_two_runs_do_not_share_a_folder(rows, capsys):
    for resume in (False, True):
        if resume:
            assert main([*ARGUMENTS, "--out=run"]) == 0
        Path("run").mkdir(exist_ok=True)
        with FileLock("run/.lock"):
            words = ["train", "--resume=run"] if resume else [*ARGUMENTS, "--out=run"]
            capsys.readouterr()
            assert main(words) == 2
        assert capsys.readouterr().err == (
            "diffeo: another process trains in run: wait until it ends, or choose another folder "
            "by --out.\n"
        )


def test_what_a_kill_left_before_there_was_a_run_does_no_harm(rows, capsys):
    Path("run").mkdir()
    for name in (".lock", ".config.partial.yaml", ".other.partial.png"):
        Path("run", name).write_text("half")
    assert main(["train", "--resume=run"]) == 2
    assert capsys.readouterr().err == (
        "diffeo: run holds no run to resume, run/config.yaml is missing: start one by --out run.\n"
    )
    assert main([*ARGUMENTS, "--out=run"]) == 0
    assert not [*Path("run").rglob("*.partial*")]


def test_a_folder_with_something_in_it_is_left_alone(rows):
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="full is not empty: choose another folder by --out"):
        train(data=DataOptions("rows.csv"), out="full", console=QUIET)
    assert [path.name for path in Path("full").iterdir()] == ["notes.txt"]


def test_ctrl_c_in_the_middle_of_a_checkpoint_stays_ctrl_c(tmp_path, monkeypatch):
    class Interrupted(io.BytesIO):
        def write(self, data):
            if self.tell() > 0:
                raise KeyboardInterrupt
            return super().write(bytes(data)[:10])

    monkeypatch.setattr(Path, "open", lambda path, mode: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        save({"epochs": 1}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())

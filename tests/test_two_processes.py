"""Two processes with half the batch each learn what one learns with the whole of it.

And what they are told by torchrun and SLURM, and what becomes of all if one is lost.
"""

import csv
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import refused
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

import diffeo
from diffeo.training import processes
from diffeo.training.options import TrainerOptions

# Of the diffeo that is under test, wherever another is installed.
SOURCE = str(Path(diffeo.__file__).parents[1])

SCRIPT = """
import sys
from rich.console import Console
from diffeo import Glow, ImageRealNVP
from diffeo.data import DataOptions
from diffeo.run import train
from diffeo.training.options import TrainerOptions
from diffeo.training.steps import OptimizerOptions

devices, (folder, precision, model, memory) = int(sys.argv[1]), sys.argv[2:]


def make(shape):
    if model == "Glow":
        flow = Glow(shape, levels=2, steps=2, hidden_channels=8)
    else:
        flow = ImageRealNVP(shape, scales=2, hidden_channels=8, blocks=1)
    return flow.double() if precision == "float64" else flow


train(
    make,
    DataOptions("digits", rows=200),
    folder,
    optimizer=OptimizerOptions(warmup=0.0, schedule="constant", lr=1e-3),
    precision="float32",
    trainer=TrainerOptions(
        max_epochs=3,
        batch_size=32 // devices,
        figure_every=100,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        memory=memory,
    ),
    console=Console(quiet=True),
)
"""


def curve(tmp_path, devices, precision, model, memory="auto"):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder = tmp_path / f"{devices}-{precision}-{model}-{memory}"
    done = subprocess.run(
        [sys.executable, script, str(devices), folder, precision, model, memory],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row[name]) for row in rows for name in ("train_bpd", "val_bpd")]


# In float32 Adam makes steps of rounding errors, where a gradient is zero but for them.
@pytest.mark.parametrize(
    ("model", "precision", "close"),
    [
        ("ImageRealNVP", "float64", 1e-6),
        ("ImageRealNVP", "float32", 1e-4),
        ("Glow", "float64", 1e-6),
    ],
)
def test_two_processes_learn_as_one(tmp_path, model, precision, close):
    one, two = (curve(tmp_path, devices, precision, model) for devices in (1, 2))
    assert len(one) == 6
    assert two == pytest.approx(one, rel=close)
    assert one[-2] < 0.97 * one[0], "nothing was learned, so nothing was compared"


def test_two_processes_with_constant_memory_learn_as_one_without(tmp_path):
    one = curve(tmp_path, 1, "float64", "Glow", "stored")
    two = curve(tmp_path, 2, "float64", "Glow", "constant")
    assert two == pytest.approx(one, rel=1e-6)


# Who started them

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "3"}
SLURM = {"SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_JOB_NAME": "train"}


@pytest.fixture
def alone(monkeypatch):
    """An environment in which nobody has started several processes."""
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in (
            *processes.RANKS,
            processes.PARENT,
        ):
            monkeypatch.delenv(name)
    return lambda variables: [monkeypatch.setenv(*pair) for pair in variables.items()]


@pytest.mark.parametrize(
    ("variables", "counts"),
    [
        ({}, (5, 2)),
        (TORCHRUN, (4, 3)),
        (SLURM, (2, 3)),
        (SLURM | TORCHRUN, (4, 3)),  # torchrun inside of a job
        (SLURM | {"SLURM_NTASKS": "1"}, (5, 2)),  # a job that lets Lightning start them
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, (5, 2)),
    ],
)
def test_whoever_starts_them_says_how_many(alone, monkeypatch, variables, counts):
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "99")  # so that it is restored
    alone(variables)
    options = processes.launched(TrainerOptions(devices=5, num_nodes=2, max_epochs=7))
    assert (options.devices, options.num_nodes, options.max_epochs) == (*counts, 7)
    slurm = "SLURM_NTASKS" in variables and counts == (2, 3)
    assert len(processes.cluster()) == slurm
    if slurm:
        assert os.environ["SLURM_NTASKS_PER_NODE"] == "2"
        assert not processes.cluster()[0].auto_requeue


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"])
def test_one_alone_is_the_first(alone, name):
    assert processes.is_first()
    alone({name: "0"})
    assert processes.is_first()
    alone({name: "1"})
    assert not processes.is_first()


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_3", "model_parallel"])
def test_no_process_may_hold_a_part_of_the_weights(capsys, strategy):
    refused(["train", "--trainer.strategy", strategy], capsys, strategy, "--trainer.strategy ddp")


def test_what_lightning_refuses_is_a_sentence():
    with (
        pytest.raises(ValueError, match=r"^Lightning cannot train so: no GPU; .*[.]$"),
        processes.refusals(),
    ):
        raise MisconfigurationException("no\n GPU. Try another.")


# When one is lost


def together(alone, *codes, **variables):
    """The watch of a process that has started others, which end at once with these codes."""
    alone(variables)
    launcher = _SubprocessScriptLauncher(None, len(codes) + 1, 1)
    launcher.procs = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    for process in launcher.procs:
        process.wait()
    strategy = SimpleNamespace(launcher=launcher)
    trainer = SimpleNamespace(strategy=strategy, world_size=len(codes) + 1, node_rank=0)
    return processes.Together(trainer, Path("a run"))


KILLED = "import os; os.kill(os.getpid(), 9)"
BROKEN = RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer")


def test_the_lost_one_is_named_with_the_remedy(alone):
    watch = together(alone, "", KILLED)
    with pytest.raises(ConnectionError) as caught, watch:
        raise BROKEN
    assert str(caught.value) == (
        "process 2 of 3 (killed by SIGKILL) was lost and all were ended: "
        "diffeo train --resume 'a run' goes on from the last checkpoint."
    )
    assert watch.launcher.procs == []  # of which Lightning would kill this one


def test_an_error_of_ones_own_stays_one(alone):
    with pytest.raises(RuntimeError, match="mat1"), together(alone, ""):
        raise RuntimeError("mat1 and mat2 cannot be multiplied")
    with together(alone, ""):
        pass


@pytest.mark.parametrize(
    ("error", "status"), [(BROKEN, 2), (FloatingPointError("lr"), 2), (KeyboardInterrupt(), 130)]
)
def test_of_what_all_meet_the_first_alone_speaks(alone, error, status):
    kept = {processes.PARENT: str(os.getppid()), "LOCAL_RANK": "1"}
    with pytest.raises(SystemExit) as caught, together(alone, "", **kept):
        raise error
    assert caught.value.code == status


def test_where_the_first_is_gone_the_second_speaks(alone):
    gone = {processes.PARENT: "999999999"}
    with (
        pytest.raises(ConnectionError, match="another process"),
        together(alone, "", **gone, LOCAL_RANK="1"),
    ):
        raise BROKEN
    with pytest.raises(SystemExit), together(alone, "", "", **gone, LOCAL_RANK="2"):
        raise BROKEN


def test_one_that_waits_for_ever_is_ended(alone, monkeypatch, capsys):
    ended, statuses = threading.Event(), []
    monkeypatch.setattr(processes, "LOOK", 0.01)
    monkeypatch.setattr(processes, "GRACE", 0.05)

    def end(status):
        statuses.append(status)
        ended.set()

    monkeypatch.setattr(processes.os, "_exit", end)
    with together(alone, KILLED):
        assert ended.wait(20)
    assert statuses == [2]
    said = capsys.readouterr().err
    assert said.startswith("diffeo: process 1 of 2 (killed by SIGKILL) was lost")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_one_of_two_is_killed_and_the_other_goes_on_alone(tmp_path):
    from faults.processes import EPOCHS, Training, metrics

    run = Training(tmp_path / "run", 2)
    run.until(2)
    assert run.kill(1) < 60
    (said,) = run.sentences()
    assert "diffeo train --resume" in said
    assert run.process.returncode == 2
    again = Training(run.folder, 1, resume=True)
    assert again.wait() == 0
    assert [int(row[0]) for row in metrics(run.folder)] == list(range(1, EPOCHS + 1))

"""Two processes with half the batch each learn what one learns with the whole of it.

And what they are told by torchrun and SLURM, and what becomes of all if one is lost.
"""

import csv
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import diffeo
from diffeo.training import processes
from diffeo.training.processes import Processes

# Of the diffeo that is under test, wherever another is installed.
SOURCE = str(Path(diffeo.__file__).parents[1])

SCRIPT = """
import sys
from rich.console import Console
from diffeo import Glow, ImageRealNVP
from diffeo.data import DataOptions
from diffeo.run import train
from diffeo.training.options import OptimizerOptions, TrainerOptions

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
        device="cpu",
        devices=devices,
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
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row[name]) for row in rows for name in ("train_bpd", "val_bpd")]


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_with_constant_memory_learn_as_one_without(tmp_path):
    one = curve(tmp_path, 1, "float64", "Glow", "stored")
    two = curve(tmp_path, 2, "float64", "Glow", "constant")
    assert two == pytest.approx(one, rel=1e-6)


# Who started them

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "7", "LOCAL_RANK": "3", "WORLD_SIZE": "12"}
SLURM = {"SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_JOB_NAME": "train"}
SLURM |= {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4242"}


@pytest.fixture
def alone(monkeypatch):
    """An environment in which nobody has started several processes."""
    for name in [*os.environ, *processes.NAMES, processes.PARENT]:
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in (
            *processes.NAMES,
            processes.PARENT,
        ):
            monkeypatch.setenv(name, "")  # so that it is restored
            monkeypatch.delenv(name)
    return lambda variables: [monkeypatch.setenv(*pair) for pair in variables.items()]


@pytest.mark.parametrize(
    ("variables", "places"),
    [
        ({}, (0, 5, 0)),
        (TORCHRUN, (7, 12, 3)),
        (SLURM, (5, 6, 1)),
        (SLURM | TORCHRUN, (7, 12, 3)),  # torchrun inside of a job
        (SLURM | {"SLURM_NTASKS": "1"}, (0, 5, 0)),  # a job that starts them by --trainer.devices
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, (0, 5, 0)),
    ],
)
def test_whoever_starts_them_says_how_many(alone, variables, places):
    alone(variables)
    found = Processes.launched(5, resume="go on")
    assert (found.rank, found.world, found.local) == places
    assert (found.starts, found.resume) == (places[1] == 5, "go on")
    # Once more, as a second training in the same process would.
    again = Processes.launched(5)
    assert (again.rank, again.world, again.local) == places


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node[03-05,9],other", "node03"), ("a7", "a7"), ("gpu-[1-2]-x,b", "gpu-1-x")],
)
def test_slurm_names_the_machine_of_the_first_task(alone, nodes, first):
    alone(SLURM | {"SLURM_NODELIST": nodes})
    Processes.launched(1)
    assert os.environ["MASTER_ADDR"] == first
    assert os.environ["MASTER_PORT"] == "14242"
    assert os.environ["LOCAL_WORLD_SIZE"] == "2"


def test_one_process_is_connected_to_nobody(alone):
    alone(TORCHRUN)
    with Processes() as one:  # as an estimator's, wherever it is fitted
        assert (one.rank, one.world) == (0, 1)
        assert one.sum(2.5) == 2.5
    assert not [name for name in sys.modules if name == "accelerate.accelerator"]


# When one is lost


class Watched(Processes):
    """Processes of which the others end at once with these exit codes; none are connected."""

    def __init__(self, *exits, local=0):
        super().__init__(local, len(exits) + 1, local, resume="diffeo train --resume run")
        self.exits = exits

    def __enter__(self):
        for code in self.exits if not self.local else ():
            self.children.append(subprocess.Popen([sys.executable, "-c", code]))
        for child in self.children:
            child.wait()
        threading.Thread(target=self._watch, daemon=True).start()
        return self


KILLED = "import os; os.kill(os.getpid(), 9)"
BROKEN = RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer")


def test_the_lost_one_is_named_with_the_remedy(alone):
    with pytest.raises(ConnectionError) as caught, Watched("", KILLED):
        raise BROKEN
    assert str(caught.value) == (
        "process 2 of 3 (killed by SIGKILL) was lost and all were ended: "
        "diffeo train --resume run goes on from the last checkpoint."
    )


def test_an_error_of_ones_own_stays_one(alone):
    with pytest.raises(RuntimeError, match="mat1"), Watched(""):
        raise RuntimeError("mat1 and mat2 cannot be multiplied")


@pytest.mark.parametrize(
    ("error", "status"), [(BROKEN, 2), (FloatingPointError("lr"), 2), (KeyboardInterrupt(), 130)]
)
def test_of_what_all_meet_the_first_alone_reports(alone, error, status):
    alone({processes.PARENT: str(os.getppid())})
    with pytest.raises(SystemExit) as caught, Watched("", local=1):
        raise error
    assert caught.value.code == status


def test_where_the_first_is_gone_the_second_reports(alone):
    alone({processes.PARENT: "999999999"})
    with pytest.raises(ConnectionError, match="another process"), Watched("", local=1):
        raise BROKEN
    with pytest.raises(SystemExit), Watched("", "", local=2):
        raise BROKEN


def test_one_that_waits_for_ever_is_ended(alone, monkeypatch, capsys):
    ended, statuses = threading.Event(), []
    monkeypatch.setattr(processes, "LOOK", 0.01)
    monkeypatch.setattr(processes, "GRACE", 0.05)

    def end(status):
        statuses.append(status)
        ended.set()

    monkeypatch.setattr(processes.os, "_exit", end)
    watch = Watched(KILLED).__enter__()
    assert ended.wait(20)
    watch.over.set()
    assert statuses == [2]
    message = capsys.readouterr().err
    assert message.startswith("diffeo: process 1 of 2 (killed by SIGKILL) was lost")
    assert message.count("\n") == 1

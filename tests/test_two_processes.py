"""Two processes with half the batch each learn what one learns with the whole of it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffeo

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

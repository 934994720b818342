"""Training: the order of the batches, the optimizer's rules, and a kill that costs nothing."""

import functools
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from diffeo import NICE, RealNVP
from diffeo.data import DataOptions, Split
from diffeo.data.datasets import Batches
from diffeo.run import Run, draw, train
from diffeo.run.learning import prepare
from diffeo.training import observers
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.machine import limit_threads

QUIET = Console(quiet=True)


def few_steps(**changes):
    return TrainerOptions(**({"max_epochs": 2, "batch_size": 100, "figure_every": 100} | changes))


# Batches ------------------------------------------------------------------------------------------


def rows_of(batches):
    return torch.cat([x[:, 0] for x, _ in batches]).tolist()


def test_an_epoch_shows_each_row_once_in_an_order_of_its_own():
    batches = Batches(Split(torch.arange(60.0)[:, None]), 20, seed=3)
    first = rows_of(batches)
    assert sorted(first) == list(range(60))
    assert rows_of(batches) == first
    batches.set_epoch(1)
    assert sorted(rows_of(batches)) == list(range(60))
    assert rows_of(batches) != first
    assert rows_of(Batches(Split(torch.arange(60.0)[:, None]), 20, seed=4)) != first


def test_processes_share_the_rows_of_the_same_steps():
    x = Split(torch.arange(60.0)[:, None])
    one = [set(batch[0][:, 0].tolist()) for batch in Batches(x, 20, seed=3)]
    two = [
        [set(b[0][:, 0].tolist()) for b in Batches(x, 10, seed=3, rank=rank, world=2)]
        for rank in (0, 1)
    ]
    assert [left | right for left, right in zip(*two, strict=True)] == one


def test_without_a_seed_all_rows_come_in_order_with_their_context():
    x = torch.arange(25.0)[:, None]
    batches = Batches(Split(x, 2 * x), 10)
    assert rows_of(batches) == list(range(25))
    assert all((context == 2 * x).all() for x, context in batches)
    assert len(batches) == 3


def test_a_batch_larger_than_the_data_is_shortened_to_it():
    assert len(list(Batches(Split(torch.zeros(7, 1)), 100, seed=0))) == 1


# Optimizer ----------------------------------------------------------------------------------------


def test_the_learning_rate_rises_then_falls_as_a_cosine():
    factor = OptimizerOptions(warmup=0.2).lr_factor
    assert 0 < factor(0.0) < 0.01
    assert factor(0.1) == pytest.approx(0.5)
    assert factor(0.2) == pytest.approx(1.0)
    assert factor(0.6) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert factor(1.0) == pytest.approx(0.0)
    assert OptimizerOptions(warmup=0.0, schedule="constant").lr_factor(0.7) == 1.0


@pytest.mark.slow
def test_l2_shrinks_weights_and_nothing_else(tmp_path):
    def trained(l2):
        torch.manual_seed(0)
        flow = NICE(2, layers=2, hidden=(8,))
        train(
            lambda features: flow,
            DataOptions(rows=500),
            tmp_path / str(l2),
            optimizer=OptimizerOptions(l2=l2),
            trainer=few_steps(max_epochs=20),
            console=QUIET,
        )
        weights = sum(p.norm().item() for p in flow.parameters() if p.ndim > 1)
        return weights, flow.bijection[-1].log_scale.norm().item()

    free, held = trained(0.0), trained(1.0)
    assert held[0] < 0.9 * free[0]
    assert held[1] > 0.5 * free[1]


def test_the_average_follows_the_weights(tmp_path):
    flow = RealNVP(2, layers=2, hidden=(8,))
    table = Split(torch.randn(64, 2))
    fitted = {}
    for ema in (0.0, 0.999):
        torch.manual_seed(0)
        flow = RealNVP(2, layers=2, hidden=(8,))
        prepare(
            flow,
            table,
            table,
            tmp_path / str(ema),
            seed=0,
            optimizer=OptimizerOptions(ema=ema, schedule="constant", warmup=0.0, lr=1e-2),
            options=few_steps(batch_size=64, max_epochs=1),
            console=QUIET,
        ).run()
        saved = RealNVP.from_pretrained(tmp_path / str(ema) / "model")
        fitted[ema] = [
            (a - b).abs().max().item()
            for a, b in zip(saved.parameters(), flow.parameters(), strict=True)
        ]
    # One step of a decay min(d, 1/11) leaves the average at 10/11 of the way.
    assert max(fitted[0.0]) == 0
    assert max(fitted[0.999]) == pytest.approx(1e-2 / 11, rel=0.2)


class Spoilt(RealNVP):
    """A flow whose loss is not finite at some calls."""

    bad: range = range(0)
    calls = 0

    def log_prob(self, x, context=None, *, generator=None):
        log_prob = super().log_prob(x, context, generator=generator)
        if not self.training or generator is not None:
            return log_prob
        self.calls += 1
        return log_prob * float("nan") if self.calls in self.bad else log_prob


def spoilt(bad):
    def make(features):
        flow = Spoilt(features, layers=2, hidden=(8,))
        flow.bad = bad
        return flow

    return make


def test_a_step_without_a_finite_gradient_is_skipped_and_reported(tmp_path):
    with pytest.warns(UserWarning, match="skipped"):
        folder = train(
            spoilt(range(3, 5)),
            DataOptions(rows=500),
            tmp_path / "run",
            trainer=few_steps(),
            console=QUIET,
        )
    assert all(p.isfinite().all() for p in Run(folder).flow.parameters())


@pytest.mark.filterwarnings("ignore:step")
def test_three_such_steps_in_a_row_stop_the_run(tmp_path):
    make, options = spoilt(range(3, 6)), few_steps()
    with pytest.raises(FloatingPointError, match="three steps"):
        train(make, DataOptions(rows=500), tmp_path / "run", trainer=options, console=QUIET)


def test_threads_are_capped_and_never_raised():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        limit_threads()
        assert torch.get_num_threads() == 1
        torch.set_num_threads(64)
        limit_threads()
        assert torch.get_num_threads() <= os.cpu_count()
    finally:
        torch.set_num_threads(before)


# Whole runs ---------------------------------------------------------------------------------------


def test_training_learns_and_fills_the_run_folder(tmp_path):
    folder = train(
        functools.partial(RealNVP, layers=4, hidden=(32,)),
        DataOptions(rows=4_000),
        tmp_path / "run",
        trainer=few_steps(max_epochs=4, figure_every=2),
        console=QUIET,
    )
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "results.json",
        "metrics.csv",
        "model/config.json",
        "model/model.safetensors",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "figures/panels.png",
        "figures/density.png",
        "figures/grid.png",
        "figures/curve.png",
        "figures/training.gif",
        "figures/epoch-00004.png",
    } <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not any("partial" in name for name in names)
    header, *lines = (folder / "metrics.csv").read_text().splitlines()
    assert header == "epoch,step,train_nll,val_nll,lr"
    # A Gaussian, the best without couplings, has 0.5 log((2 pi e)^2 det C) = 1.9 nats.
    assert float(lines[-1].split(",")[3]) < 1.5


@pytest.mark.parametrize("source", ["swiss_roll", "gaussians", "iris"])
def test_other_tables_train_too(tmp_path, source):
    rows = 300 if source != "iris" else None
    folder = train(
        NICE,
        DataOptions(source=source, rows=rows),
        tmp_path / "run",
        trainer=few_steps(),
        console=QUIET,
    )
    main = "corner" if source == "iris" else "panels"
    assert (folder / "figures" / f"{main}.png").is_file()
    if source == "iris":
        run = Run(folder)
        with pytest.raises(ValueError, match="needs 2 columns, not 4"):
            draw(run, run.data(), "panels", tmp_path / "panels.png")


def test_context_and_dequantization_reach_the_model(tmp_path):
    lines = ["a,b,c"] + [f"{i % 7},{i % 5},{i % 3}" for i in range(400)]
    (tmp_path / "whole.csv").write_text("\n".join(lines))
    folder = train(
        RealNVP,
        DataOptions(source=str(tmp_path / "whole.csv"), context=["c"], dequantize=True),
        out=tmp_path / "run",
        trainer=few_steps(),
        console=QUIET,
    )
    run = Run(folder)
    assert (run.columns, run.context_columns) == (["a", "b"], ["c"])
    samples = run.sample(50, context=torch.tensor([[1.0]]), seed=0)
    assert (samples == samples.round()).all()


def start(folder, *options):
    command = [sys.executable, "-m", "diffeo.cli", "train", "--trainer.max_epochs=12"]
    command += ["--data.rows=20000", "--trainer.batch_size=256", "--model.layers=4"]
    command += ["--trainer.figure_every=5", "--trainer.device=cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *options, f"--out={folder}"] if not options else [*command[:4], *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_killed_run_that_is_resumed_ends_as_an_unbroken_one(tmp_path):
    finish(start(tmp_path / "whole"))
    broken = tmp_path / "broken"
    process = start(broken)
    metrics = broken / "metrics.csv"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.05)  # into the next epoch
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(metrics.read_text().splitlines()) < 13, "the kill came too late to break anything"
    finish(start(broken, "--resume", str(broken)))
    for name in ("metrics.csv", "model/model.safetensors", "model/config.json"):
        assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_resume_before_the_first_checkpoint_starts_anew(tmp_path, capsys):
    options = {"data": DataOptions(rows=300), "out": tmp_path / "run", "trainer": few_steps()}
    train(**options, console=QUIET)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    train(**options, resume=True, console=Console(width=200))
    assert "no checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "seconds", "drawn"),
    [(None, 0.01, list(range(0, 21, 2))), (None, 0.5, [0, 10, 20]), (5, 0.5, [0, 5, 10, 15, 20])],
)
def test_figures_take_a_twentieth_of_the_time_unless_they_are_asked_for(
    monkeypatch, asked, seconds, drawn
):
    """A clock on which an epoch takes a second, and a figure some more."""
    now, names = [0.0], []
    monkeypatch.setattr(observers.time, "perf_counter", lambda: now[0])

    def draw(flow, name):
        now[0] += seconds
        names.append(int(name.split("-")[1]))
        return {}

    board = SimpleNamespace(show=lambda paths, step: None)
    figures = observers.Figures(draw, asked, board)
    training = SimpleNamespace(epoch=0, epochs=20, averaged=None, step=0)
    figures.on_start(training)
    for training.epoch in range(1, 21):
        now[0] += 1.0
        figures.on_epoch_end(training)
    assert names == drawn

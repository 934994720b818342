"""The benchmarks run, at sizes that take seconds and mean nothing; no time is asserted."""

import csv
import json
import math
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import families, harness, loop, plain_loop, subjects

from diffeo.data import DataOptions
from diffeo.run import train
from diffeo.training import loop as training_loop
from diffeo.training import options as training_options
from diffeo.training.options import TrainerOptions

NEED_NORMFLOWS = {"glow-train", "glow-sample", "glow-memory", "image-realnvp"}
SLOW = {"loop", "checkerboards"}
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in (*command.NAMES, *command.MORE)
]


class Here(harness.Side):
    """A worker in the process of the test: to start one for each side would take minutes."""

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def settings_restored() -> Iterator[None]:
    """What the sides set for their own processes."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32, torch.get_num_threads()
    yield
    cuda.allow_tf32, cudnn.allow_tf32 = before[:2]
    torch.set_num_threads(before[2])


@pytest.mark.usefixtures("settings_restored")
@pytest.mark.parametrize("name", NAMES)
def test_each_name_prints_and_writes(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in NEED_NORMFLOWS:
        pytest.importorskip("normflows")
    if name == "tables" and not any(map(find_spec, ("zuko", "nflows", "normflows", "FrEIA"))):
        pytest.skip("no peer is installed")
    monkeypatch.setattr(harness, "Worker", Here)
    assert command.main([name, "--small", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "median" in capsys.readouterr().out
    found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert found["measured"] and found["ratios"] and found["machine"]["versions"]["torch"]
    for row in found["measured"]:
        assert all(math.isfinite(value) and value > 0 for value in row["rounds"])
        assert min(row["rounds"]) <= row["median"] <= max(row["rounds"])
    for ratio in found["ratios"]:
        assert all(math.isfinite(value) and value >= 0 for value in ratio["rounds"])
        assert (ratio["met"] is None) == (ratio["bar"] is None)
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_a_side_works_in_a_process_of_its_own_and_says_what_failed_there() -> None:
    settings = harness.Settings(rounds=1, seconds=0.0)
    with harness.Worker(partial(subjects.realnvp, 2, 16), settings) as worker:
        assert worker.growth() > 0
        worker.warm("step")
        assert worker.seconds("step") > 0
        with pytest.raises(ValueError, match="failed: AttributeError"):
            worker.call("nothing")
    assert not worker.process.is_alive()


@pytest.mark.slow
def test_the_plain_loop_takes_the_steps_of_training(tmp_path: Path) -> None:
    options = training_options.OptimizerOptions()
    assert plain_loop.STEPS == training_loop.DEFAULT_STEPS
    assert (plain_loop.BATCH, plain_loop.LR) == (
        training_options.TABLE_BATCH,
        training_options.TABLE_LR,
    )
    taken = plain_loop.WARMUP, plain_loop.CLIP, plain_loop.EMA
    assert taken == (options.warmup, options.clip, options.ema)
    data = DataOptions("moons", rows=loop.SMALL_ROWS)
    out = train(
        data=data, out=tmp_path / "run", trainer=TrainerOptions(max_epochs=loop.SMALL_EPOCHS)
    )
    plain = plain_loop.train(loop.SMALL_ROWS, loop.SMALL_EPOCHS, tmp_path)
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert plain["steps"] == int(rows[-1]["step"]) > 10
    best = min(float(row["val_nll"]) for row in rows)
    assert plain["val_nll"] == pytest.approx(best, rel=1e-3)


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert command.main(["gpu"]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_densities_of_the_families_integrate_to_one_and_are_those_of_their_draws() -> None:
    for name, density in families.DENSITIES.items():
        log_p = density.log_prob(families.grid(density, 100))
        mass = log_p.exp() * (2 * density.half / 100) ** 2
        x = density.draw(5_000, 0)
        log_q = density.log_prob(x)[(x - torch.tensor(density.middle)).abs().amax(1) < density.half]
        assert float(mass.sum()) == pytest.approx(len(log_q) / len(x), abs=0.025), name
        mean = (mass * log_p.clamp(min=-1e3)).sum() / mass.sum()
        assert float(log_q.mean()) == pytest.approx(float(mean), abs=0.06), name


def test_samples_of_tarflow_are_the_same_by_all_methods(tmp_path: Path) -> None:
    file, sizes = tmp_path / "samples.csv", ["--seconds", "0.5", "--images", "1", "--rounds", "1"]
    assert command.main(["tarflow-sample", *sizes, "--out", str(file)]) == 0
    with file.open(newline="", encoding="utf-8") as lines:
        found = {line["method"]: line for line in csv.DictReader(lines)}
    exact = ("plain", "group 8, tolerance 0", "group 64, tolerance 0")
    assert all(float(found[name]["largest_error"]) < 0.1 for name in exact)
    assert all(float(line["seconds"]) > 0 for line in found.values())


def test_a_group_of_families_is_drawn_and_adds_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "families.csv"
    known = ["family,density,nats", "TailFlow,moons,1.25", "NICE,moons,inf"]
    file.write_text("\n".join(known), encoding="utf-8")
    sizes = ["--seconds", "0.01", "--rows", "200", "--cells", "8"]
    folders = ["--out", str(tmp_path), "--images", str(tmp_path)]
    assert command.main(["families", "--groups", "couplings", *sizes, *folders]) == 0
    assert (tmp_path / "families-couplings.png").stat().st_size > 1000
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    names = [f.name for f in families.FAMILIES["couplings"] for _ in families.DENSITIES]
    assert [row["family"] for row in rows] == [*names, "TailFlow"]
    assert all(math.isfinite(float(row["nats"])) for row in rows)


def test_posteriors_of_sbi_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("sbi", reason="needs sbi: pip install 'diffeo[sbi]'")
    file = tmp_path / "sbi.csv"
    sizes = ["--simulations", "100", "--seeds", "1", "--observations", "1", "--draws", "50"]
    chosen = ["--tasks", "two_moons", "--estimators", "diffeo MAF", "--out", str(file)]
    assert command.main(["sbi", *sizes, *chosen]) == 0
    with file.open(newline="", encoding="utf-8") as lines:
        (row,) = csv.DictReader(lines)
    assert (row["task"], row["estimator"]) == ("two_moons", "diffeo MAF")
    assert 0.4 < float(row["c2st"]) <= 1
    assert float(row["train_seconds"]) > 0


def test_exact_draws_of_sbis_tasks_give_the_data_back() -> None:
    """Draws of the posterior, simulated again, are as likely as data of the prior would make them.

    With theta drawn from the prior and x from it, a draw given x is one more pair with that x.
    """
    pytest.importorskip("sbi", reason="needs sbi: pip install 'diffeo[sbi]'")
    from benchmarks import sbi

    for make in sbi.TASKS.values():
        task, source = make(), torch.Generator().manual_seed(1)  # another than that of theta
        theta = task.prior.sample((1_000,))
        x = task.simulate(theta, source)
        again = torch.cat([task.posterior(one, 1, source) for one in x])
        for moment in (lambda t, x: t, lambda t, x: t * x[:, :1], lambda t, x: (t + x).square()):
            gap = (moment(theta, x) - moment(again, x)).double()
            assert (gap.mean(0).abs() < 4 * gap.std(0) / len(x) ** 0.5).all()


def test_the_command_lists_all_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    message = capsys.readouterr().out
    assert all(name in message for name in (*command.NAMES, *command.MORE, *command.SCRIPTS))

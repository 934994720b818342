"""The race of likelihood against seconds: clocks, bounds, goals, and the command."""

import math
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import harness, race, race_table
from benchmarks.race_curve import Curve
from benchmarks.race_rivals import Dequantized
from torch import Tensor, nn


def test_scoring_stops_the_clock_and_changes_no_random_numbers() -> None:
    curve = Curve(60.0)
    state = torch.get_rng_state()

    def score() -> float:
        time.sleep(0.3)
        return float(torch.rand(()))

    curve.add(score)
    assert curve.clock() < 0.2
    assert torch.equal(state, torch.get_rng_state())


def points(name: str, seconds: list[float], quality: list[float], unit: str) -> pd.DataFrame:
    values = {"seconds": seconds, "quality": quality}
    return pd.DataFrame({"data": "d", "contestant": name, "round": 0, **values, "unit": unit})


@pytest.mark.parametrize(("sign", "unit"), [(1, "nats"), (-1, "bits/dim")])
def test_a_goal_is_the_last_quality_of_the_best_rival(sign: int, unit: str) -> None:
    curves = pd.concat(
        points(name, seconds, [sign * q for q in quality], unit)
        for name, seconds, quality in (
            ("zuko NSF", [1, 10, 20], [0, 2.995, 3]),
            ("nflows MAF", [1, 2], [0, 1]),
            ("diffeo", [2, 4, 6], [1, 3.5, 5]),
            ("diffeo Glow", [2, 4], [1, 2.9]),
        )
    )
    first, second = race_table.lines(curves)
    assert (first.rival, first.theirs, first.ours, first.ratio) == ("zuko NSF", 10, 4, 0.4)
    assert math.isinf(second.ours)
    table = race_table.markdown(curves)
    assert "| 4.0 | 0.40 | yes |" in table and "| never |  | no |" in table
    assert len(race_table.plot(curves).axes) == 1


class Uniform(nn.Module):
    """A flow as zuko's are called, whose density is uniform in unit cells of what it is given."""

    def __init__(self, encoding: Dequantized) -> None:
        super().__init__()
        self.encoding = encoding

    def forward(self) -> "Uniform":
        return self

    def log_prob(self, x: Tensor) -> Tensor:
        """Standard normal in numbers, and uniform over the places of each category."""
        encoding = x * torch.tensor(self.encoding.std) + torch.tensor(self.encoding.mean)
        number, places = x[:, 0], encoding[:, 1:]
        sizes = torch.tensor([3.0, 2.0])  # of the category, and of the indicator of a gap
        assert bool((places >= -1e-4).all() and (places < sizes + 1e-4).all())
        inside = sizes.log() - torch.tensor(self.encoding.std[1:]).log()
        normal = -0.5 * number.square() - 0.5 * math.log(2 * math.pi)
        return normal - inside.sum()


def test_the_bound_of_a_flow_of_numbers_is_exact_where_the_density_is_uniform_in_cells() -> None:
    random = np.random.default_rng(0)
    number = random.normal(3, 2, 300)
    number[:100] = np.nan
    frame = pd.DataFrame({"a": number, "b": random.choice(["x", "y", "z"], 300).astype(object)})
    encoding = Dequantized(frame)
    found = encoding.log_prob(Uniform(encoding), encoding.rows(frame)).double().numpy()
    standard = (number - encoding.mean[0]) / encoding.std[0]
    density = -0.5 * standard**2 - 0.5 * math.log(2 * math.pi) - math.log(encoding.std[0])
    wanted = np.where(np.isnan(number), 0.0, density) - math.log(6)
    assert found == pytest.approx(wanted, abs=1e-4)


class Here(harness.Side):
    """A worker in the process of the test."""

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_the_command_races_and_goes_on_from_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("zuko")
    monkeypatch.setattr(race, "Worker", Here)
    monkeypatch.setattr(harness, "keep_freed_memory", lambda: None)
    monkeypatch.setattr("diffeo.run.learning.keep_freed_memory", lambda: None)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    threads = torch.get_num_threads()
    arguments = ["race", "--sets", "moons", "protein", "--seconds", "1", "--data", str(tmp_path)]
    arguments += ["--clock", "processor", "--out", str(tmp_path)]
    try:
        assert command.main([*arguments, "--only", "zuko NSF"]) == 0
        assert command.main([*arguments, "--only", "zuko NSF", "diffeo"]) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "protein is left out" in printed
    assert printed.count("moons  zuko NSF") == 1 and "| moons | zuko NSF |" in printed
    found = pd.read_csv(tmp_path / "race.csv")
    assert {*found["contestant"]} == {"diffeo", "diffeo NSF", "zuko NSF"}
    assert all(np.diff(part["seconds"]).min() >= 0 for _, part in found.groupby("contestant"))
    assert (tmp_path / "race.png").stat().st_size > 1000

"""How many threads a training computes with: measured, asked for, resumed, and fewer if busy."""

import io

import pytest
import torch
from rich.console import Console

from diffeo import RealNVP
from diffeo.data import Split
from diffeo.training import threads
from diffeo.training.loop import Observer, Training
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.training.threads import Threads


class Recorder(Observer):
    """Notes how many threads there are after each step."""

    def __init__(self):
        self.counts = []

    def on_step(self, training):
        self.counts.append(torch.get_num_threads())


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run(asked=None, state=None, steps=200, every=50):
    """The training, what it printed, and how many threads computed its steps."""
    torch.manual_seed(0)
    rows = Split(torch.randn(60, 2))
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(rows.x)
    printed, recorder = io.StringIO(), Recorder()
    training = Training(
        flow,
        rows,
        rows,
        optimizer=OptimizerOptions(),
        options=TrainerOptions(batch_size=20, device="cpu"),
        seed=0,
        steps=steps,
        every=every,
        observers=[Threads(asked, Console(file=printed, width=400)), recorder],
    )
    if state is not None:
        training.load_state_dict(state)
    training.run()
    return training, printed.getvalue(), recorder.counts


def pretend(monkeypatch, one, many):
    """Let steps take so many seconds on one thread and on two, and epochs none."""
    monkeypatch.setattr(threads, "perf_counter", lambda: 0.0)
    times = {1: one, 2: many}
    monkeypatch.setattr(
        threads, "measure", lambda training, gradient: (times[torch.get_num_threads()], 0.0)
    )


@pytest.mark.parametrize(("many", "chosen"), [(0.6, 2), (0.88, 2), (0.95, 1), (4.0, 1)])
def test_all_threads_are_taken_where_they_are_a_tenth_faster(
    monkeypatch, two_threads, many, chosen
):
    pretend(monkeypatch, 1.0, many)
    training, printed, counts = run()
    assert set(counts) == {training.threads} == {chosen}
    assert f"on {chosen} thread" in printed and f"{1e3 * many:.1f} ms on 2" in printed
    assert torch.get_num_threads() == 2  # as before


def test_a_number_that_is_asked_for_is_taken_without_measuring(monkeypatch, two_threads):
    monkeypatch.delattr(threads, "measure")
    _, printed, counts = run(asked=1)
    assert set(counts) == {1} and printed == ""


def test_short_trainings_and_single_threads_are_not_measured(monkeypatch, two_threads):
    monkeypatch.delattr(threads, "measure")
    assert set(run(steps=20, every=10)[2]) == {2}
    torch.set_num_threads(1)
    assert set(run()[2]) == {1}


def test_a_resumed_training_takes_as_many_as_before(monkeypatch, two_threads):
    pretend(monkeypatch, 1.0, 0.6)
    first, _, _ = run()
    state = first.state_dict() | {"epochs": 2}
    monkeypatch.delattr(threads, "measure")
    assert set(run(state=state)[2]) == {2}
    assert set(run(state=state | {"threads": 1})[2]) == {1}


def test_where_others_need_the_cores_the_rest_is_computed_on_one(monkeypatch, two_threads):
    pretend(monkeypatch, 1.0, 0.6)
    clock = iter([0.0, 1.0, 1.0, 2.1, 2.1, 4.6, 4.6, 5.0])  # the third epoch takes long
    monkeypatch.setattr(threads, "perf_counter", lambda: next(clock))
    _, printed, counts = run()
    assert counts[:150] == [2] * 150 and counts[150:] == [1] * 50
    assert "Other programs need the cores" in printed


def test_measuring_leaves_weights_and_random_numbers_alone(two_threads):
    measured, printed, _ = run()
    assert "on one" in printed and "threads N takes N" in printed.replace("\n", " ")
    plain, _, _ = run(asked=measured.threads)
    assert plain.history == measured.history

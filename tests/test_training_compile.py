"""Whether a training compiles its flow: what is asked for, measured and printed."""

import io

import pytest
import torch
from rich.console import Console

from diffeo import Flow, RealNVP
from diffeo.data import Split
from diffeo.training import steps
from diffeo.training.loop import Training
from diffeo.training.options import OptimizerOptions, TrainerOptions


@pytest.fixture
def compiled(monkeypatch):
    """Which flows were compiled; none really is."""
    flows = []
    monkeypatch.setattr(Flow, "compile", lambda flow: flows.append(flow) or flow)
    return flows


def settled(monkeypatch, asked, plain=10.0, compiled=1.0, first=5.0, state=None):
    """The training and what was printed, where steps take so many seconds each."""
    times = iter([(plain, plain), (compiled, first)])
    monkeypatch.setattr(steps, "_measure", lambda flow, batch: next(times))
    rows = Split(torch.randn(60, 2))
    options = TrainerOptions(max_epochs=10, device="cpu", compile=asked)
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(rows.x)
    training = Training(flow, rows, rows, optimizer=OptimizerOptions(), options=options, seed=0)
    if state is not None:
        training.load_state_dict(state)
    printed = io.StringIO()
    steps.choose_compile(training, Console(file=printed, width=400))
    return training, printed.getvalue()


@pytest.mark.parametrize(("asked", "count"), [("on", 1), ("off", 0)])
def test_what_is_asked_for_is_done_without_measuring(monkeypatch, compiled, asked, count):
    training, printed = settled(monkeypatch, asked)
    assert compiled == [training.flow] * count
    assert training.compiled == bool(count)
    assert printed == ""


@pytest.mark.parametrize(
    ("times", "chosen", "text"),
    [
        ((10.0, 1.0, 5.0), True, "Steps are compiled (1000.0 ms compiled, 10000.0 ms as they are)"),
        ((10.0, 9.9, 5.0), False, "Steps are not compiled, since that would save no time"),
        ((10.0, 11.0, 0.1), False, "Steps are not compiled, since that would save no time"),
        ((0.1, 0.0, 0.0), False, ""),  # too short to try
    ],
)
def test_auto_compiles_where_the_steps_save_more_than_it_takes(
    monkeypatch, compiled, times, chosen, text
):
    training, printed = settled(monkeypatch, "auto", *times)
    assert training.compiled == (training.flow in compiled) == chosen
    assert printed.startswith(text)
    assert printed.count("\n") == bool(text)


def test_a_resumed_training_stays_as_it_was(monkeypatch, compiled):
    training, _ = settled(monkeypatch, "auto")
    training.run()
    compiled.clear()
    for was in (True, False):
        state = training.state_dict() | {"compiled": was, "epochs": 5}
        again, printed = settled(monkeypatch, "auto", state=state)
        assert again.compiled == was == (again.flow in compiled)
        assert printed == ""
        compiled.clear()


def test_without_a_compiler_one_sentence_says_so(monkeypatch):
    def refuse(flow):
        raise ValueError("there is no compiler: install g++.")

    monkeypatch.setattr(Flow, "compile", refuse)
    training, printed = settled(monkeypatch, "auto")
    assert printed == "Steps are not compiled: there is no compiler: install g++.\n"
    assert not training.compiled
    with pytest.raises(ValueError, match=r"install g\+\+"):
        settled(monkeypatch, "on")


def test_measuring_leaves_the_flow_and_the_random_numbers_alone():
    rows = Split(torch.randn(60, 2))
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(rows.x)
    state = torch.get_rng_state()
    seconds, first = steps._measure(flow, (rows.x, None))
    assert seconds > 0 and first > 0
    assert torch.equal(torch.get_rng_state(), state)

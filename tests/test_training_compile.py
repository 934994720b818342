"""Whether a training compiles its steps: asked for, measured, printed; and the program itself."""

import io
import os
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from diffeo import MAF, NSF, Flow, ImageRealNVP, RealNVP
from diffeo.bijections import Affine
from diffeo.data import Split
from diffeo.training import steps
from diffeo.training.compiled import CACHE, CompiledGradient, can_be_one_program
from diffeo.training.loop import Training
from diffeo.training.options import OptimizerOptions, TrainerOptions


class Program(CompiledGradient):
    """Stands for a compiled gradient, and computes as autograd does."""

    def __init__(self, flow, nats, weights):
        self.flow = flow

    def __call__(self, *batch):
        return steps.differentiate(self.flow)(*batch).detach()


@pytest.fixture
def compiled(monkeypatch):
    """Flows whose gradient was compiled as one program; none really is."""
    flows = []

    def make(flow, nats, weights):
        flows.append(flow)
        return Program(flow, nats, weights)

    monkeypatch.setattr(steps, "_as_one_program", lambda t: make(t.flow, t.nats, t.adam.weights))
    monkeypatch.setattr(steps, "CompiledGradient", Program)
    return flows


def settled(monkeypatch, asked, plain=10.0, compiled=1.0, first=5.0, state=None):
    """The training and what was printed, where steps take so many seconds each."""
    times = iter([(plain, plain), (compiled, first)])
    monkeypatch.setattr(steps, "measure", lambda training, gradient: next(times))
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
    assert training.compiled == isinstance(training.gradient, Program) == bool(count)
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
    assert training.compiled == isinstance(training.gradient, Program) == chosen
    assert printed.startswith(text)
    assert printed.count("\n") == bool(text)


def test_a_resumed_training_stays_as_it_was(monkeypatch, compiled):
    training, _ = settled(monkeypatch, "auto")
    training.run()
    for was in (True, False):
        state = training.state_dict() | {"compiled": was, "epochs": 5}
        again, printed = settled(monkeypatch, "auto", state=state)
        assert again.compiled == was == isinstance(again.gradient, Program)
        assert printed == ""


def test_without_a_compiler_one_sentence_says_so(monkeypatch):
    def refuse(device):
        raise ValueError("there is no compiler: install g++.")

    monkeypatch.setattr("diffeo.utils.compiling.check_compiler", refuse)
    training, printed = settled(monkeypatch, "auto")
    assert printed == "Steps are not compiled: there is no compiler: install g++.\n"
    assert not training.compiled
    with pytest.raises(ValueError, match=r"install g\+\+"):
        settled(monkeypatch, "on")


def test_programs_are_remembered_where_a_second_run_finds_them(tmp_path):
    code = """
import copy
import os
from diffeo import RealNVP
from diffeo.training.adam import AveragedAdam
from diffeo.training.compiled import CACHE, CompiledGradient
from diffeo.training.options import OptimizerOptions

flow = RealNVP(2, layers=2)
adam = AveragedAdam(flow, copy.deepcopy(flow).requires_grad_(False), OptimizerOptions(), 1e-3)
try:
    CompiledGradient(flow, 1.0, adam.weights)
except ValueError:  # without a compiler
    pass
print(os.environ[CACHE])
"""
    others = {name: text for name, text in os.environ.items() if name != CACHE}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=others | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(tmp_path / ".cache" / "diffeo" / "compiled")


def test_images_and_likelihoods_of_their_own_compile_the_bijection(monkeypatch):
    class Own(RealNVP):
        def log_prob(self, x, context=None, *, generator=None):
            return super().log_prob(x, context, generator=generator)

    assert can_be_one_program(RealNVP(2, layers=2))
    assert not can_be_one_program(Own(2, layers=2))
    assert not can_be_one_program(ImageRealNVP((1, 8, 8), hidden_channels=4, blocks=1))
    flows = []
    monkeypatch.setattr(Flow, "compile", lambda flow: flows.append(flow) or flow)
    rows = Split(torch.randn(60, 2))
    flow = Own(2, layers=2, hidden=(8,)).initialize(rows.x)
    options = TrainerOptions(max_epochs=1, device="cpu", compile="on")
    training = Training(flow, rows, rows, optimizer=OptimizerOptions(), options=options, seed=0)
    steps.choose_compile(training, Console(quiet=True))
    assert flows == [flow]


def test_measuring_leaves_the_flow_and_the_random_numbers_alone():
    rows = Split(torch.randn(60, 2))
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(rows.x)
    options = TrainerOptions(max_epochs=1, device="cpu")
    training = Training(flow, rows, rows, optimizer=OptimizerOptions(), options=options, seed=0)
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in flow.state_dict().items()}
    seconds, first = steps.measure(training, training.gradient)
    assert seconds > 0 and first > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in flow.state_dict().items())


# Networks narrow and wide, masked ones, splines, a context, a grid of values, and weights of rows.
FLOWS = {
    "couplings": lambda: RealNVP(3, layers=3, hidden=(16, 16), context=2, steps=[0.5, 0, 0]),
    "autoregressive": lambda: MAF(3, layers=2, hidden=(8, 8)),
    "splines": lambda: NSF(2, layers=1, hidden=(4,)),
}


@pytest.mark.parametrize(
    "name", ["couplings", "autoregressive", pytest.param("splines", marks=pytest.mark.slow)]
)
def test_the_compiled_gradient_is_that_of_autograd_for_any_number_of_rows(name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    flow = FLOWS[name]()
    x = torch.randn(40, flow.dims).mul(4).round().div(2) + 0.1 * torch.randn(40, flow.dims)
    if name == "couplings":
        x[:, 0] = x[:, 0].mul(2).round().div(2)
    context = torch.randn(40, 2) if flow.context else None
    flow.initialize(x, context)
    with torch.no_grad():  # away from the identity, where networks have no gradient
        for weight in flow.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    flow.double()
    rows = Split(x.double(), None if context is None else context.double(), torch.rand(40) + 0.5)
    options = TrainerOptions(max_epochs=1, batch_size=16, device="cpu", compile="on")
    training = Training(flow, rows, None, optimizer=OptimizerOptions(), options=options, seed=0)
    autograd = training.gradient
    steps.choose_compile(training, Console(quiet=True))
    assert isinstance(training.gradient, CompiledGradient)
    torch._dynamo.utils.counters.clear()
    for count in (16, 7, 16, 40, 11):
        x, context = rows.take(torch.arange(count))[:2]
        found = []
        for gradient in (autograd, training.gradient):
            noise = None if training.noise is None else training.noise.manual_seed(count)
            loss = gradient(x, context, rows.weights[:count], noise)
            found.append((loss, *[vector.grad.clone() for vector in training.adam.weights.vectors]))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_each_flow_has_a_program_of_its_own():
    torch.manual_seed(0)
    x, found = torch.randn(20, 2), []
    for bound in (3.0, 0.5):  # a constant of the program, of flows with the same weights
        flow = RealNVP(2, layers=2, hidden=(8,), univariate=Affine(bound)).initialize(x)
        with torch.no_grad():
            for weight in flow.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        options = TrainerOptions(max_epochs=1, device="cpu", compile="on")
        rows = Split(x)
        training = Training(flow, rows, None, optimizer=OptimizerOptions(), options=options, seed=0)
        autograd = training.gradient
        steps.choose_compile(training, Console(quiet=True))
        found.append((training, autograd))
    for training, autograd in (*found, found[0]):
        gradients = []
        for gradient in (autograd, training.gradient):
            gradient(x, None, None, None)
            gradients.append([v.grad.clone() for v in training.adam.weights.vectors])
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_compiled_is_refused_in_one_sentence(monkeypatch):
    rows = Split(torch.randn(60, 2))
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(rows.x)
    options = TrainerOptions(max_epochs=1, device="cpu", compile="on")
    training = Training(flow, rows, rows, optimizer=OptimizerOptions(), options=options, seed=0)
    steps.choose_compile(training, Console(quiet=True))

    def break_off(*_):
        raise RuntimeError("an operation that nobody knows")

    training.gradient.program = break_off
    with pytest.raises(ValueError, match=r"^torch\.compile cannot make one program of Real"):
        training.run()


def test_a_compiled_training_learns_as_one_of_autograd_does():
    torch._dynamo.reset()
    torch.manual_seed(1)
    rows = Split(
        torch.randn(300, 2, dtype=torch.float64) @ torch.tensor([[1.0, 2], [0, 1]]).double()
    )
    losses = []
    for asked in ("off", "on"):
        torch.manual_seed(2)
        flow = RealNVP(2, layers=2, hidden=(8,)).double().initialize(rows.x)
        options = TrainerOptions(batch_size=64, device="cpu", compile=asked)
        training = Training(
            flow,
            rows,
            rows,
            optimizer=OptimizerOptions(),
            options=options,
            seed=0,
            steps=40,
            every=20,
        )
        steps.choose_compile(training, Console(quiet=True))
        losses.append([row["val_nll"] for row in training.run().history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][1] < losses[0][0]

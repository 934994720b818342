"""Training's memory: what is stored or rebuilt, how that is chosen, and what the process keeps."""

import copy
import csv
import functools
import gc
import io
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import refused
from rich.console import Console
from torch import nn

import diffeo
from diffeo import Chain, Flow, Glow, RealNVP
from diffeo.cli import main
from diffeo.data import DataOptions, Split
from diffeo.run import train
from diffeo.training.loop import Training
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.training.processes import Processes
from diffeo.training.steps import activations, choose_memory
from diffeo.utils import machine as memory

QUIET = Console(quiet=True)
BATCH = 24


class Unchained(Flow):
    """Has no chain: constant memory means nothing to it."""

    def __init__(self, features):
        super().__init__(RealNVP(features).bijection[1], features)


def small(shape):
    return Glow(shape, levels=2, steps=2, hidden_channels=16)


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (BATCH, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(x)


def started(model, rows):
    return model.initialize(*rows.take(torch.arange(len(rows))))


def a_table():
    return RealNVP(3, layers=4, hidden=(32,)), Split(torch.randn(BATCH, 3))


def a_glow():
    return small((3, 8, 8)), images()


def training(flow, rows, asked="auto", batch_size=BATCH, precision=None, processes=1):
    options = TrainerOptions(memory=asked, batch_size=batch_size, device="cpu")
    return Training(
        flow,
        rows,
        None,
        optimizer=OptimizerOptions(),
        options=options,
        seed=0,
        precision=precision,
        processes=Processes(world=processes),
    )


def memories(flow):
    return {module.memory for module in flow.modules() if isinstance(module, Chain)}


# The estimate -------------------------------------------------------------------------------------


def reachable(node):
    """Bytes of all tensors that a graph holds, found by walking it; weights are left out."""
    seen, sizes, stack, weights = {}, {}, [node], set()
    while stack:
        item = stack.pop()
        if item is None or id(item) in seen or isinstance(item, (int, str, type, nn.Module)):
            continue
        seen[id(item)] = item  # held, or another would get its id
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            if isinstance(item, nn.Parameter):
                weights.add(storage.data_ptr())
            stack.append(item.grad_fn)
        elif isinstance(item, dict):
            # States of random numbers do not grow with the batch.
            stack += [value for name, value in item.items() if name != "random_states"]
        elif isinstance(item, (list, tuple)):
            stack += item
        elif hasattr(item, "next_functions"):
            stack += [function for function, _ in item.next_functions]
            names = [name for name in dir(item) if name.startswith("_saved_")]
            stack += [getattr(item, name) for name in names]
            stack += [item.__dict__] if hasattr(item, "__dict__") else []
            stack += item.saved_tensors if hasattr(item, "saved_tensors") else []
    return sum(size for place, size in sizes.items() if place not in weights)


@pytest.mark.parametrize("make", [a_table, a_glow])
@pytest.mark.parametrize("kind", ["stored", "constant"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_estimate_is_near_what_a_graph_holds(make, kind, precision):
    flow, rows = make()
    made = training(started(flow, rows).set_memory(kind).train(), rows, precision=precision)
    x, _ = rows.take(torch.arange(BATCH))
    held = reachable(flow.log_prob(x, generator=torch.Generator()).mean().grad_fn)
    assert held / 1.5 < activations(made) < 1.5 * held
    other = "constant" if kind == "stored" else "stored"
    assert activations(made, kind) == activations(made) != activations(made, other)


@pytest.mark.parametrize("make", [a_table, a_glow])
def test_the_estimate_grows_with_the_batch_from_what_is_stored_anyway(make):
    flow, rows = make()
    started(flow, rows)
    two, three, many = (activations(training(flow, rows, batch_size=n)) for n in (2, 3, 102))
    assert many == two + 100 * (three - two)
    assert 0 < three - two < two


def test_to_estimate_leaves_no_trace():
    flow, rows = a_glow()
    made = training(flow.eval(), rows)
    state, before = copy.deepcopy(flow.state_dict()), torch.get_rng_state()
    assert activations(made, "constant") > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert not flow.training
    assert memories(flow) == {"stored"}
    assert all(torch.equal(value, state[name]) for name, value in flow.state_dict().items())
    gc.collect()
    assert not any(parameter.grad.any() for parameter in flow.parameters())


def test_of_a_flow_that_cannot_be_tried_nothing_is_estimated():
    flow, rows = a_table()
    flow.bijection.register_forward_pre_hook(lambda *_: 1 / 0)
    assert activations(training(flow, rows)) == 0


def test_rows_that_are_too_few_are_repeated():
    flow = started(*a_table())
    assert activations(training(flow, Split(torch.randn(1, 3)))) > 0


# The choice ---------------------------------------------------------------------------------------


def settled(asked, free, monkeypatch, make=a_glow, processes=1):
    """The memory of the chains, and what was said."""
    message = io.StringIO()
    flow, rows = make()
    made = training(started(flow, rows), rows, asked, processes=processes)
    needs = activations(made)
    monkeypatch.setattr("diffeo.training.steps.free_memory", lambda _: free * needs)
    choose_memory(made, Console(file=message))
    return memories(flow), message.getvalue()


@pytest.mark.parametrize("make", [a_table, a_glow])
def test_auto_rebuilds_where_activations_need_more_than_half_of_what_is_free(monkeypatch, make):
    assert settled("auto", 2.01, monkeypatch, make) == ({"stored"}, "")
    chosen, message = settled("auto", 1.99, monkeypatch, make)
    assert chosen == {"constant"}
    assert message.count("\n") == 1
    assert "--trainer.memory stored keeps them" in message
    assert settled("auto", 2.01, monkeypatch, make, processes=2)[0] == {"constant"}


def test_what_is_asked_for_counts_more_than_what_is_free(monkeypatch):
    assert settled("stored", 0.01, monkeypatch) == ({"stored"}, "")
    assert settled("constant", 100, monkeypatch) == ({"constant"}, "")


def test_auto_leaves_what_a_model_has_chosen(monkeypatch):
    def make():
        flow, rows = a_glow()
        return flow.set_memory("constant"), rows

    assert settled("auto", 100, monkeypatch, make) == ({"constant"}, "")


def test_auto_says_nothing_where_nothing_would_be_spared(monkeypatch):
    monkeypatch.setattr("diffeo.training.steps.free_memory", lambda _: 1.0)
    message = io.StringIO()
    made = training(Unchained(3), Split(torch.randn(BATCH, 3)))
    assert activations(made) > 1
    choose_memory(made, Console(file=message))
    assert message.getvalue() == ""


def test_the_memory_is_reported_in_words(monkeypatch):
    monkeypatch.setattr("diffeo.training.steps.free_memory", lambda _: 20e9)
    figures = {None: 31e9, "constant": 5e8}
    monkeypatch.setattr(
        "diffeo.training.steps.activations", lambda training, memory=None: figures[memory]
    )
    message = io.StringIO()
    choose_memory(training(*a_glow()), Console(file=message))
    assert message.getvalue().startswith(
        "The activations of a batch would take 31.0 GB of the 20.0 GB that are free: they are "
    )


# The option ---------------------------------------------------------------------------------------


def test_the_option_is_in_the_config_and_refuses_other_words(capsys):
    small_run = ["--data=moons", "--data.rows=300", "--trainer.max_epochs=1"]
    assert main(["train", *small_run, "--trainer.memory=constant", "--out=run"]) == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["memory"] == "constant"
    refused(["train", "--trainer.memory=half", "--out=no"], capsys, "half", "auto", "constant")
    assert not Path("no").exists()
    with pytest.raises(ValueError, match="memory is 'half': choose one of auto, stored, constant"):
        TrainerOptions(memory="half")


@pytest.mark.parametrize(("asked", "taken"), [("auto", "constant"), ("stored", "stored")])
def test_training_settles_its_memory_and_keeps_what_it_frees(tmp_path, monkeypatch, asked, taken):
    monkeypatch.setattr("diffeo.training.steps.free_memory", lambda _: 1.0)
    saved, flows, message = [], [], io.StringIO()
    monkeypatch.setattr("diffeo.run.learning.keep_freed_memory", lambda: saved.append(True))
    train(
        lambda features: flows.append(RealNVP(features, layers=4, hidden=(8,))) or flows[0],
        DataOptions("moons", rows=300),
        tmp_path / "run",
        trainer=TrainerOptions(max_epochs=1, figure_every=9, device="cpu", memory=asked),
        console=Console(file=message, width=400),
    )
    assert memories(flows[0]) == {taken}
    assert ("--trainer.memory stored keeps them" in message.getvalue()) == (taken == "constant")
    assert saved == [True]


def learned(folder, make, data, kind, **changes):
    options = {"max_epochs": 3, "batch_size": 50, "figure_every": 100, "device": "cpu"}
    train(
        make,
        DataOptions(data, rows=300),
        folder,
        precision="float32",
        trainer=TrainerOptions(**(options | {"memory": kind} | changes)),
        console=QUIET,
        resume=(folder / "config.yaml").exists(),
    )
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(value) for row in rows for name, value in row.items() if name[-3:] != "lr"]


MODELS = [(small, "digits"), (functools.partial(RealNVP, layers=4, hidden=(32,)), "moons")]


@pytest.mark.parametrize(("make", "data"), MODELS)
def test_constant_memory_learns_the_same(tmp_path, make, data):
    stored = learned(tmp_path / "stored", make, data, "stored")
    constant = learned(tmp_path / "constant", make, data, "constant")
    assert constant == pytest.approx(stored, rel=1e-4)


def test_a_run_with_constant_memory_goes_on_after_it_was_stopped(tmp_path, monkeypatch):
    make, data = MODELS[1]
    whole = learned(tmp_path / "whole", make, data, "constant")

    def stop(self, batches):
        if self.epoch == 2:
            raise KeyboardInterrupt
        learn(self, batches)

    learn = Training._run_epoch
    with monkeypatch.context() as patched:
        patched.setattr(Training, "_run_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            learned(tmp_path / "run", make, data, "constant")
    assert learned(tmp_path / "run", make, data, "constant") == pytest.approx(whole, rel=1e-6)


# The machine --------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8,000 kB, whose files may be written."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\nHuge: 0\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    (tmp_path / "memory").mkdir()
    return tmp_path


def test_free_is_the_least_of_the_machine_and_the_limits_of_its_groups(machine):
    assert memory.free_memory("cpu") == 8000 * 1024
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.current").write_text("500000\n")
    (machine / "memory.stat").write_text("anon 400000\ninactive_file 100000\n")
    assert memory.free_memory("cpu") == 8000 * 1024
    (machine / "memory.max").write_text("600000\n")
    assert memory.free_memory("cpu") == 200_000
    (machine / "memory/memory.limit_in_bytes").write_text("300000\n")
    (machine / "memory/memory.usage_in_bytes").write_text("250000\n")
    (machine / "memory/memory.stat").write_text("inactive_file 9\ntotal_inactive_file 50000\n")
    assert memory.free_memory("cpu") == 100_000
    (machine / "memory/memory.usage_in_bytes").write_text("900000\n")
    assert memory.free_memory("cpu") == 0


def test_without_linux_files_the_system_is_asked(machine, monkeypatch):
    (machine / "meminfo").unlink()
    asked = {"SC_AVPHYS_PAGES": 7, "SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", asked.__getitem__, raising=False)
    monkeypatch.setattr(memory.os, "sysconf_names", asked, raising=False)
    assert memory.free_memory("cpu") == 7 * 4096
    del asked["SC_AVPHYS_PAGES"]
    assert memory.free_memory("cpu") == 10 * 4096
    monkeypatch.delattr(memory.os, "sysconf_names")
    assert memory.free_memory("cpu") == float("inf")


def test_a_gpu_has_what_its_driver_and_torch_hold_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    assert memory.free_memory("cuda:0") == 1200


class Library:
    """A C library that notes how its allocator is set."""

    def __init__(self):
        self.calls = []

    def mallopt(self, parameter, value):
        self.calls.append((parameter, value))
        return 1


@pytest.fixture
def library(monkeypatch):
    made = Library()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: made)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    for name in [name for name in memory.os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return made


def test_freed_memory_is_held_where_the_c_library_can(library, monkeypatch):
    assert memory.keep_freed_memory()
    assert library.calls == [(-1, -1), (-4, 0)]
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_freed_memory()


HOLES = """
from pathlib import Path
from diffeo.utils.machine import return_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytes(100_000) for _ in range(2_000)]
del blocks[:-1]  # the last one keeps the heap as long as it is
before = held()
assert return_freed_memory()
print(before - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_server_gives_freed_memory_back():
    source = str(Path(diffeo.__file__).parents[1])  # of the diffeo that is under test
    done = subprocess.run(
        [sys.executable, "-c", HOLES],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 1e8


def test_without_glibc_nothing_is_given_back(library):
    assert not memory.return_freed_memory()


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1000"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=9")],
)
def test_an_allocator_that_the_user_has_set_stays_so(library, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not memory.keep_freed_memory()
    assert library.calls == []


def test_elsewhere_than_on_linux_no_library_is_asked(library, monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "win32")
    assert not memory.keep_freed_memory()
    assert library.calls == []


def test_this_machine_tells_how_much_is_free_and_takes_the_call():
    """In a process of its own, whose allocator may change."""
    code = (
        "from diffeo.utils import machine as m; print(m.free_memory('cpu'), m.keep_freed_memory())"
    )
    source = str(Path(diffeo.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    free, saved = done.stdout.split()
    assert float(free) > 1e6
    assert saved in ("True", "False")

"""Numbers that overflow: in the data, in the weights, in the networks. None of them is saved."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from .commands import Ended, run
from .promises import Observation, Promise

QUICK = ["--trainer.max_epochs=3", "--trainer.batch_size=100", "--trainer.figure_every=100"]
MOONS = "--data=moons --data.rows=1000"
GLOW = "--data=digits --data.rows=300 --model.levels=2 --model.steps=2 --model.hidden_channels=8"
LAYER = re.compile(r"bijection(\.\w+)+")
# A model of which one coupling goes astray, as `--model astray.Broken` imports it.
ASTRAY = """
import math
import diffeo

def broken(base):
    class Broken(base):
        def __init__(self, size, place=0, how="overflow", **options):
            super().__init__(size, **options)
            couplings = [m for m in self.modules() if type(m).__name__ == "Coupling"]
            net = couplings[place].conditioner
            if how == "weight":
                [*net.parameters()][2].data.view(-1)[0] = math.nan
            elif how == "overflow":
                for parameter in [*net.parameters()][-2:]:
                    parameter.data.fill_(3e38)
            else:  # zero is added, the gradient of which is not finite
                net.register_forward_hook(lambda net, x, y: y + (y - y).abs().sqrt())
    return Broken

Broken, Loud = broken(diffeo.RealNVP), broken(diffeo.Glow)
Broken.__qualname__, Loud.__qualname__ = Broken.__name__, Loud.__name__ = "Broken", "Loud"
"""


class Case(NamedTuple):
    name: str
    words: str
    home: Path
    layer: str = ""  # that the sentence must name


def train(case: Case) -> tuple[Ended, list[str]]:
    """How it ended, and which of its files hold a number that is not finite."""
    case.home.mkdir(parents=True, exist_ok=True)
    (case.home / "astray.py").write_text(ASTRAY)
    rows = np.random.default_rng(0).normal(size=(300, 3)) * (1, 1e30, 1e-30)
    np.savetxt(case.home / "t.csv", rows, "%.9g", ",", header="a,b,c", comments="")
    done = run(["train", *case.words.split(), "--out=run", "--seed=0", *QUICK], case.home)
    bad = []
    for path in (*case.home.rglob("*.safetensors"), *case.home.rglob("*.ckpt*")):
        load = load_file if path.suffix == ".safetensors" else torch.load
        if not all(bool(tensor.isfinite().all()) for tensor in tensors(load(path))):
            bad.append(f"{case.name}: {path.name} is not finite")
    return done, bad


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)


def astray(folder: Path, sample: bool) -> list[Case]:
    tables = itertools.product(("RealNVP", "NICE", "TableFlow"), ("10", "1e3", "1e30"))
    words = [f"--model={model} {MOONS} --optimizer.lr={rate}" for model, rate in tables]
    words += [f"--model=RealNVP --data=t.csv --data.columns=a,{column}" for column in "bc"]
    for more in ("", " --precision=bf16", " --trainer.memory=constant"):
        words.append(f"--model=Glow {GLOW} --optimizer.lr=10{more}")
        words.append(f"--model=astray.Loud {GLOW}{more}")
    words.append(f"--model=Glow {GLOW} --model.lu=false --optimizer.lr=1e4")
    every = [Case(line, line, folder / f"{i}") for i, line in enumerate(words)]
    return every[::6] if sample else every


def endure(case: Case) -> Observation:
    done, wrong = train(case)
    named = done.status == 2 and LAYER.search(done.sentence)
    if not named and (done.status or not (case.home / "run/model").is_dir()):
        wrong.append(f"{case.name}: {done}")
    return Observation("ended early" if done.status else "ended with a model", wrong)


def layers(folder: Path, sample: bool) -> list[Case]:
    import diffeo

    modules = diffeo.RealNVP(2).named_modules()
    names = [name for name, module in modules if type(module).__name__ == "Coupling"]
    hows, memories = ("weight", "overflow", "gradient"), ("stored", "constant")
    every = []
    for i, how, memory in itertools.product(range(len(names)), hows, memories):
        words = f"--model=astray.Broken --model.place={i} --model.how={how} --detect_anomaly"
        words += f" --trainer.memory={memory} {MOONS}"
        every.append(Case(how, words, folder / f"{i}-{how}-{memory}", names[i]))
    return every[7::20] if sample else every


def name_layer(case: Case) -> Observation:
    done, wrong = train(case)
    found = LAYER.search(done.sentence)
    right = done.status == 2 and found is not None and f"{found[0]}.".startswith(f"{case.layer}.")
    if not right or "step 0 of epoch 0" not in done.sentence or (case.home / "run/model").exists():
        wrong.append(f"{case.layer}: {done}")
    return Observation(f"broken by its {case.name}", wrong)


TABLE = (
    ("Trainings with rates up to 1e30, columns of 1e30, overflowing layers",
     "all that is saved is finite; a run that ends early names the layer", astray, endure),
    ("A layer broken on purpose, and `--detect_anomaly`",
     "that layer is named in the first step, and no model is saved", layers, name_layer),
)  # fmt: skip
PROMISES = [Promise(*row) for row in TABLE]

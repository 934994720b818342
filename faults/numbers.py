"""Numbers that overflow: in the data, the weights, the networks; and latents far out.

Trainings are those of the command line, called in this process; what they leave is read again and
looked through number by number.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

import diffeo
from diffeo.cli import main
from faults.outcomes import Outcome

TESTS = Path(__file__).resolve().parents[1] / "tests"
ROWS, PICTURES = 1_000_000, 10_000
QUICK = ["--trainer.max_epochs=3", "--trainer.batch_size=100", "--trainer.figure_every=100"]
DIGITS = ["--data=digits", "--data.rows=300"]
SMALL_GLOW = ["--model.levels=2", "--model.steps=2", "--model.hidden_channels=8"]
SMALL_REALNVP = ["--model.scales=2", "--model.blocks=1", "--model.hidden_channels=8"]
LAYER = re.compile(r"bijection(\.\w+)+ \(\w+\)|the layer bijection(\.\w+)+")
# Models that go astray at once, as `--model astray.NAME` imports them.
ASTRAY = """
import math
import torch
import diffeo


class Singular(diffeo.Glow):
    def __init__(self, image_shape, log_s=-200.0, **options):
        super().__init__(image_shape, **options)
        for module in self.modules():
            if hasattr(module, "log_s"):
                module.lower.data.zero_()
                module.log_s.data[-1] = log_s


class Loud(diffeo.Glow):
    def __init__(self, image_shape, bias=3.4e38, **options):
        super().__init__(image_shape, **options)
        self.bijection[1][2].conditioner.last.bias.data.fill_(bias)


class Broken(diffeo.RealNVP):
    def __init__(self, features, place=0, how="weight", **options):
        super().__init__(features, **options)
        net = self.bijection[place].conditioner
        if how == "weight":
            net.layers[2].weight.data[0, 0] = math.nan
        elif how == "overflow":
            net.layers[-1].bias.data.fill_(3e38)
            net.layers[-1].weight.data.fill_(3e38)
        else:
            net.layers[-1].weight.register_hook(lambda gradient: gradient * math.nan)
"""


def attempt(folder: Path, sample: bool) -> Iterator[Outcome]:
    """Extreme data, learning rates and weights; broken layers; samples, and latents far out."""
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(TESTS)]
    torch.set_num_threads(1)
    Path("astray.py").write_text(ASTRAY)
    yield _refused()
    yield _endured(sample)
    yield _kept()
    yield _found(sample)
    models = dict(_models(sample))
    yield _sampled(models, sample)
    yield _far_out(models)
    yield _far_rows(models)


# Training -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, its last line of errors, and all that it warned of."""

    status: int | None
    sentence: str
    warned: str


def _command(*words: str) -> Ended:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        warnings.simplefilter("always")
        try:
            status: int | None = main(words)
        except BaseException as error:  # what no user is to see
            return Ended(None, f"{type(error).__name__}: {error}", errors.getvalue())
    *before, last = errors.getvalue().strip().splitlines() or [""]
    return Ended(status, last, "\n".join(before))


def _unsound(run: Path) -> list[str]:
    """The files of a run that hold a number that is not finite, or that cannot be read."""
    bad = []
    for path in sorted((*run.rglob("*.safetensors"), *run.rglob("*.ckpt*"))):
        try:
            state: Any = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, weights_only=True)
            )
            if not all(tensor.isfinite().all() for tensor in _tensors(state)):
                bad.append(path.name)
        except Exception as error:
            bad.append(f"{path.name} ({error})")
    return bad


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _tensors(part)


def _said_well(ended: Ended) -> bool:
    said = ended.sentence
    return ended.status == 2 and said.startswith("diffeo: ") and said.endswith(".")


def _table(name: str, column: Sequence[float] | np.ndarray) -> str:
    table = np.random.default_rng(0).normal(size=(300, 3))
    table[:, 1] = column
    path = Path(f"{name}.csv")
    pd.DataFrame(table, columns=list("abc")).to_csv(path, index=False, float_format="%.9g")
    return f"--data={path}"


def _refused() -> Outcome:
    """Tables that hold no density, or none in float32."""
    usual = np.random.default_rng(1).normal(size=300)
    columns = {
        "nan": np.where(np.arange(300) == 7, np.nan, usual),
        "inf": np.where(np.arange(300) == 7, np.inf, usual),
        "1e39": np.where(np.arange(300) == 7, 1e39, usual),
        "constant": np.full(300, 3.0),
        "1e9": usual + 1e9,
        "denormal": usual * 1e-43,
    }
    lost = []
    for name, column in columns.items():
        run = Path(f"no-{name}")
        ended = _command("train", _table(name, column), f"--out={run}", *QUICK)
        if ended.status != 2 or "column 'b'" not in ended.sentence or run.exists():
            lost.append(f"{name}: {ended.sentence}")
    return Outcome(
        "Columns with NaN, infinity, 1e39, one value, or a spread below float32's",
        len(columns),
        len(lost),
        f"each refused by its name, nothing written{_failed(lost)}",
    )


def _endured(sample: bool) -> Outcome:
    """Trainings that overflow somewhere, or may."""
    usual = np.random.default_rng(1).normal(size=300)
    order = np.random.default_rng(0).permutation(300)

    def outlier(size: float, row: int) -> np.ndarray:
        return np.where(np.arange(300) == row, size, usual)

    def digits(model: str, *words: str) -> list[str]:
        small = SMALL_REALNVP if model == "ImageRealNVP" else SMALL_GLOW
        return [f"--model={model}", *DIGITS, *small, *words]

    for value in (0, 255):
        blank = np.full((120, 8, 8, 1), value, dtype=np.uint8)
        blank[:, 0, 0] = np.arange(120)[:, None] % 2
        np.save(f"all-{value}.npy", blank)
    moons = ["--data=moons", "--data.rows=1000"]
    tables = ("RealNVP", "NICE", "diffeo.TableFlow")
    cases: dict[str, list[str]] = {}
    for model, lr in itertools.product(tables, ("10", "1e3", "1e30")):
        cases[f"{model} {lr}"] = [f"--model={model}", *moons, f"--optimizer.lr={lr}"]
    for model, lr in itertools.product(("Glow", "ImageRealNVP"), ("10", "1e3")):
        cases[f"{model} {lr}"] = digits(model, f"--optimizer.lr={lr}")
    cases["Glow 10, bfloat16"] = digits("Glow", "--optimizer.lr=10", "--precision=bf16")
    cases["Glow 10, constant"] = digits("Glow", "--optimizer.lr=10", "--trainer.memory=constant")
    for scale in (1e30, 1e-30):
        cases[f"column of {scale:g}"] = [_table(f"{scale:g}", usual * scale)]
    for size, row in itertools.product((1e12, 1e30), (order[0], order[250], order[290])):
        cases[f"outlier {size:g} in {row}"] = [_table(f"{size:g}-{row}", outlier(size, row))]
    for value in (0, 255):
        cases[f"pictures of {value}"] = ["--model=Glow", f"--data=all-{value}.npy", *SMALL_GLOW]
    cases["singular"] = digits("astray.Singular")
    cases["singular, constant"] = digits("astray.Singular", "--trainer.memory=constant")
    cases["ill-conditioned"] = digits("astray.Singular", "--model.log_s=-14")
    cases["singular weight"] = digits("Glow", "--model.lu=false", "--optimizer.lr=1e4")
    cases["overflow in bfloat16"] = digits("astray.Loud", "--precision=bf16")
    if sample:
        cases = {name: cases[name] for name in list(cases)[::6]}
    lost, models, named = [], 0, 0
    for i, (name, words) in enumerate(cases.items()):
        run = Path(f"run-{i}")
        ended = _command("train", *words, f"--out={run}", "--seed=0", *QUICK)
        if _unsound(run):
            lost.append(f"{name}: {_unsound(run)}")
        elif ended.status == 0:
            models += 1
            lost += [] if (run / "model").is_dir() else [name]
        elif _said_well(ended) and LAYER.search(ended.sentence):
            named += 1
        else:
            lost.append(f"{name}: {ended.sentence}")
    return Outcome(
        "Trainings with a rate up to 1e30, columns of 1e30, outliers, singular matrices, "
        "overflowing networks",
        len(cases),
        len(lost),
        f"{models} ended with a model, {named} with a sentence that names the layer; all that they "
        f"wrote is finite{_failed(lost)}",
    )


def _kept() -> Outcome:
    """A good run that is gone on with by a learning rate that ruins it."""
    lost, tries = [], 0
    runs = {"moons": ["--data=moons", "--data.rows=1000"], "digits": ["--model=Glow", *DIGITS]}
    for name, words in runs.items():
        small = SMALL_GLOW if name == "digits" else []
        _command("train", *words, *small, f"--out={name}", *QUICK)
        files = (*Path(name).rglob("*.ckpt"), *Path(name).rglob("*.safetensors"))
        kept = {path: path.read_bytes() for path in files}
        more = ["--trainer.max_epochs=9", "--optimizer.lr=1e30", "--optimizer.schedule=constant"]
        ended = _command("train", "--resume", name, *more)
        tries += 1
        good = _said_well(ended) and "last good checkpoint" in ended.sentence and len(kept) == 4
        if not good or any(path.read_bytes() != held for path, held in kept.items()):
            lost.append(f"{name}: {ended.sentence}")
    return Outcome(
        "Good runs resumed with a learning rate of 1e30",
        tries,
        len(lost),
        f"their checkpoints and models are byte for byte as before{_failed(lost)}",
    )


def _found(sample: bool) -> Outcome:
    """Layers broken on purpose, looked for with `--detect_anomaly`."""
    hows, memories = ("weight", "overflow", "gradient"), ("stored", "constant")
    cases = list(itertools.product(range(1, 9), hows, memories))[:: 11 if sample else 1]
    lost = []
    for place, how, memory in cases:
        words = ["--model=astray.Broken", f"--model.place={place}", f"--model.how={how}"]
        words += ["--data=moons", "--data.rows=300", f"--trainer.memory={memory}", *QUICK]
        run = Path(f"broken-{place}-{how}-{memory}")
        ended = _command("train", *words, f"--out={run}", "--detect_anomaly")
        layer = LAYER.search(ended.sentence)
        right = layer is not None and layer[0].startswith(f"bijection.links.{place}.conditioner")
        good = _said_well(ended) and right and "step 0 of epoch 0" in ended.sentence
        if not good or _unsound(run) or (run / "model").exists():
            lost.append(f"{run}: {ended.sentence}")
    return Outcome(
        "Layers broken on purpose, looked for by `--detect_anomaly`",
        len(cases),
        len(lost),
        f"in the first step, {len(cases) - len(lost)} times the right one{_failed(lost)}",
    )


# Sampling -----------------------------------------------------------------------------------------


def _models(sample: bool) -> Iterator[tuple[str, diffeo.Flow]]:
    """Each model of the test suite, each class trained shortly, and the one that ships; loaded."""
    import constructors  # of the tests

    trained = {
        "Glow": ["--model=Glow", *DIGITS, *SMALL_GLOW],
        "TableFlow": ["--model=diffeo.TableFlow", "--data=wine"],
        "RealNVP": ["--model=RealNVP", "--data=moons", "--data.rows=5000"],
        "NICE": ["--model=NICE", "--data=iris"],
        "ImageRealNVP": ["--model=ImageRealNVP", *DIGITS, *SMALL_REALNVP],
        "NICE of pictures": ["--model=NICE", *DIGITS],
    }

    for name, entry in list(constructors.MODELS.items())[:: 6 if sample else 1]:
        flow = entry.ready(torch.float32)
        flow.save_pretrained(Path("saved") / name)
        yield name, diffeo.Flow.from_pretrained(Path("saved") / name)
    for name, words in list(trained.items())[: 1 if sample else None]:
        out = f"trained-{name}"
        ended = _command("train", *words, f"--out={out}", *QUICK)
        if ended.status != 0:
            raise RuntimeError(f"{name} did not train: {ended.sentence}")
        yield f"trained {name}", diffeo.Flow.from_pretrained(out)
    yield "mnist", diffeo.load("mnist")


def _context(flow: diffeo.Flow, n: int) -> Tensor | None:
    if not flow.context_features:
        return None
    return torch.eye(flow.context_features)[torch.arange(n) % flow.context_features]


def _decoded(flow: diffeo.Flow, z: Tensor) -> Tensor:
    """What latents become before pixels are made of it, which would be some pixel in any case."""
    context = _context(flow, len(z))
    with torch.no_grad():
        if flow.context_encoder is not None and context is not None:
            context, _ = flow.context_encoder(context)
        return flow.bijection.inverse(z, context)[0]


def _sampled(models: dict[str, diffeo.Flow], sample: bool) -> Outcome:
    share, drawn, lost, start = 100 if sample else 1, 0, [], time.perf_counter()
    for name, flow in models.items():
        left = (PICTURES if flow.takes_pixels else ROWS) // share
        generator = torch.Generator().manual_seed(0)
        good = True
        while left:
            count = min(left, 8 * flow.chunk if flow.dims < 100 else 128)
            good &= bool(_decoded(flow, flow.noise(count, generator)).isfinite().all())
            left, drawn = left - count, drawn + count
        lost += [] if good else [name]
    return Outcome(
        f"Models that draw {ROWS // share:,} rows or {PICTURES // share:,} pictures each",
        len(models),
        len(lost),
        f"{drawn:,} events, each finite, in {time.perf_counter() - start:.0f} s{_failed(lost)}",
    )


def _far_latents(dims: int, radius: float) -> Tensor:
    """All coordinates that far out, each alone (or 200 of them), and random directions."""
    generator = torch.Generator().manual_seed(0)
    alone = torch.eye(dims)[torch.randperm(dims, generator=generator)[:200]]
    signs = torch.randint(0, 2, (200, dims), generator=generator) * 2.0 - 1
    drawn = torch.randn(200, dims, generator=generator)
    drawn = drawn / drawn.abs().amax(1, keepdim=True)
    every = torch.ones(1, dims)
    return radius * torch.cat((every, -every, alone, -alone, signs, drawn))


def _far_out(models: dict[str, diffeo.Flow]) -> Outcome:
    tries, lost, largest = 0, [], 0.0
    for name, flow in models.items():
        for part in _far_latents(flow.dims, 8.0).split(128):
            x = _decoded(flow, part)
            tries += len(part)
            largest = max(largest, float(x.abs().max()) if not flow.takes_pixels else 0.0)
            lost += [name] * int((~x.flatten(1).isfinite().all(1)).sum())
    return Outcome(
        "Latents with coordinates at 8 standard deviations: all, one, random ones",
        tries,
        len(lost),
        f"each finite when decoded, in tables up to {largest:.2g}{_failed(sorted({*lost}))}",
    )


def _far_rows(models: dict[str, diffeo.Flow]) -> Outcome:
    tries, lost = 0, []
    for name, flow in models.items():
        if flow.takes_pixels:
            continue
        usual = flow.sample(50, _context(flow, 50), generator=torch.Generator().manual_seed(0))
        for far in (1e6, 1e20, 1e37):
            with torch.no_grad():
                found = flow.log_prob(usual.clamp(-3, 3) * far, _context(flow, 50))
            tries += 50
            lost += [name] * int((found.isnan() | (found > -math.log(far))).sum())
    return Outcome(
        "Rows 1e6, 1e20 and 1e37 times as far out as data",
        tries,
        len(lost),
        f"a log-density that is low or -inf, and no NaN{_failed(sorted({*lost}))}",
    )


def _failed(names: Sequence[str]) -> str:
    return f"; but not {'; '.join(names)}" if names else ""

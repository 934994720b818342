"""Train a flow and fill a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import inspect
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from torch import Generator, Tensor

from diffeo.data import SPLITS, Augment, Data, DataOptions, Images, augment, load_data, size_of
from diffeo.evaluation.likelihood import evaluate
from diffeo.evaluation.scores import Reference
from diffeo.flow import Flow
from diffeo.models.image_realnvp import ImageRealNVP
from diffeo.models.realnvp import RealNVP
from diffeo.run.drawing import draw_run, painter
from diffeo.run.folder import Run
from diffeo.training.checkpoints import BEFORE, LAST, epochs_in
from diffeo.training.fit import fit
from diffeo.training.options import TrainerOptions, limit_threads
from diffeo.training.processes import is_first, launched
from diffeo.training.steps import OptimizerOptions
from diffeo.utils.config import public_name, to_config
from diffeo.utils.files import atomic_write
from diffeo.utils.precision import Precision, networks_dtype

ModelFactory = Callable[[Any], Flow]
# Below this, a flow of the default size overfits whatever it is told.
FEW_ROWS = 200
# What the system says where there is no room: on the disk, of the user's share, for a file.
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}


def train(
    model: ModelFactory | None = None,
    data: DataOptions | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    precision: Precision = "auto",
    optimizer: OptimizerOptions | None = None,
    trainer: TrainerOptions | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a flow by maximum likelihood, and fill a run folder.

    Args:
        model: makes the flow from the number of features, or from the (C, H, W) of pictures: a
            model class, or `functools.partial(RealNVP, layers=12)`. By default `RealNVP`, and
            `ImageRealNVP` for pictures.
        data: what to learn; moons by default, or digits for a model of pictures.
        out: the run folder; by default the first free one of runs/NAME, runs/NAME-2 and so on.
        seed: of the first weights and the order of the batches. The split has its own.
        precision: of the networks while they learn: "bf16" for bfloat16, "float32", or "auto" (see
            `diffeo.utils.precision`); what is validated and saved is float32.
        optimizer: how the weights are learned.
        trainer: how long, and on which machines.
        resume: go on from the last checkpoint in `out`, or start anew where there is none.
        console: where to report.

    Returns:
        The run folder.

    Raises:
        ValueError: if the data, the model, the folder or the precision cannot be used; nothing is
            written then. Or if the disk is full or all checkpoints are damaged; what was reached
            stays.
        KeyboardInterrupt: if it is stopped; it says how to go on.
    """
    networks_dtype(precision)
    options = data or DataOptions()
    if not options.source:
        options = dataclasses.replace(options, source=default_source(model))
    optimizer = optimizer or OptimizerOptions()
    trainer = launched(trainer or TrainerOptions())
    # With several processes, the first alone writes and speaks.
    first = is_first()
    console = console if console and first else Console(quiet=not first)
    limit_threads()
    loaded = load_data(options, console)
    torch.manual_seed(seed)
    flow = build(model, loaded)
    folder = Path(out) if out is not None else _free_folder(loaded.name)
    settings = {
        "model": {"class_path": public_name(type(flow)), "init_args": _chosen(flow, loaded)},
        "data": dataclasses.asdict(options),
        "seed": seed,
        "precision": precision,
        "optimizer": dataclasses.asdict(optimizer),
        "trainer": dataclasses.asdict(trainer),
    }
    with contextlib.ExitStack() as held:
        if first:
            held.enter_context(_claimed(folder, settings, resume))
        held.enter_context(_telling_how_to_go_on(folder))
        for line in _introduction(flow, loaded):
            console.print(line, highlight=False, soft_wrap=True)
        seconds = fit(
            flow,
            loaded.train,
            loaded.val,
            folder,
            seed=seed,
            optimizer=optimizer,
            options=trainer,
            precision=precision,
            draw=painter(loaded, folder / "figures", trainer.temperature),
            augment=_augmentation(options),
            resume=resume,
            console=console,
        )
        if first:
            gpu = trainer.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
            device = "cuda" if gpu else "cpu"
            _finish(folder, loaded, seconds, trainer.temperature, device, console)
    return folder


def default_source(model: ModelFactory | None) -> str:
    """What to learn if the user does not say: moons, or digits for a model of pictures."""
    # A partial, and one that jsonargparse made, holds the class among its parts.
    parts = (model, getattr(model, "func", None), *getattr(model, "args", ()))
    for part in parts:
        if inspect.isclass(part) and issubclass(part, Flow):
            return "digits" if "image_shape" in inspect.signature(part).parameters else "moons"
    return "moons"


def build(model: ModelFactory | None, data: Data) -> Flow:
    """Make the flow for some data, with what `score` and `sample` need to know of them.

    Raises:
        ValueError: if the model cannot be made for them.
    """
    needs = _needs(data)
    if isinstance(data, Images):
        model = model or ImageRealNVP
        event: Any = data.shape
        what = f"pictures of (channels, height, width) = {data.shape}"
        metadata: dict[str, Any] = {"size": data.options.size, "labels": data.label_names}
    else:
        model = model or RealNVP
        event, what = data.features, f"{data.features} columns"
        metadata = {"columns": data.columns}
    try:
        flow = model(event, **needs)
    except TypeError as error:
        known = " and ".join(["", *needs]) if needs else ""
        raise ValueError(f"the model cannot be made for {what}{known}: {error}.") from error
    if flow.takes_pixels != isinstance(data, Images):
        raise ValueError(
            f"{type(flow).__name__} does not model {what}: choose another model by --model."
        )
    if flow.context_features != data.context.width:
        raise ValueError(
            f"{type(flow).__name__} wants {flow.context_features} columns of context and "
            f"{data.name} has {data.context.width}: name them by --data.context."
        )
    flow.metadata = {"data": data.name, **metadata}
    return flow


def _needs(data: Data) -> dict[str, Any]:
    """What a model is told about the data beside their shape."""
    needs: dict[str, Any] = {}
    if data.context:
        needs["context"] = data.context
    if not isinstance(data, Images) and any(data.steps):
        needs["steps"] = data.steps
    return needs


def _augmentation(options: DataOptions) -> Augment | None:
    if not options.flip and not options.shift:
        return None

    def change(x: Tensor, generator: Generator) -> Tensor:
        return augment(x, options.flip, options.shift, generator)

    return change


def _introduction(flow: Flow, data: Data) -> list[str]:
    """What a user should know before training begins."""
    lines = [*data.notes]
    unit = "pictures" if isinstance(data, Images) else "rows"
    if len(data.train) < FEW_ROWS:
        lines.append(
            f"{data.name} has only {len(data.train)} {unit} to learn from: expect a model that "
            "knows them by heart, and mind its standard error."
        )
    if isinstance(data, Images):
        what = f"{data.name}, {size_of(data.shape)},"
    else:
        what = f"{data.features} columns of {data.name}"
    lines.append(
        f"{type(flow).__name__}, {sum(p.numel() for p in flow.parameters()):,} weights, "
        f"learns {what} from {len(data.train):,} {unit} "
        f"({len(data.val):,} to validate, {len(data.test):,} to test)."
    )
    return lines


def _chosen(flow: Flow, data: Data) -> dict[str, Any]:
    """The arguments that the user chose; the others follow from the data."""
    first, *_ = flow.arguments
    return {
        name: _as_setting(to_config(value))
        for name, value in flow.arguments.items()
        if name not in {first, *_needs(data)}
    }


def _as_setting(tree: Any) -> Any:
    """A tree of `to_config` in the words of the command line."""
    if isinstance(tree, list):
        return [_as_setting(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    name = tree.get("class") or tree["partial"]
    arguments = {key: _as_setting(value) for key, value in tree["arguments"].items()}
    # jsonargparse finds classes of diffeo's by their names alone.
    return {"class_path": name.removeprefix("diffeo."), "init_args": arguments}


def _free_folder(name: str) -> Path:
    slug = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    folder = Path("runs") / slug
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{slug}-{number}"
    return folder


@contextlib.contextmanager
def _claimed(folder: Path, settings: dict[str, Any], resume: bool) -> Iterator[None]:
    """Take the folder for this run, and for none beside it, by writing its settings there."""
    config = folder / "config.yaml"
    if config.exists() and not resume:
        raise ValueError(
            f"{folder} already holds a run: go on with it by --resume {folder}, "
            "or choose another folder by --out."
        )
    # What begins with a dot may be of a run that was killed before it had begun.
    others = [path for path in folder.glob("*") if not path.name.startswith(".")]
    if others and not resume:
        raise ValueError(f"{folder} is not empty: choose another folder by --out.")
    lock = FileLock(folder / ".lock", timeout=0)
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # However a process ends, the system takes its lock away.
            held.enter_context(lock)
            for partial in folder.rglob(".*.partial.*"):
                partial.unlink()
            splits = settings["data"] | {"splits": list(settings["data"]["splits"])}
            text = yaml.safe_dump(settings | {"data": splits}, sort_keys=False, allow_unicode=True)
            with atomic_write(config) as partial:
                partial.write_text(text, encoding="utf-8")
        except Timeout as error:
            raise ValueError(
                f"another process trains in {folder}: wait until it ends, or choose another folder "
                "by --out."
            ) from error
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be written ({error.strerror}): choose another folder by --out."
            ) from error
        yield


@contextlib.contextmanager
def _telling_how_to_go_on(folder: Path) -> Iterator[None]:
    """One sentence for a run that is stopped, and for one whose files cannot be written."""
    command = shlex.join(["diffeo", "train", "--resume", str(folder)])
    try:
        yield
    except KeyboardInterrupt as error:
        epochs = _epochs_kept(folder)
        if not epochs:
            kept = f"stopped before the first epoch was over: {command} starts anew."
        else:
            range_ = "epoch 1 is" if epochs == 1 else f"epochs 1 to {epochs} are"
            kept = f"stopped: {range_} saved, and {command} goes on from there."
        raise KeyboardInterrupt(kept) from error
    except OSError as error:
        if error.errno is None:
            raise
        remedy = "make room" if error.errno in FULL else "mend that"
        raise ValueError(
            f"{error.filename or folder} cannot be written ({error.strerror}): {remedy}, then "
            f"{command} goes on."
        ) from error


def _epochs_kept(folder: Path) -> int | None:
    checkpoints = folder / "checkpoints"
    return epochs_in(checkpoints / LAST) or epochs_in(checkpoints / BEFORE)


def _finish(
    folder: Path, data: Data, seconds: float, temperature: float, device: str, console: Console
) -> None:
    """Evaluate the best model, tell it what is usual, draw it, and say where everything is."""
    run = Run(folder)
    flow = run.flow.to(device)
    scores = {name: evaluate(flow, data, name) for name in SPLITS}
    Reference.learn(flow, data).attach(flow)
    flow.cpu().save_pretrained(folder / "model")
    results = {name: dataclasses.asdict(score) for name, score in scores.items()}
    results["training"] = {"seconds": round(seconds, 2)}
    with atomic_write(folder / "results.json") as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    picture = draw_run(run, data, temperature)
    console.print(
        f"Trained in {seconds:.1f} s. Test {scores['test']}.\n"
        f"Run folder {folder}, figure {picture}.",
        highlight=False,
        soft_wrap=True,
    )

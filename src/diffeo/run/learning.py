"""Train a flow and fill a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import torch
from rich.console import Console

from diffeo.data import Data, DataOptions, Images, Rows, augment, load_data, size_of
from diffeo.data.datasets import evenly, fingerprint
from diffeo.flow import Flow
from diffeo.models.image_realnvp import ImageRealNVP
from diffeo.models.mixed import MixedFlow
from diffeo.models.tables import RealNVP
from diffeo.run import claim
from diffeo.run.drawing import painter
from diffeo.run.finishing import finish
from diffeo.run.folder import as_setting
from diffeo.run.mixed import learns_mixed, train_mixed
from diffeo.training import observers
from diffeo.training.checkpoints import Checkpoints, load, newest
from diffeo.training.loop import Augment, Training
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.training.processes import Processes
from diffeo.training.steps import choose_compile, choose_memory
from diffeo.training.threads import Threads
from diffeo.utils.config import public_name
from diffeo.utils.machine import (
    Precision,
    find_device,
    keep_freed_memory,
    limit_threads,
    training_dtype,
)
from diffeo.utils.ranges import Seed, checked, fits
from diffeo.utils.statistics import OutlierWarning

ModelFactory = Callable[[Any], Flow]
# For what is drawn here: it learned moons sooner, and better, than 8 couplings of 64 units.
DRAWN = partial(RealNVP, layers=12, hidden=(32, 32))
# Below this, a flow of the default size overfits in any case.
FEW_ROWS = 200
INITIAL_ROWS, INITIAL_IMAGES = 1_000_000, 512  # enough for statistics like those of all


@checked
def train(
    model: ModelFactory | None = None,
    data: DataOptions | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    seed: Seed = 0,
    precision: Precision = "auto",
    optimizer: OptimizerOptions | None = None,
    trainer: TrainerOptions | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a flow by maximum likelihood, and fill a run folder.

    Args:
        model: makes the flow from the number of features, or from the (C, H, W) of images: a
            model class, or `functools.partial(RealNVP, layers=12)`. By default `MixedFlow` for
            tables, `DRAWN` for those that are drawn here, and `ImageRealNVP` for images.
        data: what to learn; moons by default, or digits for a model of images.
        out: the run folder; by default the first free one of runs/NAME, runs/NAME-2 and so on.
        seed: of the first weights and the order of the batches. The split has its own.
        precision: of the networks while they learn: "bf16" for bfloat16, "float32", or "auto" (see
            `diffeo.utils.machine`); what is validated and saved is float32.
        optimizer: how the weights are learned.
        trainer: how long, and on which devices.
        resume: continue from the last checkpoint in `out`, or start anew where there is none.
        console: where to print.

    Returns:
        The run folder.

    Raises:
        ValueError: if something cannot be used; nothing is written then. Or if the disk is full or
            all checkpoints are damaged; what was reached stays.
        NotFiniteError: if a number is not finite; it names the layer and the last checkpoint.
        ConnectionError: if another process of the run is lost.
        KeyboardInterrupt: if it is stopped; the message is the command that continues.
    """
    options = data or DataOptions()
    if not options.source:
        options = dataclasses.replace(options, source=default_source(model))
    optimizer, trainer = optimizer or OptimizerOptions(), trainer or TrainerOptions()
    settings: dict[str, Any] = {
        "model": {"class_path": public_name(MixedFlow), "init_args": {}},
        "data": dataclasses.asdict(options) | {"splits": list(options.splits)},
        "seed": seed,
        "precision": precision,
        "optimizer": dataclasses.asdict(optimizer),
        "trainer": dataclasses.asdict(trainer),
    }
    device = find_device(trainer.device)
    if learns_mixed(model, options):
        limit_threads()
        console = console or Console(quiet=True)
        done = train_mixed(model, options, out, settings, resume=resume, console=console)
        finish(*done, device, trainer.temperature, console)
        return done[0]
    processes = Processes.launched(trainer.devices, device.type)
    first = processes.rank == 0  # which alone writes and prints
    console = console if console and first else Console(quiet=not first)
    limit_threads()
    loaded = load_data(options, console)
    torch.manual_seed(seed)
    flow = build(model, loaded)
    folder = Path(out) if out is not None else claim.free_folder(loaded.name)
    processes.resume = claim.resume_command(folder)
    arguments = _arguments(flow, loaded)
    settings["model"] = {"class_path": public_name(type(flow)), "init_args": arguments}
    with contextlib.ExitStack() as held:
        held.enter_context(claim.one_sentence(folder))
        if first and resume:
            held.enter_context(claim.locked(folder))
            claim.check_resumed(folder, options, settings["model"])
        elif first:
            claim.check_free(folder)
        training = prepare(
            flow,
            loaded.train,
            loaded.val,
            folder,
            optimizer=optimizer,
            options=trainer,
            seed=seed,
            precision=precision,
            draw=painter(loaded, folder / "figures", trainer.temperature),
            augment=_augmentation(options),
            settings=settings,
            processes=processes,
            resume=resume,
            console=console,
        )
        # Nothing was written so far.
        if first and not resume:
            held.enter_context(claim.locked(folder))
        if first:
            claim.write_settings(folder, settings)
        for line in _introduction(flow, loaded):
            console.print(line, highlight=False, soft_wrap=True)
        training.run()
        if first:
            finish(folder, loaded, training.seconds, training.device, trainer.temperature, console)
    return folder


def prepare(
    flow: Flow,
    train: Rows,
    val: Rows,
    folder: Path,
    *,
    optimizer: OptimizerOptions,
    options: TrainerOptions,
    seed: int = 0,
    precision: Precision = "auto",
    draw: observers.Draw | None = None,
    augment: Augment | None = None,
    settings: dict[str, Any] | None = None,
    processes: Processes | None = None,
    resume: bool = False,
    console: Console,
) -> Training:
    """A training that fills a run folder, which it does not write to before it runs.

    What starts from data is set by the first rows of `train`. For `precision`, `resume` and
    `console` see `train`; for `draw` and `settings`, the observers `Figures` and `TensorBoard`.

    Raises:
        ValueError: if the device is not there, or no checkpoint can be continued from.
    """
    device = find_device(options.device)
    most = INITIAL_IMAGES if flow.takes_pixels else INITIAL_ROWS
    with warnings.catch_warnings():
        # `load_table` has noted them, by the rows of the file.
        warnings.simplefilter("ignore", OutlierWarning)
        flow.initialize(*train.take(evenly(train, most)))
    if device.type == "cpu":
        # Not before the flow saw many rows at once, to start from: their memory may go.
        keep_freed_memory()
    checkpoints = folder / "checkpoints"
    checkpoint, rows = newest(checkpoints, console) if resume else None, fingerprint(train)
    training = Training(
        flow,
        train,
        val,
        optimizer=optimizer,
        options=options,
        seed=seed,
        augment=augment,
        precision=training_dtype(precision, flow.takes_pixels, device),
        processes=processes,
    )
    epochs, following = training.epochs, training.observers
    patience = options.patience or min(max(10, epochs // 4), 100)
    following.append(Threads(options.threads, console))
    following += [observers.GlobalSeed(), observers.FiniteValidation()]
    following.append(observers.EarlyStopping(patience))
    if training.processes.rank == 0:
        board = observers.TensorBoard(folder / "tensorboard", settings or {})
        following.append(board)
        if draw is not None:
            following.append(observers.Figures(draw, options.figure_every, board))
        unit = "images" if flow.takes_pixels else "rows"
        following += [
            observers.MetricsFile(folder / "metrics.csv"),
            observers.ProgressLine(console, len(train), unit),
            observers.Divergence(console),
            Checkpoints(checkpoints, folder / "model", checkpoint, rows),
        ]
    if checkpoint is not None:
        state = load(checkpoint)
        try:
            if state.pop("rows", rows) != rows:
                raise ValueError(
                    "its rows for training are not those that it learned from, since the data or "
                    "their split changed: give it the same data, or start a new run."
                )
            training.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{folder} cannot be resumed so: {error}") from error
    elif resume:
        console.print(f"{folder} holds no checkpoint yet: starting anew.", soft_wrap=True)
    choose_memory(training, console)
    choose_compile(training, console)
    return training


def default_source(model: ModelFactory | None) -> str:
    """What to learn if the user does not say: moons, or digits for a model of images."""
    return "digits" if "image_shape" in _parameters(model) else "moons"


def _parameters(model: ModelFactory | None) -> dict[str, Any]:
    """The types of what the constructor of a class takes; none of other callables."""
    cls = getattr(model, "func", model)  # of a partial
    if not inspect.isclass(cls):
        return {}
    hints = get_type_hints(cls.__init__, include_extras=True)
    return {name: hints.get(name, Any) for name in inspect.signature(cls).parameters}


def build(model: ModelFactory | None, data: Data) -> Flow:
    """Make the flow for some data, with what `score` and `sample` need to know of them."""
    needs = _needs(data)
    if isinstance(data, Images):
        model = model or ImageRealNVP
        event: Any = data.shape
        what = f"images of (channels, height, width) = {data.shape}"
        metadata: dict[str, Any] = {"size": data.options.size, "labels": data.label_names}
    else:
        model = model or DRAWN
        event, what = data.features, _columns(data.features)
        metadata = {"columns": data.columns}
        if data.options.weights is not None:
            metadata["weights"] = data.options.weights
        if form := data.options.form():
            metadata["form"] = form
    other = f"does not model {what}: choose another model by --model."
    if not all(fits(event, hint) for hint in [*_parameters(model).values()][:1]):
        raise ValueError(f"{getattr(model, 'func', model).__name__} {other}")
    try:
        flow = model(event, **needs)
    except TypeError as error:
        known = " and ".join(["", *needs]) if needs else ""
        raise ValueError(f"the model cannot be made for {what}{known}: {error}.") from error
    if flow.takes_pixels != isinstance(data, Images):
        raise ValueError(f"{type(flow).__name__} {other}")
    if flow.context_features != data.context.width:
        raise ValueError(
            f"{type(flow).__name__} wants {flow.context_features} columns of context and "
            f"{data.name} has {data.context.width}: name them by --data.context."
        )
    flow.metadata = {"data": data.name, **metadata}
    return flow


def _columns(number: int) -> str:
    return f"{number} column{'s' * (number > 1)}"


def _needs(data: Data) -> dict[str, Any]:
    needs: dict[str, Any] = {}
    if data.context:
        needs["context"] = data.context
    if not isinstance(data, Images) and any(data.steps):
        needs["steps"] = data.steps
    return needs


def _augmentation(options: DataOptions) -> Augment | None:
    if not options.flip and not options.shift:
        return None
    return lambda x, context, generator, done: augment(x, options.flip, options.shift, generator)


def _introduction(flow: Flow, data: Data) -> Iterator[str]:
    unit, what = "rows", f"{_columns(flow.dims)} of {data.name}"
    if isinstance(data, Images):
        unit, what = "images", f"{data.name}, {size_of(data.shape)},"
    yield from data.notes
    if len(data.train) < FEW_ROWS:
        yield (
            f"{data.name} has only {len(data.train)} {unit} to learn from: expect a model that "
            "overfits, and mind its standard error."
        )
    yield (
        f"{type(flow).__name__}, {sum(p.numel() for p in flow.parameters()):,} weights, "
        f"learns {what} from {len(data.train):,} {unit} "
        f"({len(data.val):,} to validate, {len(data.test):,} to test)."
    )


def _arguments(flow: Flow, data: Data) -> dict[str, Any]:
    """What the constructor of a flow was called with, but for what follows from the data."""
    (_, *names), needs = flow.arguments, _needs(data)
    return {name: as_setting(flow.arguments[name]) for name in names if name not in needs}

"""Put the pieces of training together in Lightning's Trainer."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import PassThroughProfiler
from rich.console import Console

from diffeo.bijections.convolution import SingularError
from diffeo.data.batches import Augment, Batches, Groups, Rows
from diffeo.flow import Flow
from diffeo.training import callbacks
from diffeo.training.checkpoints import BEST, LAST, CheckpointFiles, Checkpoints, epochs_in, newest
from diffeo.training.lookout import NotFiniteError
from diffeo.training.memory import settle_memory
from diffeo.training.module import FlowModule
from diffeo.training.options import TrainerOptions
from diffeo.training.processes import Together, cluster, refusals
from diffeo.training.steps import OptimizerOptions
from diffeo.utils.memory import keep_freed_memory
from diffeo.utils.precision import Precision, training_dtype

# Long enough for the default model to converge on most tables, short enough to wait for.
DEFAULT_STEPS = 3_200
TABLE_BATCH, IMAGES_BATCH = 1024, 64
# Statistics of more rows than this differ from those of all only far behind the comma.
INITIAL_ROWS, INITIAL_IMAGES = 1_000_000, 512
CALIBRATION_ROWS = 2_048
# Steps of fewer weights times rows are handed to Lightning several at a time: they take
# milliseconds, of which what it does around each is a part.
SMALL_STEP, AT_A_TIME = 2**27, 16


def fit(
    flow: Flow,
    train: Rows,
    val: Rows,
    folder: Path,
    *,
    seed: int,
    optimizer: OptimizerOptions,
    options: TrainerOptions,
    precision: Precision = "auto",
    draw: callbacks.Draw | None = None,
    augment: Augment | None = None,
    resume: bool = False,
    console: Console,
) -> float:
    """Train a flow and leave its checkpoints, metrics and best model in a run folder.

    Args:
        flow: what to train; links that start from data are initialised from `train` first.
        train: rows to learn from.
        val: rows to choose the best epoch by.
        folder: the run folder.
        seed: of all random numbers of training.
        optimizer: how the weights are learned.
        options: how long, and where.
        precision: of the networks while they learn (see `diffeo.utils.precision`).
        draw: writes pictures of a flow under a name and returns the path of each kind.
        augment: changes training batches at random.
        resume: go on from the last checkpoint where there is one (see
            `diffeo.training.checkpoints`).
        console: where to report.

    Returns:
        The seconds that it took, those before it was resumed included.

    Raises:
        NotFiniteError: if three steps in a row have no finite gradient, or the validation loss is
            not finite; it names the layer and the last good checkpoint.
        ConnectionError: if another process of the run is lost.
        KeyboardInterrupt: if the user stops it; the last checkpoint has all epochs that were over.
        OSError: if a file cannot be written, by its name; the last checkpoint is still there.
        ValueError: if Lightning cannot train so, on this machine; if it is to go on from a
            checkpoint, and all are damaged, or it has trained for more epochs than are asked for;
            or if a 1x1 convolution can no longer be inverted.
    """
    pixels = flow.takes_pixels
    first = min(len(train), INITIAL_IMAGES if pixels else INITIAL_ROWS)
    flow.initialize(*train.take(torch.arange(first)))
    batch_size = options.batch_size or (IMAGES_BATCH if pixels else TABLE_BATCH)
    world = options.num_nodes * options.devices
    steps = len(Batches(train, batch_size, seed=seed, world=world))
    epochs = options.max_epochs or math.ceil(DEFAULT_STEPS / steps)
    module = FlowModule(
        flow, optimizer, max(1, epochs * steps), seed, detect_anomaly=options.detect_anomaly
    )
    metric = f"val_{module.metric}"
    at_a_time = _at_a_time(flow, batch_size, world)
    checkpoints = Checkpoints(folder / "checkpoints")
    hooks: list[pl.Callback] = [
        callbacks.Patience(metric, options.patience or min(max(10, epochs // 4), 100)),
        callbacks.MetricsFile(folder / "metrics.csv"),
        callbacks.BestModel(folder / "model", checkpoints.folder / BEST),
        callbacks.ProgressLine(console, len(train), "pictures" if pixels else "rows"),
        checkpoints,
    ]
    if draw is not None:
        hooks.insert(0, callbacks.Pictures(draw, options.figure_every or math.ceil(epochs / 10)))
    with _quiet_lightning(), refusals(), contextlib.ExitStack() as held:
        trainer = pl.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            max_epochs=epochs,
            callbacks=hooks,
            plugins=[CheckpointFiles(), *cluster()],
            logger=callbacks.Board(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # What is logged, is at the end of an epoch; else the logger is flushed each 50 steps.
            log_every_n_steps=math.ceil(steps / at_a_time),
            profiler=Untimed(),
        )
        device = trainer.strategy.root_device
        if device.type == "cpu":
            # Not before the flow saw many rows at once, to start from: their memory may go.
            keep_freed_memory()
        flow.set_precision(training_dtype(precision, flow, device))
        # A GPU is one process's own; the processes of a machine share what else it has.
        sharing = 1 if device.type == "cuda" else trainer.num_devices
        settle_memory(options.memory, flow, train, batch_size, device, console, processes=sharing)
        rank, world = trainer.global_rank, trainer.world_size
        shard: dict[str, Any] = {"rank": rank, "world": world}
        # As many as fill a batch of every process alike, since statistics are taken over all.
        calibration = Batches(train, batch_size, seed=seed, **shard)
        count = math.ceil(CALIBRATION_ROWS / (calibration.batch_size * world))
        module.calibration = list(itertools.islice(calibration, count))
        last = checkpoints.folder / LAST
        resumed = newest(checkpoints.folder, console) if resume else None
        if resume and resumed is None:
            console.print(f"{folder} holds no checkpoint yet: starting anew.", soft_wrap=True)
        done = epochs_in(resumed) if resumed else None
        if done is not None and done > epochs:
            raise ValueError(
                f"{folder} has trained for {done} epochs: give --trainer.max_epochs no fewer."
            )
        handler = signal.getsignal(signal.SIGINT)
        held.enter_context(Together(trainer, folder))
        try:
            trainer.fit(
                module,
                Groups(Batches(train, batch_size, seed=seed, augment=augment, **shard), at_a_time),
                Batches(val, flow.chunk, **shard),
                ckpt_path=resumed,
                weights_only=True,
            )
        except NotFiniteError as error:
            said = f"{error}; {_kept(last)}: {error.remedy}."
            raise NotFiniteError(said, error.remedy) from error
        except SingularError as error:
            raise ValueError(f"{str(error).rstrip('.')}; {_kept(last)}.") from error
        except SystemExit as error:
            # Lightning answers Ctrl-C by ending the process and by ignoring the next one.
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from error
    return checkpoints.seconds


def _kept(last: Path) -> str:
    good = f"the last good checkpoint is {last}"
    return good if last.is_file() else "there is no checkpoint yet"


def _at_a_time(flow: Flow, batch_size: int, world: int) -> int:
    """How many steps Lightning is to see as one."""
    work = batch_size * sum(weight.numel() for weight in flow.parameters())
    # Processes share gradients once each time that Lightning calls.
    return AT_A_TIME if world == 1 and work <= SMALL_STEP else 1


class Untimed(PassThroughProfiler):
    """Times none of Lightning's actions, for less than the profiler that it has for that.

    It opens a context some seventy times a step, and here always the same one.
    """

    context = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[Any]:  # type: ignore[override]
        return self.context


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks, written for its own users, away from ours.

    Likewise what TensorBoard's thread says of a full disk, which is told once it is asked again.
    """

    def hear(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            hook(args)

    hook, threading.excepthook = threading.excepthook, hear
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
        threading.excepthook = hook

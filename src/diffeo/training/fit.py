"""Put the pieces of training together in Lightning's Trainer."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import PassThroughProfiler
from rich.console import Console

from diffeo.data.batches import Augment, Batches, Rows
from diffeo.flow import Flow
from diffeo.memory import keep_freed_memory
from diffeo.precision import Precision, training_dtype
from diffeo.training import callbacks
from diffeo.training.memory import TrainingMemory, settle_memory
from diffeo.training.module import FlowModule
from diffeo.training.steps import OptimizerOptions

# Long enough for the default model to converge on most tables, short enough to wait for.
DEFAULT_STEPS = 3_200
TABLE_BATCH, PICTURES_BATCH = 1024, 64
# Statistics of more rows than this differ from those of all only far behind the comma.
INITIAL_ROWS, INITIAL_PICTURES = 1_000_000, 512
CALIBRATION_ROWS = 2_048


@dataclass(frozen=True)
class TrainerOptions:
    """How long training takes, and on which machines.

    Args:
        max_epochs: Passes over the training rows; by default as many as make 3,200 steps.
        batch_size: Rows of one step, in each process; by default 1,024, or 64 pictures.
        patience: Stop when the validation loss has not fallen for so many epochs; by default a
            quarter of them all, and at most 100.
        figure_every: Epochs between two pictures; by default ten pictures are drawn in all.
        temperature: That of the samples in the pictures.
        accelerator: "auto", "cpu", "gpu" or another of Lightning's.
        devices: How many devices.
        num_nodes: How many machines.
        strategy: Lightning's way to spread the work: "auto", "ddp" and others.
        memory: "stored" keeps all activations of a step, "constant" rebuilds them, for about a
            quarter more time and memory that does not grow with depth; "auto" takes it where they
            would need more than half of the memory that is free.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    patience: int | None = None
    figure_every: int | None = None
    temperature: float = 1.0
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    memory: TrainingMemory = "auto"

    def __post_init__(self) -> None:
        if self.memory not in get_args(TrainingMemory):
            choices = ", ".join(get_args(TrainingMemory))
            raise ValueError(f"there is no memory {self.memory!r}: choose one of {choices}.")


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
        precision: of the networks while they learn (see `diffeo.precision`).
        draw: writes pictures of a flow under a name and returns the path of each kind.
        augment: changes training batches at random.
        resume: go on from `checkpoints/last.ckpt` where there is one.
        console: where to report.

    Returns:
        The seconds that it took.

    Raises:
        FloatingPointError: if three steps in a row have no finite gradient; it names the last good
            checkpoint.
        KeyboardInterrupt: if the user stops it; what was reached is in the last checkpoint.
    """
    pixels = flow.takes_pixels
    first = min(len(train), INITIAL_PICTURES if pixels else INITIAL_ROWS)
    flow.initialize(*train.take(torch.arange(first)))
    batch_size = options.batch_size or (PICTURES_BATCH if pixels else TABLE_BATCH)
    world = options.num_nodes * options.devices
    steps = len(Batches(train, batch_size, seed=seed, world=world))
    epochs = options.max_epochs or math.ceil(DEFAULT_STEPS / steps)
    module = FlowModule(flow, optimizer, seed)
    metric = f"val_{module.metric}"
    hooks: list[pl.Callback] = [
        EarlyStopping(metric, patience=options.patience or min(max(10, epochs // 4), 100)),
        callbacks.MetricsFile(folder / "metrics.csv"),
        callbacks.BestModel(folder / "model"),
        callbacks.ProgressLine(console, len(train), "pictures" if pixels else "rows"),
        ModelCheckpoint(
            folder / "checkpoints",
            "best",
            monitor=metric,
            save_last=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    if draw is not None:
        hooks.insert(0, callbacks.Pictures(draw, options.figure_every or math.ceil(epochs / 10)))
    with _quiet_lightning():
        trainer = pl.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            max_epochs=epochs,
            callbacks=hooks,
            plugins=[callbacks.AtomicCheckpoints()],
            logger=TensorBoardLogger(folder, name="tensorboard", version=""),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # What is logged, is at the end of an epoch; else the logger is flushed each 50 steps.
            log_every_n_steps=steps,
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
        last = folder / "checkpoints" / "last.ckpt"
        if resume and not last.is_file():
            console.print(f"{folder} holds no checkpoint yet: starting anew.", soft_wrap=True)
        start = time.perf_counter()
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(
                module,
                Batches(train, batch_size, seed=seed, augment=augment, **shard),
                Batches(val, flow.chunk, **shard),
                ckpt_path=last if resume and last.is_file() else None,
                weights_only=True,
            )
        except FloatingPointError as error:
            good = f"the last good checkpoint is {last}" if last.is_file() else "no checkpoint yet"
            raise FloatingPointError(f"{error}, {good}: take a smaller --optimizer.lr.") from error
        except SystemExit as error:
            # Lightning answers Ctrl-C by ending the process and by ignoring the next one.
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from error
    return time.perf_counter() - start


def limit_threads() -> None:
    """Use no more threads than there are cores for this process, as containers allot them."""
    from joblib import cpu_count
    from threadpoolctl import ThreadpoolController

    cores = cpu_count()
    torch.set_num_threads(min(torch.get_num_threads(), cores))
    # Only ever fewer: a user who asked for one thread, to run two trainings at once, keeps it.
    pools = ThreadpoolController()
    for pool in pools.lib_controllers:
        if pool.num_threads is not None and pool.num_threads > cores:
            pool.set_num_threads(cores)


class Untimed(PassThroughProfiler):
    """Times none of Lightning's actions, for less than the profiler that it has for that.

    It opens a context some seventy times a step, and here always the same one.
    """

    context = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[Any]:  # type: ignore[override]
        return self.context


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks, written for its own users, away from ours."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)

"""Observers of a run folder: metrics, early stopping, figures, TensorBoard, progress."""

from __future__ import annotations

import contextlib
import csv
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from diffeo.data.datasets import mix
from diffeo.flow import Flow
from diffeo.training.loop import Observer, Training
from diffeo.utils.files import atomic_write
from diffeo.utils.modules import NotFiniteError

REFRESH = 0.1  # seconds between two moves of the progress bar
DRAWING = 0.05  # of the time, that is spent on figures that nobody asked for
CHANCE = {"nll": 3.0, "bpd": 0.1}  # by which the loss of an epoch may rise and fall again
Draw = Callable[[Flow, str], dict[str, Path]]


class GlobalSeed(Observer):
    """Seed torch's global random state for each epoch, for networks that draw from it (dropout)."""

    def on_epoch_start(self, training: Training) -> None:
        torch.manual_seed(mix(training.seed, training.epoch, training.processes.rank))


class FiniteValidation(Observer):
    """Raise NotFiniteError, which names the layer, where the validation loss is not finite."""

    def on_epoch_end(self, training: Training) -> None:
        if math.isfinite(training.val_loss):
            return
        from diffeo.training.anomaly import find_fault  # which is seldom needed

        what = f"the validation loss of epoch {training.epoch - 1} is not finite"
        remedy = "take a smaller --optimizer.lr, or leave out rows that lie far from all others"
        losses = training.val_losses
        for batch in training.val_batches():
            part, losses = losses[: len(batch[0])], losses[len(batch[0]) :]
            if not part.mean().isfinite():
                fault = find_fault(training.averaged, *batch, training.noise)
                raise NotFiniteError(f"{what}: {fault.what}", remedy)
        raise NotFiniteError(what, remedy)


class EarlyStopping(Observer):
    """Stop when the validation loss has not fallen for `patience` epochs.

    A training that was stopped so and is resumed trains no further, unless its patience has grown.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_start(self, training: Training) -> None:
        training.stop = training.epoch - training.best_epoch >= self.patience

    on_epoch_end = on_start


class Divergence(Observer):
    """Say once that a training diverges: it has lost all that it had learned, and as much again.

    The losses are those of training, since that of validation rises where a model overfits.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.announced: bool = False

    def on_epoch_end(self, training: Training) -> None:
        losses = [row[f"train_{training.metric}"] for row in training.history]
        first, last, lowest = losses[0], losses[-1], min(losses)
        if self.announced or last - first <= max(first - lowest, CHANCE[training.metric]):
            return
        self.announced = True
        self.console.print(
            f"Training diverges: the loss was {lowest:.4f} {training.unit} after epoch "
            f"{losses.index(lowest) + 1}, and is {last:.4f} after epoch {len(losses)}. The best "
            "model so far is saved; a smaller --optimizer.lr or --optimizer.clip may learn more.",
            highlight=False,
            soft_wrap=True,
        )


class MetricsFile(Observer):
    """One line of `metrics.csv` for each epoch; a resumed run goes on from its checkpoint's line.

    Columns: epoch and step (counted from 1), the losses train_nll and val_nll (nats) or train_bpd
    and val_bpd (bits/dim), lr.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, training: Training) -> None:
        # The checkpoint's lines, whatever became of the file.
        if training.history:
            self.on_epoch_end(training)

    def on_epoch_end(self, training: Training) -> None:
        with (
            atomic_write(self.path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [*training.history[0]], lineterminator="\n")
            writer.writeheader()
            writer.writerows(training.history)


class TensorBoard(Observer):
    """Scalars, figures and the settings for TensorBoard, all at their step.

    Args:
        folder: of its files; an error of the disk names it.
        settings: of the run, in sections.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = _flat(settings)
        self.writer: Any = None
        self.hook: Callable[[threading.ExceptHookArgs], Any]

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        """The writer, which is opened when it is first used."""
        try:
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(str(self.folder))
            yield self.writer
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder)) from error

    def on_start(self, training: Training) -> None:
        self.hook, threading.excepthook = threading.excepthook, self._ignore_full_disk

    def _ignore_full_disk(self, args: threading.ExceptHookArgs) -> None:
        """What the writer's thread meets on a full disk is raised again at the next use."""
        if not isinstance(args.exc_value, OSError):
            self.hook(args)

    def on_epoch_end(self, training: Training) -> None:
        with self._open() as writer:
            writer.add_scalar("loss/train", training.train_loss, training.step)
            writer.add_scalar("loss/val", training.val_loss, training.step)
            writer.add_scalar("learning_rate", training.adam.lr, training.step)
            writer.add_scalar("gradient_norm", training.gradient_norm, training.step)
            writer.flush()

    def show(self, paths: dict[str, Path], step: int) -> None:
        """Add figures by their kind."""
        with self._open() as writer:
            for kind, path in paths.items():
                with Image.open(path) as image:
                    writer.add_image(kind, np.asarray(image), step, dataformats="HWC")

    def on_end(self, training: Training) -> None:
        # After a failure it is that which is reported.
        silence = contextlib.suppress(*() if training.finished else (OSError,))
        with silence, self._open() as writer:
            if training.finished and training.history:
                best = {"loss/best": training.best_loss}
                writer.add_hparams(self.settings, best, run_name=".", global_step=training.step)
            writer.close()
        threading.excepthook = self.hook


def _flat(settings: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Settings by dotted names, as numbers or texts."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{section}{name}.")
        else:
            flat[section + name] = value if isinstance(value, int | float) else str(value)
    return flat


class Figures(Observer):
    """Draw the averaged flow every few epochs, into the run folder and into TensorBoard.

    Args:
        draw: writes figures of a flow under a name, and returns the path of each kind.
        every: number of epochs between two figures; None for a tenth of all. Of these some are left
            out where drawing would take more than a twentieth of the time, but for the last.
        board: where they are shown.
    """

    def __init__(self, draw: Draw, every: int | None, board: TensorBoard) -> None:
        self.draw = draw
        self.every = every
        self.board = board
        self.start: float = 0.0
        self.spent: float = 0.0

    def on_start(self, training: Training) -> None:
        self.start = time.perf_counter()
        if training.epoch == 0:
            self._draw(training)

    def on_epoch_end(self, training: Training) -> None:
        every = self.every or math.ceil(training.epochs / 10)
        last, regular = training.epoch == training.epochs, training.epoch % every == 0
        elapsed = time.perf_counter() - self.start
        if last or (regular and (self.every or self.spent < DRAWING * elapsed)):
            self._draw(training)

    def _draw(self, training: Training) -> None:
        started = time.perf_counter()
        paths = self.draw(training.averaged, f"epoch-{training.epoch:05d}")
        self.board.show(paths, training.step)
        self.spent += time.perf_counter() - started


class ProgressLine(Observer):
    """One bar for the whole run: loss, best validation loss, rows a second, time left.

    Where there is no terminal it prints a line at about each tenth of the run instead.

    Args:
        console: where to print.
        rows: how many the training split has.
        unit: what a row is called.
    """

    def __init__(self, console: Console, rows: int, unit: str) -> None:
        self.console = console
        self.rows = rows
        self.unit = unit
        self.bar: Progress = Progress(
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.start: float
        self.shown: float
        self.first_epoch: int
        self.task: TaskID

    def on_start(self, training: Training) -> None:
        self.start = self.shown = time.perf_counter()
        self.first_epoch = training.epoch
        if self.console.is_terminal:
            total, completed = training.epochs, training.epoch
            self.task = self.bar.add_task("train", total=total, completed=completed, status="")
            self.bar.start()

    def on_step(self, training: Training) -> None:
        if self.console.is_terminal and time.perf_counter() - self.shown > REFRESH:
            done = training.epoch + (training.index + 1) / training.every
            self._show(training, done, float(training.loss))

    def on_epoch_end(self, training: Training) -> None:
        epoch, epochs = training.epoch, training.epochs
        if self.console.is_terminal:
            self._show(training, epoch, training.train_loss)
        elif epoch * 10 // epochs > (epoch - 1) * 10 // epochs:
            status = self._status(training, epoch, training.train_loss)
            self.console.print(f"epoch {epoch}/{epochs}  {status}", highlight=False)

    def _show(self, training: Training, done: float, loss: float) -> None:
        self.shown = time.perf_counter()
        self.bar.update(self.task, completed=done, status=self._status(training, done, loss))

    def _status(self, training: Training, done: float, loss: float) -> str:
        seconds = max(time.perf_counter() - self.start, 1e-9)
        speed = self.rows * (done - self.first_epoch) / seconds
        losses = f"loss {loss:.4f}  best val {training.best_loss:.4f} {training.unit}"
        return f"{losses}  {speed:,.0f} {self.unit}/s"

    def on_end(self, training: Training) -> None:
        if self.console.is_terminal:
            self.bar.stop()

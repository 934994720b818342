"""Observers of a run folder: metrics, the best model, figures, TensorBoard, progress."""

from __future__ import annotations

import contextlib
import copy
import csv
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffeo.data.datasets import mix
from diffeo.flow import Flow
from diffeo.pretrained.storage import read_model
from diffeo.training.checkpoints import epochs_in, load
from diffeo.training.loop import Batch, Observer, Training
from diffeo.utils.files import atomic_write
from diffeo.utils.modules import NotFiniteError

REFRESH = 0.1  # seconds between two moves of the progress bar
Draw = Callable[[Flow, str], dict[str, Path]]


class GlobalSeed(Observer):
    """Seed torch's global random state for each epoch, for networks that draw from it (dropout)."""

    def on_epoch_start(self, training: Training) -> None:
        torch.manual_seed(mix(training.seed, training.epoch, training.processes.rank))


class Anomalies(Observer):
    """Name the layer where numbers stop being finite: in a warning, or in the error that stops it.

    Raises:
        NotFiniteError: at the third step in a row without a finite gradient, at the first one with
            `detect_anomaly`, and when the validation loss is not finite.
    """

    def on_skipped_step(self, training: Training, batch: Batch) -> None:
        from diffeo.training.anomaly import find_fault

        training.seek(batch)
        fault = find_fault(training.flow, *batch, training.noise, training.nats)
        if training.options.detect_anomaly:
            raise NotFiniteError(f"{training.where}: {fault.what}", fault.remedy)
        if training.skipped == 3:
            raise NotFiniteError(
                "three steps in a row had no finite gradient, up to "
                f"{training.where}: {fault.what}",
                fault.remedy,
            )
        warnings.warn(
            f"{training.where} had no finite gradient and was skipped: {fault.what}.", stacklevel=1
        )

    def on_epoch_end(self, training: Training) -> None:
        if np.isfinite(training.val_loss):
            return
        from diffeo.training.anomaly import find_fault

        what = f"the validation loss of epoch {training.epoch - 1} is not finite"
        remedy = "take a smaller --optimizer.lr, or leave out rows that lie far from all others"
        flow, start = training.averaged, 0
        for batch in training.val_batches():
            end = start + len(batch[0])
            if not training.val_losses[start:end].mean().isfinite():
                fault = find_fault(flow, *batch, training.noise)
                raise NotFiniteError(f"{what}: {fault.what}", remedy)
            start = end
        raise NotFiniteError(what, remedy)


class EarlyStopping(Observer):
    """Stop when the validation loss has not fallen for so many epochs.

    A training that was stopped so and is resumed trains no further, unless its patience has grown.

    Args:
        patience: how many epochs.
    """

    saved = ("waited", "best")

    def __init__(self, patience: int) -> None:
        self.patience, self.waited, self.best = patience, 0, float("inf")

    def on_start(self, training: Training) -> None:
        training.stop = self.waited >= self.patience

    def on_epoch_end(self, training: Training) -> None:
        self.waited += 1
        if training.val_loss < self.best:
            self.best, self.waited = training.val_loss, 0
        training.stop = self.waited >= self.patience


class MetricsFile(Observer):
    """One line of `metrics.csv` for each epoch; a resumed run goes on from its checkpoint's line.

    Args:
        path: the file.

    Columns: epoch and step (counted from 1), the losses train_nll and val_nll (nats) or train_bpd
    and val_bpd (bits/dim), lr.
    """

    saved = ("rows",)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_start(self, training: Training) -> None:
        # The checkpoint's lines, whatever became of the file.
        if self.rows:
            self._write()

    def on_epoch_end(self, training: Training) -> None:
        metric = training.metric
        losses = {f"train_{metric}": training.train_loss, f"val_{metric}": training.val_loss}
        self.rows.append(
            {"epoch": training.epoch, "step": training.step, **losses, "lr": training.lr}
        )
        self._write()

    def _write(self) -> None:
        with (
            atomic_write(self.path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


class BestModel(Observer):
    """Save the averaged flow of the epoch with the lowest validation loss in `model/`.

    A resumed run takes it from the checkpoint of that epoch where its files are damaged.

    Args:
        folder: where.
        checkpoint: the one of the best epoch.
    """

    saved = ("best",)

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.best = float("inf")

    def on_start(self, training: Training) -> None:
        if self.best == float("inf") or not epochs_in(self.checkpoint):
            return
        with contextlib.suppress(ValueError):
            read_model(self.folder)
            return
        state = load(self.checkpoint)
        if state["observers"]["BestModel"]["best"] == self.best:
            flow = copy.deepcopy(training.averaged).cpu()
            flow.load_state_dict(state["averaged"])
            flow.save_pretrained(self.folder)

    def on_epoch_end(self, training: Training) -> None:
        if training.val_loss < self.best:
            self.best = training.val_loss
            training.averaged.save_pretrained(self.folder)


class Figures(Observer):
    """Draw the averaged flow every few epochs, into the run folder and into TensorBoard.

    Args:
        draw: writes figures of a flow under a name, and returns the path of each kind.
        every: number of epochs between two figures.
        board: where they are shown.
    """

    def __init__(self, draw: Draw, every: int, board: TensorBoard) -> None:
        self.draw, self.every, self.board = draw, every, board

    def on_start(self, training: Training) -> None:
        if training.epoch == 0:
            self._draw(training)

    def on_epoch_end(self, training: Training) -> None:
        if training.epoch % self.every == 0 or training.epoch == training.epochs:
            self._draw(training)

    def _draw(self, training: Training) -> None:
        # The data that are drawn with it are on the CPU.
        cpu = training.device.type == "cpu"
        flow = training.averaged if cpu else copy.deepcopy(training.averaged).cpu()
        self.board.show(self.draw(flow, f"epoch-{training.epoch:05d}"), training.step)


class TensorBoard(Observer):
    """Scalars, figures and the settings for TensorBoard; a full disk is reported by the folder.

    Args:
        folder: of its files.
        settings: of the run, in sections.
    """

    saved = ("best",)

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings, self.best = folder, _flat(settings), float("inf")

    @property
    def writer(self) -> Any:
        """Opened when it is first used."""
        if not hasattr(self, "_writer"):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder))
        return self._writer

    def on_start(self, training: Training) -> None:
        self.hook, threading.excepthook = threading.excepthook, self._hear

    def on_epoch_end(self, training: Training) -> None:
        scalars = {
            "loss/train": training.train_loss,
            "loss/val": training.val_loss,
            "learning_rate": training.lr,
            "gradient_norm": training.gradient_norm,
        }
        with self._named():
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, training.step)
            self.writer.flush()
        self.best = min(training.val_loss, self.best)

    def show(self, paths: dict[str, Path], step: int) -> None:
        """Add figures by their kind."""
        with self._named():
            for kind, path in paths.items():
                with Image.open(path) as image:
                    self.writer.add_image(kind, np.asarray(image), step, dataformats="HWC")

    def on_end(self, training: Training) -> None:
        # After a failure it is that which is reported.
        silence = contextlib.suppress(*() if training.finished else (OSError,))
        with silence, self._named():
            if training.finished and self.best < float("inf"):
                scores = {"loss/best": self.best}
                self.writer.add_hparams(
                    self.settings, scores, run_name=".", global_step=training.step
                )
            self.writer.close()
        threading.excepthook = self.hook

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder)) from error

    def _hear(self, args: threading.ExceptHookArgs) -> None:
        """What its thread meets on a full disk is raised again at the next use."""
        if not isinstance(args.exc_value, OSError):
            self.hook(args)


def _flat(settings: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Settings by dotted names, as numbers or texts."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{section}{name}.")
        else:
            flat[section + name] = value if isinstance(value, int | float) else str(value)
    return flat


class ProgressLine(Observer):
    """One bar for the whole run: loss, best validation loss, rows a second, time left.

    Where there is no terminal it prints a line at about each tenth of the run instead.

    Args:
        console: where to print.
        rows: how many the training split has.
        unit: what a row is called.
    """

    saved = ("best",)

    def __init__(self, console: Console, rows: int, unit: str = "rows") -> None:
        self.console, self.rows, self.unit = console, rows, unit
        self.best = float("inf")
        self.bar: Progress | None = None

    def on_start(self, training: Training) -> None:
        self.start = self.shown = time.perf_counter()
        self.first_epoch = training.epoch
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.bar.add_task("train", total=training.epochs, completed=training.epoch, status="")
            self.bar.start()

    def on_step(self, training: Training) -> None:
        if self.bar is not None and time.perf_counter() - self.shown > REFRESH:
            self._show(training, training.epoch + (training.index + 1) / training.every)

    def on_epoch_end(self, training: Training) -> None:
        self.best = min(self.best, training.val_loss)
        epoch, epochs = training.epoch, training.epochs
        if self.bar is not None:
            self._show(training, epoch)
        elif epoch * 10 // epochs > (epoch - 1) * 10 // epochs:
            status = self._status(training, epoch, training.train_loss)
            self.console.print(f"epoch {epoch}/{epochs}  {status}", highlight=False)

    def _show(self, training: Training, done: float) -> None:
        assert self.bar is not None
        self.shown = time.perf_counter()
        loss = training.train_loss if done == training.epoch else float(training.loss)
        status = self._status(training, done, loss)
        self.bar.update(self.bar.task_ids[0], completed=done, status=status)

    def _status(self, training: Training, done: float, loss: float) -> str:
        seconds = max(time.perf_counter() - self.start, 1e-9)
        speed = self.rows * (done - self.first_epoch) / seconds
        losses = f"loss {loss:.4f}  best val {self.best:.4f} {training.unit}"
        return f"{losses}  {speed:,.0f} {self.unit}/s"

    def on_end(self, training: Training) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

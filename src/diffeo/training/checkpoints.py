"""Checkpoints that a kill, a full disk or damage cannot take away: the last one and the one before.

    last.ckpt     after each epoch
    before.ckpt   what last.ckpt was an epoch ago
    best.ckpt     after the epoch with the lowest validation loss

Each is written beside its place and renamed. Between the two renames of an epoch there is no
last.ckpt; then the one before serves. All are torch's zip files, loaded without unpickling anything
but tensors and plain values. Each record in them has a checksum, which torch does not look at.
"""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from rich.console import Console

from diffeo.training.module import FlowModule
from diffeo.utils.files import atomic_write

LAST, BEFORE, BEST = "last.ckpt", "before.ckpt", "best.ckpt"


class CheckpointFiles(TorchCheckpointIO):
    """How checkpoints are written and read; each `last.ckpt` leaves the one before it in place.

    One that was found damaged, or that this process knows nothing of, takes the place of none.
    """

    def __init__(self) -> None:
        self.good: Path | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        with atomic_write(path) as partial:
            with partial.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:
                    # What torch's writer makes of an error of the file it writes to.
                    if isinstance(error.__context__, OSError):
                        raise error.__context__ from None
                    raise
            if path == self.good:
                path.replace(path.with_name(BEFORE))
        if path.name == LAST:
            self.good = path

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(path, *args, **options)
        if Path(path).name == LAST:
            self.good = Path(path)
        return checkpoint


class Checkpoints(pl.callbacks.Checkpoint):
    """Save a checkpoint after each epoch, and another one after the best.

    Args:
        folder: where.

    Attributes:
        seconds: how long the run has trained, in all its parts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best = float("inf")
        self.earlier = 0.0
        self.start: float | None = None

    @property
    def seconds(self) -> float:
        return self.earlier + (0.0 if self.start is None else time.perf_counter() - self.start)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, FlowModule)
        value = float(trainer.callback_metrics[f"val_{pl_module.metric}"])
        # First the best: were it second, a kill between the two would leave an older one for good.
        if value < self.best:
            self.best = value
            trainer.save_checkpoint(self.folder / BEST)
        trainer.save_checkpoint(self.folder / LAST)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.earlier = state_dict["best"], state_dict["seconds"]


def newest(folder: Path, console: Console | None = None) -> Path | None:
    """The checkpoint to go on from, `last.ckpt` or, where that is of no use, the one before.

    Args:
        folder: of checkpoints.
        console: where to say that it is the one before, and why.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        ValueError: if there is one, and none that is whole.
    """
    last, before = folder / LAST, folder / BEFORE
    if epochs_in(last) is not None:
        return last
    if not last.is_file() and not before.is_file():
        return None
    trouble = "damaged" if last.is_file() else "missing"
    epochs = epochs_in(before)
    if epochs is None:
        other = "the one before it is too" if before.is_file() else "there is none before it"
        raise ValueError(
            f"{last} is {trouble}, and {other}: restore it from a copy, or delete {folder} to "
            "start anew."
        )
    if console is not None:
        console.print(
            f"{last} is {trouble}: going on from the one before, of epoch {epochs}.",
            highlight=False,
            soft_wrap=True,
        )
    return before


def epochs_in(path: Path) -> int | None:
    """How many epochs were over when a checkpoint was written; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["epoch"]) + 1
    except PermissionError:
        raise
    except Exception:  # whatever the readers make of bytes that are wrong
        return None

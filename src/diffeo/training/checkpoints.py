"""Checkpoints and a model that a kill, a full disk or damage cannot take away.

    checkpoints/last.ckpt     after each epoch
    checkpoints/before.ckpt   what last.ckpt was an epoch ago
    checkpoints/best.ckpt     after the epoch with the lowest validation loss
    model/                    the averaged flow of that epoch

Each file is written to another name and renamed. Between the two renames of an epoch there is no
last.ckpt; then the one before serves. All are torch's zip files, loaded without unpickling anything
but tensors and plain values. Each record in them has a checksum, which torch does not check.
"""

from __future__ import annotations

import contextlib
import copy
import zipfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from diffeo.pretrained.storage import read_model
from diffeo.training.loop import Observer, Training
from diffeo.utils.files import atomic_write

LAST, BEFORE, BEST = "last.ckpt", "before.ckpt", "best.ckpt"


class Checkpoints(Observer):
    """Write a checkpoint after each epoch; after the best, another one and the model.

    Args:
        folder: of the checkpoints.
        model: the folder of the model. Where a resumed run finds its files damaged, it takes it
            from the checkpoint of its epoch.
        resumed: the checkpoint that the training continues from. A `last.ckpt` that was found
            damaged, or of which nothing is known, does not become the one before.
        rows: the fingerprint of the rows for training, which a resumed run compares.
    """

    def __init__(
        self, folder: Path, model: Path, resumed: Path | None = None, rows: str = ""
    ) -> None:
        self.folder = folder
        self.model = model
        self.rows = rows
        self.last_is_good: bool = resumed == folder / LAST

    def on_start(self, training: Training) -> None:
        best = self.folder / BEST
        if training.best_epoch == 0 or epochs_in(best) != training.best_epoch:
            return
        with contextlib.suppress(ValueError):
            read_model(self.model)
            return
        flow = copy.deepcopy(training.averaged).cpu()
        flow.load_state_dict(load(best)["averaged"])
        flow.save_pretrained(self.model)

    def on_epoch_end(self, training: Training) -> None:
        # First the best: were it second, a kill between the two would leave an older one for good.
        if training.best_epoch == training.epoch:
            training.averaged.save_pretrained(self.model)
            save(training.state_dict() | {"rows": self.rows}, self.folder / BEST)
        self.save_last(training.state_dict() | {"rows": self.rows})

    def save_last(self, state: dict[str, Any]) -> None:
        """Write `last.ckpt`; what it was becomes `before.ckpt`."""
        before = self.folder / BEFORE if self.last_is_good else None
        save(state, self.folder / LAST, before)
        self.last_is_good = True


def save(state: dict[str, Any], path: Path, before: Path | None = None) -> None:
    """Write a checkpoint, and rename the file that was there to `before`, if that is given."""
    with atomic_write(path) as partial:
        with partial.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                # torch's writer hides what ended it: an error of the file, or Ctrl-C.
                if isinstance(error.__context__, OSError | KeyboardInterrupt):
                    raise error.__context__ from None
                raise
        if before is not None:
            path.replace(before)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def newest(folder: Path, console: Console) -> Path | None:
    """The checkpoint to continue from: `last.ckpt` or, where that is of no use, the one before.

    It prints that it is the one before, and why. None where there is no checkpoint at all.

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
    message = f"{last} is {trouble}: going on from the one before, of epoch {epochs}."
    console.print(message, highlight=False, soft_wrap=True)
    return before


def epochs_in(path: Path) -> int | None:
    """How many epochs were over when a checkpoint was written; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["epochs"])
    except PermissionError:
        raise
    except Exception:  # whatever the readers make of bytes that are wrong
        return None

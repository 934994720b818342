"""What happens beside the steps of training: metrics, the best model, figures, the progress bar."""

from __future__ import annotations

import contextlib
import copy
import csv
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffeo.flow import Flow
from diffeo.pretrained.storage import read_model
from diffeo.training.checkpoints import epochs_in
from diffeo.training.module import FlowModule
from diffeo.utils.files import atomic_write

REFRESH = 0.1  # seconds between two moves of the bar
Draw = Callable[[Flow, str], dict[str, Path]]


class MetricsFile(pl.Callback):
    """One line of `metrics.csv` for each epoch; a resumed run goes on from its checkpoint's line.

    Args:
        path: the file.

    Columns: epoch and step (counted from 1), the losses train_nll and val_nll (nats) or train_bpd
    and val_bpd (bits/dim), lr.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The checkpoint's lines, whatever became of the file.
        if self.rows:
            self._write()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        assert isinstance(pl_module, FlowModule)
        names = (f"train_{pl_module.metric}", f"val_{pl_module.metric}")
        row |= {name: float(metrics[name]) for name in names}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append(row)
        self._write()

    @rank_zero_only
    def _write(self) -> None:
        with (
            atomic_write(self.path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class BestModel(pl.Callback):
    """Keep the averaged flow of the epoch with the lowest validation loss in `model/`.

    A run that is resumed takes it from the checkpoint of that epoch where its files are damaged.

    Args:
        folder: where.
        checkpoint: the one of the best epoch.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.best = float("inf")

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, FlowModule)
        if self.best == float("inf") or _is_model(self.folder) or not epochs_in(self.checkpoint):
            return
        saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if saved["callbacks"][self.state_key]["best"] != self.best:
            return
        name, values = "averaged_flow.", saved["state_dict"]
        flow = copy.deepcopy(pl_module.averaged_flow).cpu()
        flow.load_state_dict(
            {k.removeprefix(name): values[k] for k in values if k.startswith(name)}
        )
        flow.save_pretrained(self.folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, FlowModule)
        value = float(trainer.callback_metrics[f"val_{pl_module.metric}"])
        if value < self.best:
            self.best = value
            self._save(pl_module)

    @rank_zero_only
    def _save(self, module: pl.LightningModule) -> None:
        assert isinstance(module, FlowModule)
        module.averaged_flow.save_pretrained(self.folder)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def _is_model(folder: Path) -> bool:
    try:
        read_model(folder)
    except ValueError:
        return False
    return True


class Patience(EarlyStopping):
    """Stop when the validation loss has not fallen for so many epochs.

    A run that has stopped so and is resumed trains no further, unless it is to be more patient now.

    Args:
        metric: the validation loss.
        patience: how many epochs.
    """

    def __init__(self, metric: str, patience: int) -> None:
        super().__init__(metric, patience=patience)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})


class Pictures(pl.Callback):
    """Draw the averaged flow every few epochs, into the run folder and into TensorBoard.

    Args:
        draw: writes pictures of a flow under a name, and returns the path of each kind.
        every: number of epochs between two pictures.
    """

    def __init__(self, draw: Draw, every: int) -> None:
        self.draw = draw
        self.every = every

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0:
            self._image(trainer, pl_module, 0)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0 or epoch == trainer.max_epochs:
            self._image(trainer, pl_module, epoch)

    def _image(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> None:
        assert isinstance(module, FlowModule)
        flow = module.averaged_flow
        if module.device.type != "cpu":
            # Where the data are that are drawn with it.
            flow = copy.deepcopy(flow).cpu()
        paths = self.draw(flow, f"epoch-{epoch:05d}")
        if isinstance(trainer.logger, Board):
            trainer.logger.show(paths, trainer.global_step)


class Board(TensorBoardLogger):
    """TensorBoard's file, by whose name a full disk is reported.

    Args:
        folder: the run folder; the file is in its `tensorboard/`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="tensorboard", version="")

    @property
    def experiment(self) -> Any:
        # Made when it is first asked for, which is when its file is opened.
        with self._named():
            return super().experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._named():
            super().log_metrics(metrics, step)

    def show(self, paths: dict[str, Path], step: int) -> None:
        """Hand pictures on by their kind."""
        with self._named():
            _show(paths, self.experiment, step)

    def finalize(self, status: str) -> None:
        # After a failure it is that which is told.
        silence = contextlib.suppress(*() if status == "success" else (OSError,))
        with silence, self._named():
            super().finalize(status)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            # Lightning takes whatever happens for a value that cannot be logged.
            reason = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(reason, OSError):
                raise
            raise OSError(reason.errno, reason.strerror, self.log_dir.rstrip("/")) from error


def _show(paths: dict[str, Path], board: Any, step: int) -> None:
    """Hand pictures on to TensorBoard as they are: `add_image` would encode them once more."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    for kind, path in paths.items():
        with Image.open(path) as picture:
            (width, height), channels = picture.size, len(picture.getbands())
        image = Summary.Image(width=width, height=height, colorspace=channels)
        image.encoded_image_string = path.read_bytes()
        board.file_writer.add_summary(Summary(value=[Summary.Value(tag=kind, image=image)]), step)


class ProgressLine(pl.Callback):
    """One bar for the whole run: loss, best validation loss, rows a second, time left.

    Where there is no terminal it prints a line at about each tenth of the run instead.

    Args:
        console: where to print.
        rows: how many the training split has.
        what: what a row is called.
    """

    def __init__(self, console: Console, rows: int, what: str = "rows") -> None:
        self.console, self.rows, self.what = console, rows, what
        self.best = float("inf")
        self.bar: Progress | None = None

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert trainer.max_epochs is not None
        assert isinstance(pl_module, FlowModule)
        self.start, self.first = time.perf_counter(), trainer.current_epoch
        self.shown = self.start
        self.metric, self.unit = pl_module.metric, pl_module.unit
        self.loss = self.val = float("nan")
        if not self.console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task(
            "train", total=trainer.max_epochs, completed=self.first, status=""
        )
        self.bar.start()

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        # An epoch of a small table is over in a blink; that of a large one moves the bar inside.
        if self.bar is not None and time.perf_counter() - self.shown > REFRESH:
            self.shown = time.perf_counter()
            self.loss = float(outputs["loss"])
            done = trainer.current_epoch + (i + 1) / trainer.num_training_batches
            self.bar.update(self.task, completed=done, status=self._status(done))

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert trainer.max_epochs is not None
        self.loss = float(trainer.callback_metrics.get(f"train_{self.metric}", float("nan")))
        self.val = float(trainer.callback_metrics.get(f"val_{self.metric}", float("nan")))
        self.best = min(self.best, self.val)
        epoch = trainer.current_epoch + 1
        if self.bar is not None:
            self.bar.update(self.task, completed=epoch, status=self._status(epoch))
        elif epoch * 10 // trainer.max_epochs > (epoch - 1) * 10 // trainer.max_epochs:
            self.console.print(
                f"epoch {epoch}/{trainer.max_epochs}  {self._status(epoch)}", highlight=False
            )

    def _status(self, done: float) -> str:
        speed = self.rows * (done - self.first) / max(time.perf_counter() - self.start, 1e-9)
        loss = f"loss {self.loss:.4f}  best val {self.best:.4f} {self.unit}"
        return f"{loss}  {speed:,.0f} {self.what}/s"

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

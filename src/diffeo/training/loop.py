"""The training loop: maximum likelihood, step by step, and the observers that follow it."""

from __future__ import annotations

import copy
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from diffeo.bijections.convolution import naming
from diffeo.data.datasets import Batches, Rows, mix
from diffeo.flow import Flow
from diffeo.training.adam import AveragedAdam
from diffeo.training.objective import Objective
from diffeo.training.options import OptimizerOptions, TrainerOptions, loss_of
from diffeo.training.processes import Processes
from diffeo.training.progress import Progress
from diffeo.utils.machine import find_device, widest
from diffeo.utils.modules import NotFiniteError, first_not_finite, on_device
from diffeo.utils.statistics import weighted

Batch = tuple[Tensor, Tensor | None]
# Changes a training batch at random: x, its context, a generator, and the share of the steps done.
Augment = Callable[[Tensor, Tensor | None, Generator, float], Tensor]

# Long enough for the default model of moons to converge, short enough to wait for.
DEFAULT_STEPS = 2_800
CALIBRATION_ROWS = 2_048
# Attributes that are part of a checkpoint as they are.
SAVED = ("step", "history", "best_loss", "best_epoch", "compiled", "threads")


class Observer:
    """Follows a training: a base class whose methods do nothing."""

    def on_start(self, training: Training) -> None:
        """Before the first step, or where a resumed training continues."""

    def on_epoch_start(self, training: Training) -> None:
        """Before the first step of an epoch."""

    def on_step(self, training: Training) -> None:
        """After each step."""

    def on_epoch_end(self, training: Training) -> None:
        """After the validation of an epoch; `training.epoch` counts this one."""

    def on_end(self, training: Training) -> None:
        """At the end, also after an error; then `training.finished` is False."""


class Training(Progress):
    """Minimise the mean negative log-likelihood of a flow, in nats, or in bits/dim for images.

    Args:
        flow: what is trained, initialised from data. It is moved to the device.
        train: rows to learn from.
        val: rows to validate the averaged flow with, after each epoch; None for no validation.
        optimizer: how the weights are learned.
        options: how long, and on which device.
        seed: all random numbers follow from it, the epoch and the batch; torch's global random
            state is not used.
        observers: called in this order.
        augment: changes training batches at random.
        precision: dtype of the networks while they learn (see `Flow.set_precision`).
        processes: those that share the work; one by default.
        steps: how many in all; by default `options.max_epochs` epochs.
        every: steps of an epoch, between two validations; by default one pass over the rows.

    Attributes:
        averaged: the flow with the running average of the weights, which is validated and saved.
        epoch, step: how many are done.
        train_loss, val_loss, gradient_norm: of the last epoch; the first and last are means.
        val_losses: the validation loss of each event, in this process.
        history: for each epoch its number, step, losses and learning rate.
        best_loss, best_epoch: the lowest validation loss, and the epoch that ended with it.
        stop: set it to end after this epoch.
        threads: how many compute its steps; None for as many as torch may use (see `Threads`).
    """

    def __init__(
        self,
        flow: Flow,
        train: Rows,
        val: Rows | None,
        *,
        optimizer: OptimizerOptions,
        options: TrainerOptions,
        seed: int,
        observers: Sequence[Observer] = (),
        augment: Augment | None = None,
        precision: torch.dtype | None = None,
        processes: Processes | None = None,
        steps: int | None = None,
        every: int | None = None,
    ) -> None:
        self.processes: Processes = processes or Processes()
        self.device: torch.device = self.processes.place(find_device(options.device))
        self.optimizer_options = optimizer
        self.options = options
        self.seed = seed
        self.observers: list[Observer] = list(observers)
        self.augment = augment
        self.metric: str
        self.unit: str
        self.metric, self.unit = loss_of(flow)
        self.nats: float = flow.nats_per_bpd if flow.takes_pixels else 1.0
        own = {"rank": self.processes.rank, "world": self.processes.world}
        self.batches: Batches = Batches(train, options.batch_size_for(flow), seed=seed, **own)
        self.val: Batches | None = None if val is None else Batches(val, flow.chunk, **own)
        # As many as fill a batch of every process alike, since statistics are taken over all.
        count = math.ceil(CALIBRATION_ROWS / (self.batches.batch_size * self.processes.world))
        self.calibration: list[Batch] = [*itertools.islice(self.batches, count)]
        self.every: int = every or max(1, len(self.batches))
        epochs = options.max_epochs or math.ceil(DEFAULT_STEPS / self.every)
        self.steps: int = steps or self.every * epochs
        self.epochs: int = math.ceil(self.steps / self.every)
        self.flow: Flow = flow.to(self.device)
        # As it will be used: the precision of the networks is a matter of training alone.
        self.averaged: Flow = copy.deepcopy(flow).requires_grad_(False).eval().set_precision(None)
        flow.set_precision(precision)
        self.noise: Generator | None = None if flow.dequantizer is None else Generator(self.device)
        lr = optimizer.largest_lr(flow)
        self.adam: AveragedAdam = AveragedAdam(flow, self.averaged, optimizer, lr)
        self.model: nn.Module = Objective(flow, self.nats)
        # What computes the loss and its gradient: by autograd, until another one takes its place.
        self.gradient: Callable[..., Tensor] = self._differentiate
        self.epoch: int = 0
        self.step: int = 0
        self.index: int = 0
        self.skipped: int = 0
        self.best_epoch: int = 0
        self.best_loss: float = math.inf
        self.loss: Tensor
        self.train_loss: float = math.nan
        self.val_loss: float = math.nan
        self.gradient_norm: float = math.nan
        self.history: list[dict[str, float]] = []
        self.val_losses: Tensor = torch.empty(0)
        self.stop: bool = False
        self.finished: bool = False
        self.compiled: bool = False
        self.threads: int | None = None
        self.earlier: float = 0.0
        self.started: float = time.perf_counter()

    def run(self) -> Self:
        """Train until the last epoch, or until an observer stops it.

        Raises:
            NotFiniteError: if three steps in a row have no finite gradient, or the first one has
                none and `detect_anomaly` is set; it names the layer.
            ConnectionError: if another process of the training is lost.
        """
        self.started = time.perf_counter()
        self.adam.hold()  # which an earlier call has released
        with self.processes:
            self.model = self.processes.wrap(self.model)
            try:
                self._notify("on_start")
                batches = self._stream()
                while self.epoch < self.epochs and not self.stop:
                    self._run_epoch(batches)
                self.finished = True
            finally:
                self._notify("on_end")
                self.adam.release()
        return self

    def _notify(self, event: str) -> None:
        for observer in self.observers:
            getattr(observer, event)(self)

    def _stream(self) -> Iterator[tuple[Batch, Tensor | None]]:
        """The training batches from this step on, with weights, pass after pass, without end."""
        generator = Generator()
        first, start = divmod(self.epoch * self.every, max(1, len(self.batches)))
        for number in itertools.count(first):
            self.batches.set_epoch(number)
            generator.manual_seed(mix(self.seed, number, self.processes.rank))
            batches = self.batches.with_weights()
            for x, context, weights in itertools.islice(batches, start, None):
                if self.augment is not None:
                    x = self.augment(x, context, generator, self.done)
                yield (x, context), weights
            start = 0

    # Steps --------------------------------------------------------------------------------------

    def _run_epoch(self, batches: Iterator[tuple[Batch, Tensor | None]]) -> None:
        self._notify("on_epoch_start")
        self.flow.train()
        # Few of them follow each step, and steps may take milliseconds.
        following = [o for o in self.observers if type(o).on_step is not Observer.on_step]
        count = min(self.every, self.steps - self.epoch * self.every)
        losses = norms = torch.zeros((), device=self.device)
        for self.index, (batch, weights) in enumerate(itertools.islice(batches, count)):
            norm = self._take_step(self.place(batch), weights)
            losses = losses + self.loss
            norms = norms + norm
            for observer in following:
                observer.on_step(self)
        self.train_loss = self.processes.sum(float(losses)) / (self.processes.world * count)
        self.gradient_norm = float(norms) / count
        if self.val is not None:
            self.val_loss = self.validate()
        self.epoch += 1
        if self.val_loss < self.best_loss:
            self.best_loss, self.best_epoch = self.val_loss, self.epoch
        row = {"epoch": self.epoch, "step": self.step, f"train_{self.metric}": self.train_loss}
        self.history.append(row | {f"val_{self.metric}": self.val_loss, "lr": self.adam.lr})
        self._notify("on_epoch_end")

    def _take_step(self, batch: Batch, weights: Tensor | None) -> Tensor:
        """Move the weights down the gradient, and their averages towards them: its norm."""
        self.seek(batch)
        self.loss = self.gradient(*batch, weights, self.noise)
        norm = self.adam.clip()
        finite = norm.isfinite()
        if self.options.detect_anomaly:
            finite = finite & self.loss.isfinite()
        if finite:
            self.skipped = 0
            self.adam.step(self.done)
        else:
            self._skip(batch)
            norm = torch.zeros_like(norm)
        self.adam.average(self.step)
        self.step += 1
        return norm

    def _differentiate(self, *batch: Any) -> Tensor:
        """The loss of what an `Objective` takes; its gradient is in that of the weights."""
        loss = self.model(*batch)
        self.adam.weights.start()
        with naming(self.flow):
            loss.backward()
        return loss.detach()

    def _skip(self, batch: Batch) -> None:
        """Leave the weights as they are, and name the layer whose numbers are not finite."""
        from diffeo.training.anomaly import find_fault  # which is seldom needed

        self.skipped += 1
        self.seek(batch)
        fault = find_fault(self.flow, *batch, self.noise, self.nats)
        if self.options.detect_anomaly:
            raise NotFiniteError(f"{self.where}: {fault.what}", fault.remedy)
        if self.skipped == 3:
            what = f"three steps in a row had no finite gradient, up to {self.where}"
            raise NotFiniteError(f"{what}: {fault.what}", fault.remedy)
        what = f"{self.where} had no finite gradient and was skipped"
        warnings.warn(f"{what}: {fault.what}.", stacklevel=1)

    def place(self, batch: Batch) -> Batch:
        """A batch on the device."""
        return on_device(*batch, self.device)

    def seek(self, batch: Batch) -> None:
        """Let dequantization draw the noise of this batch of training."""
        self._seek(mix(self.seed, self.epoch, self.index), len(batch[0]))

    def _seek(self, seed: int, rows: int) -> None:
        # The rows of the processes before this one come first, and so does their noise.
        if self.noise is not None:
            self.noise.manual_seed(seed)
            skipped = self.processes.rank * rows * self.flow.dims
            dtype = next(self.averaged.parameters()).dtype
            torch.rand(skipped, generator=self.noise, device=self.device, dtype=dtype)

    # Validation ---------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> float:
        """The mean validation loss of the averaged flow; that of each event is in `val_losses`."""
        for average, value in zip(self.averaged.buffers(), self.flow.buffers(), strict=True):
            average.copy_(value)
        self.averaged.recalibrate(self._calibration_batches(), generator=self.noise)
        losses = [
            -self.averaged.log_prob(*batch, generator=self.noise) / self.nats
            for batch in self.val_batches()
        ]
        self.val_losses = torch.cat(losses) if losses else torch.empty(0, device=self.device)
        weights = self.val.weights if self.val else None
        weights = None if weights is None else weights.to(self.device)
        terms = weighted(self.val_losses, weights)
        total = self.processes.sum(float(terms.sum(dtype=widest(self.device))))
        count = len(terms) if weights is None else weights.sum()
        return total / self.processes.sum(float(count))

    def val_batches(self) -> Iterator[Batch]:
        """The validation batches of this process, with the noise that they always get."""
        for index, batch in enumerate(self.val or ()):
            if len(batch[0]):  # of the last ones, some processes may get none
                if self.noise is not None:
                    # The same in every epoch, for any number of processes: curves compare.
                    number = index * self.processes.world + self.processes.rank
                    self.noise.manual_seed(mix(self.seed, number))
                yield self.place(batch)

    def _calibration_batches(self) -> Iterator[Batch]:
        for index, batch in enumerate(self.calibration):
            self._seek(mix(self.seed, index), len(batch[0]))
            yield self.place(batch)

    # State --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs, in tensors and plain values, all of them finite."""
        flow, averaged = self.flow.state_dict(), self.averaged.state_dict()
        for state in (flow, averaged):
            bad = first_not_finite({k: v for k, v in state.items() if v.is_floating_point()})
            if bad is not None:
                raise NotFiniteError(f"after {self.where} {bad} is not finite, and was not saved")
        return {name: getattr(self, name) for name in SAVED} | {
            "epochs": self.epoch,
            "seconds": self.seconds,
            "flow": flow,
            "averaged": averaged,
            "optimizer": self.adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises:
            ValueError: if it is that of another flow, or has more epochs than are wanted.
        """
        epochs = state["epochs"]
        if epochs > self.epochs:
            what = f"it has trained for {epochs} epochs: give --trainer.max_epochs no fewer."
            raise ValueError(what)
        try:
            self.flow.load_state_dict(state["flow"])
            self.averaged.load_state_dict(state["averaged"])
            self.adam.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "it has weights of another model: leave the options of --model as they were."
            ) from error
        # One of before 0.2 has no threads.
        vars(self).update({name: state[name] for name in SAVED if name in state})
        self.epoch, self.earlier = epochs, state["seconds"]

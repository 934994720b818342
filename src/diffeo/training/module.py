"""What Lightning needs to know to train a flow by maximum likelihood."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Generator, Tensor
from torch.optim import Adam

from diffeo.data.batches import mix
from diffeo.flow import Flow
from diffeo.training.lookout import Lookout, NotFiniteError, find_fault, watched
from diffeo.training.options import loss_of
from diffeo.training.steps import OptimizerOptions
from diffeo.utils.finite import first_not_finite

Batch = tuple[Tensor, Tensor | None]

TABLE_LR, IMAGES_LR = 8e-3, 4e-3


class FlowModule(pl.LightningModule):
    """Minimise the mean negative log-likelihood of a flow, in nats, or in bits/dim for pictures.

    Args:
        flow: what is trained, initialised from data.
        options: how.
        steps: how many there will be; the schedule of the learning rate ends with the last.
        seed: all random numbers of an epoch follow from it and from the epoch's number.
        calibration: training batches for batch normalization to take its averages from, each time
            before the averaged flow is used (see `Flow.recalibrate`).
        detect_anomaly: whether to look at all that each link makes, and to stop at the first number
            that is not finite; it computes the same, and takes longer.

    Attributes:
        averaged_flow: the flow with the running average of the weights, to validate and to keep.
        metric: how the loss is called, "nll" or "bpd".
        unit: what it is in.

    Raises:
        NotFiniteError: in training, when three steps in a row have no finite gradient, when the
            validation loss is not finite, or when `detect_anomaly` finds something; it names the
            layer.
    """

    def __init__(
        self,
        flow: Flow,
        options: OptimizerOptions,
        steps: int,
        seed: int = 0,
        calibration: Iterable[Batch] = (),
        *,
        detect_anomaly: bool = False,
    ) -> None:
        super().__init__()
        # The step is written out below: Lightning's own calls every callback three times more.
        self.automatic_optimization = False
        self.flow = flow
        self.options = options
        self.steps = steps
        self.seed = seed
        self.calibration = calibration
        self.metric, self.unit = loss_of(flow)
        self.nats = flow.nats_per_bpd if flow.takes_pixels else 1.0
        # Without gradients, for which distributed training would wait in vain; and in eval mode,
        # in which Lightning leaves it, since one process alone draws pictures of it.
        self.averaged_flow: Flow = copy.deepcopy(flow).requires_grad_(False).eval()
        # As it will be used: the precision of its networks is a matter of training alone.
        self.averaged_flow.set_precision(None)
        self.lost_steps = 0
        self.lookout = Lookout(flow) if detect_anomaly else None

    def on_fit_start(self) -> None:
        # Lists, since to walk through the modules at each step takes longer than to average them.
        self.weights: list[Tensor] = list(self.flow.parameters())
        self.averages: list[Tensor] = list(self.averaged_flow.parameters())
        dequantizes = self.flow.dequantizer is not None
        self.noise = Generator(self.device) if dequantizes else None

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        # Lightning's own searches its way through whatever a batch may be.
        x, context = batch
        return x.to(device), None if context is None else context.to(device)

    # Steps --------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(mix(self.seed, self.current_epoch, self.global_rank))
        self.train_sum = torch.zeros((), device=self.device)
        self.batches_seen = 0

    def training_step(self, dataloader_iter: Iterator[tuple[list[Batch], int, int]]) -> Tensor:
        # By this name Lightning hands over the iterator, and spares a search through the batches.
        group, *_ = next(dataloader_iter)
        for batch in group:
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            self._seek_batch(batch)
            with watched(self.lookout):
                loss = -self.flow.log_prob(*batch, generator=self.noise).mean() / self.nats
            self.train_sum.add_(loss.detach())
            self._learn(loss, batch)
            self.batches_seen += 1
        return loss

    def _learn(self, loss: Tensor, batch: Batch) -> None:
        """Move the weights down the gradient of the loss, and their running average after them."""
        optimizer, step = self.optimizers(), self.global_step
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        with self.flow.naming():
            self.manual_backward(loss)
        self._look(batch, loss)
        self._clip(batch)
        lr = self.lr * self.options.lr_factor(step / self.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        self.options.average(self.averages, self.weights, step)

    def _look(self, batch: Batch, loss: Tensor) -> None:
        """Stop at the first number that is not finite, if that is asked for."""
        if self.lookout is None:
            return
        fault = self.lookout.fault(batch[0], loss.detach())
        if fault is not None:
            raise NotFiniteError(f"{self._where()}: {fault.what}", fault.remedy)
        self.lookout.start()

    def _clip(self, batch: Batch) -> None:
        """Shorten a gradient that is too long; drop one that is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.options.clip)
        if torch.isfinite(norm):
            self.lost_steps = 0
            return
        # A weight without a gradient is left as it is: the step is skipped.
        for weight in self.weights:
            weight.grad = None
        self.lost_steps += 1
        self._seek_batch(batch)
        fault = find_fault(self.flow, *batch, self.noise, self.nats)
        if self.lost_steps == 3 or self.lookout is not None:
            count = "three steps in a row" if self.lost_steps == 3 else "a step"
            said = f"{count} had no finite gradient, up to {self._where()}: {fault.what}"
            raise NotFiniteError(said, fault.remedy)
        said = f"{self._where()} had no finite gradient and was skipped: {fault.what}."
        warnings.warn(said, stacklevel=1)

    def _where(self) -> str:
        return f"step {self.global_step} of epoch {self.current_epoch}"

    def _seek_batch(self, batch: Batch) -> None:
        """Let dequantization draw what it draws for this batch of training."""
        self._seek(mix(self.seed, self.current_epoch, self.batches_seen), len(batch[0]))

    def _seek(self, seed: int, rows: int) -> None:
        """Let dequantization draw for our rows of a batch what one process alone would draw.

        The rows of the processes before this one come first, and so does their noise.
        """
        if self.noise is not None:
            self.noise.manual_seed(seed)
            before = self.global_rank * rows * self.flow.dims
            torch.rand(
                before, generator=self.noise, device=self.device, dtype=self.averages[0].dtype
            )

    def on_validation_epoch_start(self) -> None:
        # Here, and not at the end of the epoch, so that callbacks find both losses there.
        train_loss = self.train_sum / self.batches_seen
        self.log(f"train_{self.metric}", train_loss, sync_dist=True)
        for average, value in zip(self.averaged_flow.buffers(), self.flow.buffers(), strict=True):
            average.copy_(value)
        self.averaged_flow.recalibrate(self._calibration_batches(), generator=self.noise)
        self.val_sum = torch.zeros(2, device=self.device)

    def _calibration_batches(self) -> Iterator[Batch]:
        for index, batch in enumerate(self.calibration):
            self._seek(mix(self.seed, index), len(batch[0]))
            yield self.transfer_batch_to_device(batch, self.device, 0)

    def validation_step(self, batch: Batch, index: int) -> None:
        if len(batch[0]) == 0:  # of the last batches, some processes may get none
            return
        self._seek_validation(index)
        nll = -self.averaged_flow.log_prob(*batch, generator=self.noise) / self.nats
        self.val_sum += torch.stack((nll.sum(), nll.new_tensor(len(nll))))

    def on_validation_epoch_end(self) -> None:
        sums = self.all_gather(self.val_sum)
        assert isinstance(sums, Tensor)
        total, rows = sums.view(-1, 2).sum(0)
        if not total.isfinite():
            self._stop_validating()
        self.log(f"val_{self.metric}", total / rows)

    def _seek_validation(self, index: int) -> None:
        if self.noise is not None:
            # The same noise in every epoch, and for any number of processes: curves compare.
            self.noise.manual_seed(
                mix(self.seed, index * self.trainer.world_size + self.global_rank)
            )

    def _stop_validating(self) -> None:
        """Say what made the validation loss other than finite, by which no model can be chosen."""
        said = f"the validation loss of epoch {self.current_epoch} is not finite"
        remedy = "take a smaller --optimizer.lr, or leave out rows that lie far from all others"
        for index, batch in enumerate(self.trainer.val_dataloaders or ()):
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            self._seek_validation(index)
            with torch.no_grad():
                nll = -self.averaged_flow.log_prob(*batch, generator=self.noise)
            if len(nll) and not nll.mean().isfinite():
                self._seek_validation(index)
                fault = find_fault(self.averaged_flow, *batch, self.noise)
                raise NotFiniteError(f"{said}: {fault.what}", remedy)
        raise NotFiniteError(said, remedy)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Whatever came before: a checkpoint that cannot be gone on from replaces none that can.
        weights = {k: v for k, v in checkpoint["state_dict"].items() if v.is_floating_point()}
        bad = first_not_finite(weights)
        if bad is not None:
            raise NotFiniteError(f"after {self._where()} {bad} is not finite, and was not kept")

    # Optimizer ----------------------------------------------------------------------------------

    def configure_optimizers(self) -> Adam:
        self.lr = self.options.lr or (IMAGES_LR if self.flow.takes_pixels else TABLE_LR)
        return Adam(self.options.groups(self.flow), lr=self.lr, fused=True)

"""Fit a `TableFlow` to arrays in memory, on one thread, with the loop of `diffeo.training`."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Generator, Tensor

from diffeo.context import ContextSpec
from diffeo.data import Split
from diffeo.flow import Flow
from diffeo.models.tables import TableFlow
from diffeo.sklearn.settings import Settings
from diffeo.sklearn.start import START, set_start
from diffeo.training.loop import Augment, Observer, Training

Array = NDArray[Any]
LOCK = threading.Lock()
# Of the held-out likelihood, in nats: smaller gains do not count as progress.
TOLERANCE = 1e-4


def fit_flow(
    x: Array, context: Array | None, spec: ContextSpec | None, settings: Settings, seed: int
) -> tuple[Flow, Array, BestWeights]:
    """Maximise the likelihood of most rows, and choose the weights that fit the others best.

        loss = -mean log p(sqrt(1 - noise^2) w + noise * e),   e ~ N(0, I)

    where w are the whitened rows, whose mean and covariance such noise preserves (Silverman & Young
    1987). It decreases from step to step: the flow learns coarse structure first, and training
    stops at detail that the held-out rows do not share. The couplings learn in float32; the links
    before them are set by `set_start` and do not change. The start is a candidate too, and is
    chosen where the held-out rows gain less than the standard error of their gain.

    Rows x are `(n, d)`, and their context `(n, k)` is described by `spec`. Weights, split, order of
    the rows and noise follow from the seed. Returns the flow in float64, on the CPU and in eval
    mode; the indices of the held-out rows; and the observer that chose the weights.

    Raises:
        FloatingPointError: if three steps in a row have no finite gradient.
    """
    with _one_thread(), torch.enable_grad(), torch.device("cpu"):
        rows, conditions = torch.tensor(x), None if context is None else torch.tensor(context)
        with _seeded(seed):
            hidden = (settings.hidden, settings.hidden)
            flow = TableFlow(x.shape[1], settings.layers, hidden, context=spec).double()
        set_start(flow, rows, conditions)
        links: Any = flow.bijection
        encoder: Any = flow.context_encoder
        with torch.no_grad():
            w, log_det = links[:START](rows)
            c = None if conditions is None else encoder(conditions)[0].float()
        couplings = Flow(links[START:], x.shape[1], context=flow.context).float()
        order = torch.randperm(len(x), generator=Generator().manual_seed(seed))
        held_out, others = order[: settings.held_out], order[settings.held_out :]
        whitened = Split(w.float(), c)
        val, train = (Split(*whitened.take(indices)) for indices in (held_out, others))
        entry = float(log_det[held_out].mean())
        best = BestWeights(settings, entry)
        try:
            Training(
                couplings,
                train,
                val,
                optimizer=settings.optimizer,
                options=settings.trainer,
                seed=seed,
                observers=[best],
                augment=noise(train, settings),
                steps=settings.steps,
                every=settings.every,
            ).run()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error}: use a lower learning_rate, or look for extreme values in X."
            ) from error
        couplings.load_state_dict(best.choose())
        flow.cpu().double().eval()
    return flow, held_out.numpy(), best


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the fastest for small networks, and fair to other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global state, which initial weights are drawn from; one thread at a time."""
    with LOCK, torch.random.fork_rng(devices=[]):
        dtype = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def noise(train: Split, settings: Settings) -> Augment:
    """The noise on training rows.

    It is mixed only into what a linear map of the context does not explain, since it would
    dominate what a context nearly determines.
    """
    x, context = train.x, train.context
    spread, solution = torch.ones_like(x[0]), None
    if context is not None:
        # This driver accepts classes, whose columns add up to the constant one.
        solution = torch.linalg.lstsq(_design(context), x, driver="gelsd").solution
        spread = (x - _design(context) @ solution).std(0, correction=0)

    def augment(x: Tensor, context: Tensor | None, generator: Generator, done: float) -> Tensor:
        mean = torch.zeros_like(x)
        if context is not None and solution is not None:
            mean = _design(context) @ solution
        share = settings.noise_at(done)
        e = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return mean + math.sqrt(1 - share**2) * (x - mean) + share * spread * e

    return augment


def _design(context: Tensor) -> Tensor:
    return torch.cat((torch.ones_like(context[:, :1]), context), dim=1)


class BestWeights(Observer):
    """Stores the averaged weights with the highest held-out likelihood, and stops without progress.

    `entry`, the log-determinant before the couplings, makes `scores` those of the rows in their
    units: the mean log-likelihoods before the first step and at each validation, in nats. The
    highest is after `step` of the `steps`.
    """

    def __init__(self, settings: Settings, entry: float) -> None:
        self.settings, self.entry = settings, entry
        self.scores: list[float] = []
        self.step = self.steps = self.lines = 0

    def on_start(self, training: Training) -> None:
        training.validate()
        self.start = self.best = self._losses(training)
        self.start_state = self.state = copy.deepcopy(training.averaged.state_dict())

    def on_epoch_end(self, training: Training) -> None:
        losses, step, steps = self._losses(training), training.step, training.steps
        if float(losses.mean()) < float(self.best.mean()) - TOLERANCE:
            self.best, self.step = losses, step
            self.state = copy.deepcopy(training.averaged.state_dict())
        self.steps = step
        training.stop = step - self.step >= self.settings.patience
        due, verbose = 20 * step // steps, self.settings.verbose
        if verbose > 1 or (verbose == 1 and due > self.lines):
            self.lines, train = due, self.entry - training.train_loss
            Console().print(
                f"step {step}/{steps}  log-likelihood in training {train:.4f}, held out "
                f"{self.scores[-1]:.4f}  {training.seconds:.1f} s",
                highlight=False,
                soft_wrap=True,
            )

    def choose(self) -> dict[str, Any]:
        """The best weights, or those of the start, which may be as good (Breiman et al. 1984)."""
        gain = self.start - self.best
        if len(gain) > 1 and float(gain.mean()) < float(gain.std()) / len(gain) ** 0.5:
            self.step, self.state = 0, self.start_state
        return self.state

    def _losses(self, training: Training) -> Tensor:
        losses = training.val_losses.cpu().double()
        losses = torch.where(losses.isfinite(), losses, math.inf)
        self.scores.append(self.entry - float(losses.mean()))
        return losses

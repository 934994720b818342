"""Fit a `TableFlow` to arrays in memory: what "auto" means, the start, and the training."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from torch import Generator, Tensor

from diffeo.bijections.elementwise import SinhArcsinh
from diffeo.bijections.mixture_cdf import MixtureCDF
from diffeo.context import ContextSpec
from diffeo.data import Split
from diffeo.flow import Flow
from diffeo.models.tables import TableFlow
from diffeo.sklearn.tables import as_tensors
from diffeo.sklearn.weights import Distinct
from diffeo.training.loop import Augment, Observer, Training
from diffeo.training.options import OptimizerOptions, TrainerOptions

Array = NDArray[Any]
LOCK = threading.Lock()
FEW_ROWS = 2_000  # tables with fewer get a smaller flow
MAX_NOISE = 0.5  # in the first step
TOLERANCE = 1e-4  # of the held-out likelihood, in nats: smaller gains do not count as progress
MAX_ROWS = 10_000  # statistics of more, taken evenly, differ only in late digits
START = 3  # links that are set from data, and do not change in training
ITERATIONS = 60
PRIOR = 20.0  # precision of the normal prior on skew and tail
RIDGE = 1e-6  # for columns that are sums of others; in units of a column's variance


# What "auto" means -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """The parameters of a `FlowDensity`, with each "auto" resolved."""

    layers: int
    hidden: int
    noise: float  # in the last step
    steps: int
    patience: int  # stop after this many steps without a higher held-out likelihood
    held_out: int  # how many rows
    verbose: int
    optimizer: OptimizerOptions
    trainer: TrainerOptions

    @classmethod
    def of(cls, estimator: Any, rows: int) -> Self:
        """Those of an estimator for so many rows."""

        def chosen(name: str, auto: Any) -> Any:
            value = getattr(estimator, name)
            return auto if isinstance(value, str) else value

        few = rows < FEW_ROWS
        # All noise up to 400 rows, whose detail is chance; next to none for 10,000.
        noise = MAX_NOISE * min(1.0, (400 / rows) ** 1.5)
        steps = chosen("max_iter", round(10 * rows**0.6))
        fraction = chosen("validation_fraction", 0.2 if few else 0.1)
        return cls(
            layers=chosen("layers", 4 if few else 8),
            hidden=chosen("hidden", 64),
            noise=chosen("noise", noise),
            steps=steps,
            patience=chosen("n_iter_no_change", max(1, steps // 3)),
            held_out=min(rows - 1, max(1, round(fraction * rows))),
            verbose=int(estimator.verbose),
            optimizer=OptimizerOptions(chosen("learning_rate", 5e-3), ema=0.99),
            trainer=TrainerOptions(batch_size=estimator.batch_size, device=estimator.device),
        )

    def noise_at(self, done: float) -> float:
        """The noise after the share `done` of the steps: it falls linearly to the last one."""
        return self.noise + max(0.0, MAX_NOISE - self.noise) * max(0.0, 1 - done)


# Training ----------------------------------------------------------------------------------------


def fit_flow(
    table: Distinct, spec: ContextSpec | None, settings: Settings, seed: int
) -> tuple[Flow, Array, BestWeights]:
    """Maximise the likelihood of most rows, and choose the weights that fit the others best.

        loss = -mean log p(sqrt(1 - noise^2) w + noise * e),   e ~ N(0, I)

    where w are the whitened rows, whose mean and covariance such noise preserves (Silverman & Young
    1987). It decreases from step to step: the flow learns coarse structure first, and training
    stops at detail that the held-out rows do not share. The couplings learn in float32; the links
    before them are set by `set_start` and do not change. The start is a candidate too, and is
    chosen where the held-out rows gain less than the standard error of their gain.

    The context of the table is described by `spec`. Networks, split, order of the rows and noise
    follow from the seed. Returns the flow in float64, on the CPU and in eval mode; the indices of
    the held-out rows; and the observer that chose the weights.
    """
    with _one_thread(), torch.enable_grad(), torch.device("cpu"):
        rows, conditions = as_tensors(table.x, table.context)
        with _seeded(seed):
            hidden = (settings.hidden, settings.hidden)
            univariate = MixtureCDF() if rows.shape[1] == 1 else None
            flow = TableFlow(rows.shape[1], settings.layers, hidden, univariate, context=spec)
            flow.double()
        copies = torch.from_numpy(table.copies)
        every = torch.arange(len(rows)).repeat_interleave(copies)
        set_start(flow, rows[every], None if conditions is None else conditions[every])
        links: Any = flow.bijection
        encoder: Any = flow.context_encoder
        with torch.no_grad():
            w, log_det = links[:START](rows)
            c = None if conditions is None else encoder(conditions)[0].float()
            if rows.shape[1] == 1:
                links[START:].initialize(w[every], None if c is None else c[every])
        couplings = Flow(links[START:], rows.shape[1], context=flow.context).float()
        order = torch.randperm(len(rows), generator=Generator().manual_seed(seed))
        held_out, others = order[: settings.held_out], order[settings.held_out :]
        whitened = Split(w.float(), c)
        parts = [part.repeat_interleave(copies[part]) for part in (held_out, others)]
        val, train = (Split(*whitened.take(part)) for part in parts)
        entry = float(log_det[parts[0]].mean())
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
                every=max(1, min(50, settings.steps // 20)),
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
    """The fastest for small networks, and fair to other processes."""
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

    `scores` are the mean log-likelihoods before the first step and at each validation, in nats and
    in the units of the rows, since `entry` is the log-determinant before the couplings. The highest
    is after `step` of the `steps`.
    """

    def __init__(self, settings: Settings, entry: float) -> None:
        self.settings, self.entry = settings, entry
        self.scores: list[float] = []
        self.step = self.steps = 0

    def on_start(self, training: Training) -> None:
        training.validate()
        self.start = self.best = self._losses(training)
        self.start_state = self.state = copy.deepcopy(training.averaged.state_dict())

    def on_epoch_end(self, training: Training) -> None:
        losses, step = self._losses(training), training.step
        if float(losses.mean()) < float(self.best.mean()) - TOLERANCE:
            self.best, self.step = losses, step
            self.state = copy.deepcopy(training.averaged.state_dict())
        self.steps = step
        training.stop = step - self.step >= self.settings.patience
        if self.settings.verbose:
            print(  # noqa: T201
                f"step {step}/{training.steps}  log-likelihood in training "
                f"{self.entry - training.train_loss:.4f}, held out {self.scores[-1]:.4f}  "
                f"{training.seconds:.1f} s"
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


# The start --------------------------------------------------------------------------------------


def set_start(flow: TableFlow, x: Tensor, context: Tensor | None) -> None:
    """Set the links of a flow that start from data: the Gaussian of its transformed columns.

    The columns are transformed to maximise the likelihood of independent normal distributions,
    with a prior on skew and tail, since the tails of a few rows are chance. Their covariance is
    shrunk (Ledoit & Wolf 2004). Unlike `Flow.initialize` this accepts constant columns, which get
    scale 1. Flow, rows `(n, features)` and context `(n, context_features)` are in float64.
    """
    links: Any = flow.bijection
    standardize, transform, whiten = links[:START]
    standardize.fit(x)
    encoder: Any = flow.context_encoder
    if context is not None:
        encoder.fit(context)
    with torch.no_grad():
        x = standardize(x[:: -(-len(x) // MAX_ROWS)])[0]
    fit_marginals(transform, x)
    with torch.no_grad():
        y = transform(x)[0]
    whiten.fit(*_shrunk_covariance(y.numpy()))


def fit_marginals(transform: SinhArcsinh, x: Tensor) -> None:
    """Transform each column of standardized x `(n, features)` to be as normal as possible.

        minimise  log std(y_j) - mean(log dy_j/dx_j) + 20 (skew_j^2 + tail_j^2) / 2n

    with mean and standard deviation of y in closed form.
    """
    weights = list(transform.parameters())
    optimizer = torch.optim.LBFGS(weights, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        y, log_det = transform(x)
        entropy = 0.5 * y.var(0, correction=0).clamp(min=1e-12).log().sum() - log_det.mean()
        penalty = transform.skew.square().sum() + transform.tail.square().sum()
        total = entropy + penalty * PRIOR / (2 * len(x))
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        y, log_det = transform(x)
    if not (y.isfinite().all() and log_det.isfinite().all()):
        # The identity is a valid start, if not the best.
        for weight in weights:
            weight.data.zero_()


def _shrunk_covariance(y: np.ndarray) -> tuple[Tensor, Tensor]:
    """The mean, and a covariance of full rank for any columns."""
    mean, std = y.mean(0), y.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    correlation, _ = ledoit_wolf((y - mean) / std, assume_centered=True)
    flat = np.diag(correlation) < math.sqrt(RIDGE)
    correlation[flat, flat] = 1.0
    correlation = (1 - RIDGE) * correlation + RIDGE * np.eye(len(std))
    return torch.from_numpy(mean), torch.from_numpy(correlation * np.outer(std, std))

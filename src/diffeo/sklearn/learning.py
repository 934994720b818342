"""The loop of the estimators: small networks, arrays in memory, one thread, no run folder."""

from __future__ import annotations

import copy
import itertools
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Generator, Tensor
from torch.nn.utils import clip_grad_norm_

from diffeo.flow import Flow
from diffeo.models.table_flow import TableFlow
from diffeo.sklearn.settings import Settings
from diffeo.sklearn.start import START, start

Array = NDArray[Any]
Rows = tuple[Tensor, Tensor | None]  # x and context
LOCK = threading.Lock()
# Of the validation loss, in nats: less is no progress.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Learned:
    """What came of it.

    Args:
        flow: with the best weights, in float64 and eval mode.
        steps: how many were taken.
        best_step: after which of them the held-out likelihood was highest.
        losses: mean negative log-likelihoods of the held-out rows, in nats and in the units of x:
            before the first step, and at each look.
        held_out: which rows these are.
    """

    flow: Flow
    steps: int
    best_step: int
    losses: list[float]
    held_out: Array


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as is fastest for small networks and shares a machine with others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Borrow torch's global state, of which it draws first weights: one thread at a time."""
    with LOCK, torch.random.fork_rng(devices=[]):
        dtype = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def build(x: Array, context: Array | None, settings: Settings, seed: int) -> TableFlow:
    """A flow in float64 for rows `(n, d)` and their context `(n, k)`, at its `start`."""
    with _seeded(seed):
        flow = TableFlow(
            x.shape[1],
            layers=settings.layers,
            hidden=(settings.hidden,) * 2,
            context=0 if context is None else context.shape[1],
        ).double()
    start(flow, torch.tensor(x), None if context is None else torch.tensor(context))
    return flow


def learn(
    flow: TableFlow, x: Array, context: Array | None, settings: Settings, seed: int
) -> Learned:
    """Maximise the likelihood of most rows; keep the averaged weights that the others like best.

        loss = -mean log p(sqrt(1 - noise^2) w + noise * e),   e ~ N(0, I)

    where w are the whitened rows, whose mean and covariance such noise leaves as they are
    (Silverman & Young 1987). It falls from step to step: the flow learns what is coarse first, and
    training stops at the detail that these rows do not share with those held out. The couplings
    learn in float32; what comes before them stays. The start counts as well, and is kept where the
    rows held out gain no more by the best weights than the standard error of their gain: so few
    rows cannot tell them apart.

    Args:
        flow: from `build`; changed by it.
        x: rows `(n, d)`.
        context: `(n, k)` or None.
        settings: how.
        seed: of the split, the order of the rows and the noise.

    Raises:
        FloatingPointError: if three steps in a row have no finite gradient.
    """
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    links: Any = flow.bijection
    encoder: Any = flow.context_encoder
    with torch.no_grad():
        w, log_det = links[:START](torch.tensor(x))
        c = None if context is None else encoder(torch.tensor(context))[0].float()
    body = Flow(links[START:], x.shape[1], context=flow.context).float()
    held_out, rest = order[: settings.held_out], order[settings.held_out :]
    val, train = (_take((w.float(), c), rows) for rows in (held_out, rest))
    entry = float(log_det[held_out].mean())
    progress = Progress(settings, entry)
    averaged, steps, best_step, losses = _optimize(body, train, val, settings, generator, progress)
    body.load_state_dict(averaged.state_dict())
    flow.double().eval()
    losses = [loss - entry for loss in losses]
    return Learned(flow, steps, best_step, losses, held_out.numpy())


def _optimize(
    flow: Flow,
    train: Rows,
    val: Rows,
    settings: Settings,
    generator: Generator,
    progress: Progress,
) -> tuple[Flow, int, int, list[float]]:
    """The averaged flow, the steps taken, the best of them, and the losses of `val`."""
    options = settings.optimizer
    averaged = copy.deepcopy(flow).requires_grad_(False).eval()
    weights, averages = list(flow.parameters()), list(averaged.parameters())
    optimizer = torch.optim.Adam(options.groups(flow), lr=settings.lr, fused=True)
    batches = _batches(train, settings, generator)
    first = best = _losses(averaged, val)
    start = kept = copy.deepcopy(averaged.state_dict())
    losses, best_step, lost, step = [float(first.mean())], 0, 0, 0
    while step < settings.steps and step - best_step < settings.patience:
        loss = -flow.log_prob(*next(batches)).mean()
        optimizer.zero_grad()
        loss.backward()
        if torch.isfinite(clip_grad_norm_(weights, options.clip)):
            lost = 0
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * options.lr_factor(step / settings.steps)
            optimizer.step()
            options.average(averages, weights, step)
        elif (lost := lost + 1) == 3:
            raise FloatingPointError(
                f"three steps in a row had no finite gradient, up to step {step}: take a lower "
                "learning_rate, or look for extreme values in X."
            )
        step += 1
        if step % settings.every and step < settings.steps:
            continue
        now = _losses(averaged, val)
        losses.append(float(now.mean()))
        progress(step, float(loss.detach()), losses[-1])
        if losses[-1] < float(best.mean()) - TOLERANCE:
            best, best_step = now, step
            kept = copy.deepcopy(averaged.state_dict())
    if _gain_is_chance(first - best):
        best_step, kept = 0, start
    averaged.load_state_dict(kept)
    return averaged, step, best_step, losses


def _batches(rows: Rows, settings: Settings, generator: Generator) -> Iterator[Rows]:
    """Noisy batches, in an order that is new in each pass, without end."""
    x, context = rows
    told, spread = _explained(x, context)
    size = min(settings.batch_size, len(x))
    whole = len(x) // size
    for epoch in itertools.count():
        order = torch.randperm(len(x), generator=generator)
        for i, indices in enumerate(order.split(size)[:whole]):
            noise = settings.noise_at(epoch * whole + i)
            middle = told[indices]
            e = torch.randn(middle.shape, generator=generator, dtype=x.dtype)
            noisy = middle + math.sqrt(1 - noise**2) * (x[indices] - middle) + noise * spread * e
            yield noisy, None if context is None else context[indices]


def _explained(x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a context says of x by a linear map, and the spread of the rest.

    Noise is mixed into the rest alone: else it would drown what a context all but fixes.
    """
    if context is None:
        return torch.zeros_like(x), torch.ones_like(x[0])
    design = torch.cat((torch.ones_like(context[:, :1]), context), dim=1)
    # This driver takes classes, whose columns add up to the constant one.
    told = design @ torch.linalg.lstsq(design, x, driver="gelsd").solution
    return told, (x - told).std(0, correction=0)


class Progress:
    """Prints how training goes.

    Args:
        settings: how often.
        entry: what is added to give log-likelihoods in the units of the rows.
    """

    def __init__(self, settings: Settings, entry: float) -> None:
        self.settings, self.entry = settings, entry
        self.lines = 0
        self.start = time.perf_counter()
        self.console = Console()

    def __call__(self, step: int, train: float, val: float) -> None:
        settings = self.settings
        due = 20 * step // settings.steps
        if settings.verbose < 1 or (settings.verbose < 2 and due == self.lines):
            return
        self.lines = due
        self.console.print(
            f"step {step}/{settings.steps}  log-likelihood of a batch {self.entry - train:.4f}, "
            f"held out {self.entry - val:.4f}  {time.perf_counter() - self.start:.1f} s",
            highlight=False,
            soft_wrap=True,
        )


def _take(rows: Rows, indices: Tensor) -> Rows:
    x, context = rows
    return x[indices], None if context is None else context[indices]


@torch.no_grad()
def _losses(flow: Flow, rows: Rows) -> Tensor:
    """Negative log-likelihood of each row; infinite where there is none."""
    losses = -flow.log_prob(*rows).double()
    return torch.where(losses.isfinite(), losses, math.inf)


def _gain_is_chance(gains: Tensor) -> bool:
    """Whether the mean of what rows gained is within its standard error (Breiman et al. 1984)."""
    return len(gains) > 1 and float(gains.mean()) < float(gains.std()) / len(gains) ** 0.5

"""One training loop for flows of several libraries, by seconds, usually of the processor.

A warm-up and a cosine over the seconds or the steps, whichever ends first, clipped gradients, Adam,
averaged weights; the weights with the best validation stand. With a patience it stops early. Time
is that of the processor, so that other work on the machine takes nothing from anyone.
"""

from __future__ import annotations

import copy
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

LOOKS, WARM_UP, CLIP, AVERAGE = 50, 0.1, 5.0, 0.99
EVENLY = [(i + 1) / LOOKS for i in range(LOOKS)]
Rows = NDArray[np.float64]


class Setting(NamedTuple):
    """One way to train one flow."""

    layers: int
    hidden: tuple[int, ...]
    lr: float
    batch: int
    options: dict[str, Any]

    def __str__(self) -> str:
        options = " ".join(f"{name} {value!r}" for name, value in self.options.items())
        text = f"{self.layers} x {self.hidden} lr {self.lr:g} batch {self.batch} {options}"
        return text.strip()


class Learner(Protocol):
    """A flow with its optimizer."""

    def step(self, rows: NDArray[np.int64], lr: float) -> None:
        """One step on these training rows."""

    def validate(self) -> float:
        """The mean log-likelihood of the validation rows by the averaged weights."""

    def snapshot(self) -> None:
        """Take the averaged weights as the result."""

    def score(self, x: Rows) -> Rows:
        """Log-densities of rows by the result."""


def fit(
    learner: Learner,
    rows: int,
    setting: Setting,
    seconds: float,
    steps: float = math.inf,
    patience: int = LOOKS,
    *,
    clock: Callable[[], float] = time.process_time,
    shares: Sequence[float] = EVENLY,
    seen: Callable[[], None] = lambda: None,
) -> tuple[float, int]:
    """Train on so many rows; the best validation, and the steps that were taken.

    Args:
        patience: how many looks at the validation rows may pass without a better one.
        clock: tells the seconds.
        shares: of the seconds, ascending, after which there is a look; 50 by default.
        seen: is called after each.
    """
    random = np.random.default_rng(0)
    batch = min(setting.batch, rows)
    best, looks, worse, taken, share = -math.inf, 0, 0, 0, 0.0
    start = clock()
    while share < 1 and worse < patience:
        order = random.permutation(rows)
        for i in range(rows // batch):
            share = min(1.0, max((clock() - start) / seconds, taken / steps))
            rise = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * share))
            learner.step(order[i * batch : (i + 1) * batch], setting.lr * rise)
            taken += 1
            if (due := bisect_right(shares, share)) > looks:  # which costs next to nothing
                looks, value = due, learner.validate()
                worse += 1
                if value > best:
                    best, worse = value, 0
                    learner.snapshot()
                seen()
            if share == 1 or worse == patience:
                break
    return best, taken


class TorchLearner:
    """A flow in torch.

    Args:
        flow: a module.
        log_prob: of a module and rows.
        train, val: rows, float32.
    """

    def __init__(
        self,
        flow: nn.Module,
        log_prob: Callable[[nn.Module, Tensor], Tensor],
        train: Tensor,
        val: Tensor,
    ) -> None:
        self.flow, self.log_prob, self.train, self.val = flow, log_prob, train, val
        self.average = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
        self.optimizer = torch.optim.Adam(flow.parameters(), fused=True)
        self.best = copy.deepcopy(flow)

    def step(self, rows: NDArray[np.int64], lr: float) -> None:
        """One step on these training rows."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad()
        (-self.log_prob(self.flow, self.train[torch.from_numpy(rows)]).mean()).backward()
        nn.utils.clip_grad_norm_(self.flow.parameters(), CLIP)
        self.optimizer.step()
        self.average.update_parameters(self.flow)

    @torch.no_grad()
    def validate(self) -> float:
        """The mean log-likelihood of the validation rows by the averaged weights."""
        return float(self.log_prob(self.average.module, self.val).mean())

    def snapshot(self) -> None:
        """Take the averaged weights as the result."""
        self.best = copy.deepcopy(self.average.module)

    @torch.no_grad()
    def score(self, x: Rows) -> Rows:
        """Log-densities of rows by the result."""
        parts = torch.as_tensor(x, dtype=torch.float32).split(2_000)
        return torch.cat([self.log_prob(self.best, part) for part in parts]).double().numpy()


def zuko_flow(name: str, features: int, setting: Setting) -> nn.Module:
    """The flow of that name of zuko."""
    import zuko

    make = getattr(zuko.flows, name)
    flow: nn.Module = make(
        features, transforms=setting.layers, hidden_features=setting.hidden, **setting.options
    )
    return flow


def zuko_log_prob(flow: nn.Module, x: Tensor) -> Tensor:
    """Log-densities by a flow of zuko."""
    values: Tensor = flow().log_prob(x)
    return values

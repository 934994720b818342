"""The networks of a model of a mixed table in training, each on the rows of other folds."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from diffeo.mixed.networks import NetworkMembers
from diffeo.mixed.rows import Rows
from diffeo.mixed.scores import Scores
from diffeo.training.loop import Augment, Observer, Training
from diffeo.utils.ranges import Count, Whole

TOLERANCE = 1e-4  # nats that count as progress


class Bag(nn.Module):
    """The networks of a model in training, on rows that are packed into one tensor.

    Each network leaves one fold of the rows out: its loss in training mode is that of the others,
    and that of a row in eval mode is the one of the network that left it out. It has what
    `Training` needs of a flow, but is none: packed rows cannot be drawn.

    Args:
        networks: what is trained.
        width: of the packed rows.
        ignored: how many columns come first and are conditions: their probability is no loss.
    """

    takes_pixels: bool = False
    nats_per_bpd: float = 1.0
    dequantizer: None = None
    chunk: int = 4_096

    def __init__(self, networks: NetworkMembers, width: Count, ignored: Whole = 0) -> None:
        super().__init__()
        self.networks = networks
        self.dims = width
        self.ignored = ignored
        self.count: int = networks.members

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """The log-probability of packed rows `(n, width)`: `(n,)`."""
        fold, rows, scores = unpack(x, self.networks)
        log_p = self.networks.log_prob(rows, scores, self.ignored)
        own = fold == torch.arange(self.count, device=x.device)[:, None]  # (members, n)
        if self.training:
            learns = ~own
            return (log_p * learns).sum(0) / learns.sum(0).clamp(min=1)
        mean = log_p.logsumexp(0) - math.log(self.count)
        return torch.where(own.any(0), (log_p * own).sum(0), mean)

    def set_precision(self, dtype: torch.dtype | None) -> Self:
        """Nothing: networks compute in float32."""
        return self

    def recalibrate(self, batches: Any, *, generator: Generator | None = None) -> Self:
        """Nothing: there are no averages of batches."""
        return self


def pack(folds: Tensor, rows: Rows, scores: Scores) -> Tensor:
    """Rows, their logistic scores and their folds as one tensor `(n, width)`, in float32."""
    parts = [folds[:, None], rows.scores.point, *scores, *rows[1:]]
    return torch.cat([part.float() for part in parts], 1)


def unpack(x: Tensor, networks: NetworkMembers) -> tuple[Tensor, Rows, Scores]:
    """What `pack` was given."""
    layout = networks.layout
    numbers, categories = len(layout.numbers), len(layout.sizes)
    widths = [1, *[numbers] * 6, categories, 2 * len(layout.cycles), len(networks.expected)]
    fold, point, *scores, empty, places, waves, expected = x.split(widths, dim=1)
    rows = Rows(Scores(point, point, point, point), empty > 0, places.long(), waves, expected)
    return fold[:, 0], rows, Scores(*scores)


def input_noise(numbers: int, deviation: float) -> Augment | None:
    """Noise on the scores that networks see; those that they predict stay.

    It falls to 0, since sharp dependences cannot be learned through it.
    """

    def augment(x: Tensor, context: Tensor | None, generator: Generator, done: float) -> Tensor:
        seen = x[:, 1 : 1 + numbers]
        scale = deviation * (1 - done) ** 2
        noisy = seen + scale * torch.randn(seen.shape, generator=generator)
        return torch.cat((x[:, :1], noisy, x[:, 1 + numbers :]), 1)

    return augment if deviation else None


class BestWeights(Observer):
    """Stores the averaged weights with the highest held-out likelihood; stops without progress."""

    def __init__(self, bag: Bag, packed: Tensor, patience: int) -> None:
        self.bag = bag
        self.packed = packed
        self.patience = patience
        self.scores: list[float] = []
        self.step: int = 0
        self.steps: int = 0
        self.state: dict[str, Any] = copy.deepcopy(bag.state_dict())

    def on_start(self, training: Training) -> None:
        training.validate()
        self._note(training)

    def on_epoch_end(self, training: Training) -> None:
        self._note(training)
        training.stop = training.step - self.step >= self.patience

    def _note(self, training: Training) -> None:
        score = -float(training.val_losses.cpu().double().mean())
        self.steps = training.step
        if score > max(self.scores, default=-math.inf) + TOLERANCE:
            self.step, self.state = training.step, copy.deepcopy(training.averaged.state_dict())
        self.scores.append(score if math.isfinite(score) else -math.inf)

    @torch.no_grad()
    def held_out(self, which: Tensor) -> Tensor:
        """The log-probability of rows under the networks that left them out."""
        parts = self.packed[which].split(4_096)
        return torch.cat([self.bag.log_prob(part) for part in parts])

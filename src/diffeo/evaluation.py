"""How well a flow fits: mean negative log-likelihood, its error, its floor where it is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from diffeo.data import Table, moons_log_density
from diffeo.flow import Flow

SPLITS = ("train", "val", "test")
# Rows that a model sees at once, which bound the memory that its activations take.
CHUNK = 8_192

Rows = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood of some rows, in nats.

    Args:
        rows: how many there are.
        nll: the mean, in the units of the data.
        stderr: its standard error; NaN for a single row.
        standardized: what the mean would be, were each column divided by its standard deviation
            in the training split; None where that split is not at hand.
        floor: the mean under the true density of the same rows, where that is known.
    """

    rows: int
    nll: float
    stderr: float
    standardized: float | None = None
    floor: float | None = None

    @property
    def gap(self) -> float | None:
        """How far the mean lies above its floor: an estimate of the divergence KL(true | flow)."""
        return None if self.floor is None else self.nll - self.floor

    def __str__(self) -> str:
        text = f"NLL {self.nll:.4f} ± {self.stderr:.4f} nats"
        if self.standardized is not None:
            text += f" ({self.standardized:.4f} standardized)"
        if self.gap is not None:
            text += f", {self.gap:.4f} above the floor of {self.floor:.4f}"
            if self.standardized is not None:
                text += f" ({self.standardized - self.gap:.4f})"
        return text


def evaluate(flow: Flow, table: Table, split: str) -> Score:
    """Score one split ("train", "val" or "test") of a table.

    Raises:
        ValueError: if the table does not fit the flow.
    """
    rows = table.split(split)
    score = evaluate_rows(flow, [(rows.x, rows.context)])
    log_scale = float(table.train.x.double().std(0, correction=0).log().sum())
    return Score(score.rows, score.nll, score.stderr, score.nll - log_scale, true_nll(table, split))


def evaluate_rows(flow: Flow, batches: Iterable[Rows]) -> Score:
    """Score all rows of some batches; only sums are kept of them.

    Raises:
        ValueError: if there are no rows, or they do not fit the flow.
    """
    count, total, squares = 0, 0.0, 0.0
    for part in log_probs(flow, batches):
        nll = -part.double()
        # The squares are about the running mean, since large equal numbers lose their difference.
        mean = float(nll.mean())
        delta = mean - (total / count if count else mean)
        squares += float((nll - mean).square().sum())
        squares += delta**2 * count * len(nll) / (count + len(nll))
        count, total = count + len(nll), total + float(nll.sum())
    if count == 0:
        raise ValueError("there are no rows to score: pass some.")
    stderr = math.sqrt(squares / (count - 1) / count) if count > 1 else math.nan
    return Score(count, total / count, stderr)


def log_probs(flow: Flow, batches: Iterable[Rows], seed: int = 0) -> Iterator[Tensor]:
    """Log-likelihoods `(batch,)` in nats of batches of rows, computed in parts of bounded memory.

    A flow that dequantizes draws its noise from `seed`, so the same rows score the same again.
    """
    generator = Generator().manual_seed(seed)
    for x, context in batches:
        contexts = [None] * len(x) if context is None else context.split(CHUNK)
        parts = zip(x.split(CHUNK), contexts, strict=False)
        # Not around the `yield`, where it would hold for the caller too.
        with torch.no_grad():
            result = torch.cat([flow.log_prob(*part, generator=generator) for part in parts])
        yield result


def true_nll(table: Table, split: str) -> float | None:
    """Mean negative log-density of a split under the law that drew it; None if it is not known."""
    options = table.options
    if options.source != "moons" or table.columns != ["x", "y"] or table.context_columns:
        return None
    x = table.split(split).x.numpy().astype(np.float64)
    noise = 0.05 if options.noise is None else options.noise
    return -float(moons_log_density(x, noise).mean())

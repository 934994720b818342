"""Mean negative log-likelihood of a flow, its standard error, and its floor where that is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Generator, Tensor

from diffeo.data import Batches, Data, Table, moons_log_density
from diffeo.flow import Flow
from diffeo.utils.modules import in_chunks
from diffeo.utils.ranges import Count, Seed, checked
from diffeo.utils.statistics import first_moments, weighted

Batch = tuple[Tensor, Tensor | None]
Weighted = tuple[Tensor, Tensor | None, Tensor | None]


@checked
def log_probs(
    flow: Flow, batches: Iterable[Batch], *, samples: Count = 1, seed: Seed = 0
) -> Iterator[Tensor]:
    """Log-likelihoods `(batch,)` in nats of batches of events `(x, context)`, computed in chunks.

    A flow with a dequantizer knows the density of noisy copies x + u; the likelihood P(x) of the
    discrete event is their mean over u, and the log-likelihood of one copy is a lower bound of its
    logarithm. With K samples the bound is tighter (importance weighting, Burda et al. 2016):

        log P(x) >= E log(1/K sum_k p(x + u_k)),   u_k uniform in the cell

    Of a flow that `is_exact` they are the log-likelihoods themselves.

    The seed is that of the noise u. A class-conditional flow takes a batch without context as a
    mixture of all classes, equally likely (`mixture_log_prob`).

    Raises:
        ValueError: if K is above 1 for a flow that draws no noise, or noise beyond a cell.
    """
    dequantizer = flow.dequantizer
    silent = dequantizer is None or dequantizer.exact
    if samples > 1 and (dequantizer is None or dequantizer.exact or not dequantizer.bounds):
        noise = "no noise to average over" if silent else "noise beyond a cell"
        raise ValueError(f"samples is {samples}, and this flow draws {noise}: choose 1.")
    generator = Generator().manual_seed(seed)

    def bound(x: Tensor, context: Tensor | None) -> Tensor:
        mixture = context is None and flow.context.category is not None
        copies = [
            mixture_log_prob(flow, x, generator=generator)
            if mixture
            else flow.log_prob(x, context, generator=generator)
            for _ in range(samples)
        ]
        return torch.stack(copies).logsumexp(0) - math.log(samples)

    for x, context in batches:
        # Not around the `yield`, where it would hold for the caller too.
        with torch.no_grad():
            result = in_chunks(bound, x, context, flow.chunk, flow.device)
        yield result.cpu()


def is_exact(flow: Flow) -> bool:
    """Whether the scores of images are those of the images themselves, and no bounds."""
    return flow.dequantizer is not None and flow.dequantizer.exact


def mixture_log_prob(flow: Flow, x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Log-density of x under all classes, equally likely: `(batch,)`, in nats.

        log p(x) = log(1/C sum_c p(x | c))

    One noisy copy of an event serves all classes.

    Raises:
        ValueError: if the context of the flow is not one category.
    """
    if flow.context.category is None:
        raise ValueError("this flow is not conditional on classes alone: pass it a context.")
    if generator is None:
        generator = Generator(x.device).manual_seed(int(torch.randint(2**62, ())))
    state, parts = generator.get_state(), []
    for label in range(flow.context.width):
        generator.set_state(state)
        labels = torch.full((len(x),), label, device=x.device)
        parts.append(flow.log_prob(x, labels, generator=generator))
    return torch.stack(parts).logsumexp(0) - math.log(len(parts))


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood of rows or images, in nats and in the units of the data."""

    rows: int
    nll: float  # infinite where a row has no density at all
    stderr: float | None  # None where it is unknown: of a single row, or an infinite mean
    # After division of each column by its standard deviation in training, where that is known.
    standardized: float | None = None
    floor: float | None = None  # the mean under the true density of the same rows, where known
    bits_per_dim: float | None = None  # in bits for each pixel and channel; of images
    bits_stderr: float | None = None
    samples: int = 1  # K of `log_probs`
    exact: bool = False  # of images: whether this is their mean itself, and no bound of it

    @property
    def gap(self) -> float | None:
        """How far the mean lies above its floor: an estimate of the divergence KL(true | flow)."""
        return None if self.floor is None else self.nll - self.floor

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The score of an entry of `results.json`, in which an infinite mean is null."""
        return cls(**{**values} | ({"nll": math.inf} if values["nll"] is None else {}))

    def __str__(self) -> str:
        text = f"NLL {_with_error(self.nll, self.stderr)} nats"
        if self.bits_per_dim is not None:
            exact = "exact bits/dim" if self.exact else "bits/dim"
            text = f"{_with_error(self.bits_per_dim, self.bits_stderr)} {exact} ({text})"
        if self.samples > 1:
            text += f", the importance-weighted bound of {self.samples} samples"
        if self.standardized is not None:
            text += f" ({self.standardized:.4f} standardized)"
        if self.gap is not None:
            text += f", {self.gap:.4f} above the floor of {self.floor:.4f}"
            if self.standardized is not None:
                text += f" ({self.standardized - self.gap:.4f})"
        return text


def _with_error(mean: float, stderr: float | None) -> str:
    return f"{mean:.4f}" if stderr is None else f"{mean:.4f} ± {stderr:.4f}"


def evaluate(flow: Flow, data: Data, split: str, samples: int = 1) -> Score:
    """Score one split ("train", "val" or "test") of a table or of images; see `log_probs`."""
    batches = Batches(data.split(split), flow.chunk).with_weights()
    score = evaluate_batches(flow, batches, samples)
    if not isinstance(data, Table) or data.schema is not None:
        return score
    log_scale = float(first_moments(data.train.x.double())[1].log().sum())
    floor = true_nll(data, split)
    return replace(score, standardized=score.nll - log_scale, floor=floor)


def evaluate_batches(flow: Flow, batches: Iterable[Batch | Weighted], samples: int = 1) -> Score:
    """Score all events of some batches in constant memory; see `log_probs`.

        mean = sum_i w_i l_i / sum_i w_i,   l_i = -log p(x_i)
        stderr^2 = n / (n - 1) sum_i w_i^2 (l_i - mean)^2 / (sum_i w_i)^2

    Batches without weights have w = 1; n counts the rows of weight above 0.

    Raises:
        ValueError: if there are none, or they do not fit the flow.
    """
    rows, count, origin = 0, 0, 0.0
    sums = torch.zeros(5, dtype=torch.float64)  # of w, w d, w^2 d^2, w^2 d and w^2, d = l - origin
    waiting: list[Tensor | None] = []  # the weights of the batch that is scored

    def pairs() -> Iterator[Batch]:
        for x, context, *weights in batches:
            waiting[:] = weights or [None]
            yield x, context

    for part in log_probs(flow, pairs(), samples=samples):
        nll, w = -part.double(), waiting[0]
        w = torch.ones_like(nll) if w is None else w.double()
        if rows == 0 and len(nll):
            # Sums are about this number, since large equal numbers lose their difference.
            median = float(nll.median())
            origin = median if math.isfinite(median) else 0.0
        rows, count = rows + len(nll), count + int((w > 0).sum())
        wd = weighted(nll - origin, w)
        sums += torch.stack([w.sum(), wd.sum(), (wd * wd).sum(), (w * wd).sum(), (w * w).sum()])
    if rows == 0:
        raise ValueError("there are no rows to score: pass some.")
    if count == 0:
        raise ValueError("all rows have weight 0: pass others.")
    total, mean, squares, products, weights = sums.tolist()
    mean, stderr = mean / total, None
    if count > 1 and math.isfinite(squares):
        spread = max(squares - 2 * mean * products + mean**2 * weights, 0.0)
        stderr = math.sqrt(count / (count - 1) * spread) / total
    score = Score(rows, origin + mean, stderr, samples=samples, exact=is_exact(flow))
    if flow.takes_pixels:
        bit = flow.nats_per_bpd
        in_bits = None if stderr is None else stderr / bit
        score = replace(score, bits_per_dim=score.nll / bit, bits_stderr=in_bits)
    return score


def true_nll(table: Table, split: str) -> float | None:
    """Mean negative log-density of a split under the law that drew it; None if it is not known."""
    options = table.options
    if options.source != "moons" or table.columns != ["x", "y"] or table.context:
        return None
    if table.train.weights is not None:
        return None
    x = table.split(split).x.numpy().astype(np.float64)
    noise = 0.05 if options.noise is None else options.noise
    return -float(moons_log_density(x, noise).mean())

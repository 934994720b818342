"""Scores of how much an event is like the training data; higher is more so, in nats.

Flows give simple images of other kinds a higher likelihood than their own data. Typicality asks how
usual a likelihood is rather than how high; complexity corrects for how simple an event is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.data import Batches, Data, Gallery
from diffeo.evaluation.code_length import image_bits
from diffeo.evaluation.likelihood import Batch, log_probs
from diffeo.flow import Flow
from diffeo.utils.console import printable

Array = NDArray[Any]
Kind = Literal["log_prob", "typicality", "complexity"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# The most validation events to measure a reference on; without labels, each counts once per class.
MAX_EVENTS = 20_000
MAX_BINS = 100  # of a column: more would make config.json long and add little
PERCENTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ColumnDensity:
    """The density of one column on its own, as an order-0 coder learns it from training values.

        q(v) = (n h(v) + c(v)) / (n + 1)

    h is the histogram of the n training values, with `counts` `[bins]` between rising `edges`
    `[bins + 1]`, and c one more value spread as a Cauchy density over the histogram's range, half
    of it inside: the coder's escape. So q integrates to 1, is never 0, and falls so slowly outside
    of the training range that it does not make up for outliers.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def learn(cls, values: Array) -> Self:
        """Bins of about equal counts, 2 n^(2/5) of them and 100 at most, for values `[n]`.

        Edges lie midway between neighbouring values, so that equal values share a bin; few
        different values have a bin each. (The number of bins: Moore 1986)

        Raises:
            ValueError: if there is no finite value.
        """
        values = values[np.isfinite(values)].astype(np.float64)
        if len(values) == 0:
            raise ValueError("a column without a finite value has no code: pass training rows.")
        levels, counts = np.unique(values, return_counts=True)
        middle = (levels[1:] + levels[:-1]) / 2
        if len(middle):
            first, last = 2 * levels[0] - middle[0], 2 * levels[-1] - middle[-1]
        else:
            half = max(abs(levels[0]), 1.0) / 2
            first, last = levels[0] - half, levels[0] + half
        candidates = np.array([first, *middle, last])
        below = np.array([0, *counts.cumsum()])
        bins = min(MAX_BINS, math.ceil(2 * len(values) ** 0.4))
        chosen = np.arange(len(candidates))
        if len(levels) > bins:
            chosen = np.unique(np.searchsorted(below, np.linspace(0, len(values), bins + 1)))
        # Midpoints of neighbours that differ in the last digit alone may round to one of them.
        chosen = chosen[np.diff(candidates[chosen], prepend=-np.inf) > 0]
        return cls(tuple(candidates[chosen].tolist()), tuple(np.diff(below[chosen]).tolist()))

    def log_density(self, values: Array) -> Array:
        """The log q of each value `[n]`, in nats, in the units of the column."""
        edges, counts = np.array(self.edges), np.array(self.counts, dtype=np.float64)
        heights = np.concatenate(([0.0], counts / np.diff(edges), [0.0]))
        place = np.searchsorted(edges, values, side="right")
        place[values == edges[-1]] -= 1
        middle, half = (edges[0] + edges[-1]) / 2, (edges[-1] - edges[0]) / 2
        escape = -np.log(math.pi * half) - np.log1p(((values - middle) / half) ** 2)
        with np.errstate(divide="ignore", invalid="ignore"):  # of empty cells
            return np.logaddexp(np.log(heights[place]), escape) - math.log(counts.sum() + 1)

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> Self:
        """Read plain numbers: a ValueError if the edges do not rise, or counts do not fit them."""
        edges = tuple(map(float, numbers["edges"]))
        counts = tuple(map(int, numbers["counts"]))
        rising = len(edges) > 1 and bool((np.diff(edges) > 0).all() and np.isfinite(edges).all())
        if not rising or len(counts) != len(edges) - 1 or min(counts) < 0:
            raise ValueError("a column's density needs rising edges, and a count for each bin")
        return cls(edges, counts)


def row_nats(x: Tensor, columns: Sequence[ColumnDensity]) -> Tensor:
    """Nats of each row `[batch, *shape]` under independent columns, `(batch,)`, in units of x.

        L(x) = -sum_j log q_j(x_j)

    It comes from a density, so it may be below 0. An empty cell adds nothing.

    Raises:
        ValueError: if there are not as many densities as columns.
    """
    rows = x.flatten(1).numpy(force=True).astype(np.float64)
    if rows.shape[1] != len(columns):
        raise ValueError(
            f"{len(columns)} densities of columns do not fit rows of {rows.shape[1]}: use the "
            "reference of the same model."
        )
    nats = [-density.log_density(rows[:, j]) for j, density in enumerate(columns)]
    nats = [np.where(np.isnan(x), 0.0, part) for x, part in zip(rows.T, nats, strict=True)]
    return torch.from_numpy(np.sum(nats, axis=0))


@dataclass(frozen=True)
class Reference:
    """The log-likelihoods, in nats, of held-out events, against which others are scored."""

    events: int  # how many there are
    mean: float
    quantiles: tuple[float, ...]  # 101, from the least by percents to the greatest
    columns: tuple[ColumnDensity, ...] = ()  # of a table, from its training rows
    unlabelled: Reference | None = None  # the same without labels; of class-conditional flows

    @classmethod
    def measure(
        cls, flow: Flow, held_out: Iterable[Batch], training: Iterable[Batch] | None = None
    ) -> Self:
        """Measure batches `(x, context)` that the flow, in eval mode, did not learn from.

        The columns of a table are learned from `training`, or else from the held-out rows.

        Raises:
            ValueError: if there are no events, or none of a finite likelihood.
        """
        labelled: list[Tensor] = []
        unlabelled: list[Tensor] = []
        rows: list[Tensor] = []
        for i, (x, context) in enumerate(held_out):
            labelled += log_probs(flow, [(x, context)], seed=i)
            if context is not None and flow.context.category is not None:
                unlabelled += log_probs(flow, [(x, None)], seed=i)
            if not flow.takes_pixels and training is None:
                rows.append(x)
        if not flow.takes_pixels and training is not None:
            rows = [x for x, _ in training]
        values = torch.cat(rows).flatten(1).numpy(force=True).T if rows else ()
        columns = tuple(map(ColumnDensity.learn, values))
        without = cls(*_summary(unlabelled), columns) if unlabelled else None
        return cls(*_summary(labelled), columns, without)

    @classmethod
    def learn(cls, flow: Flow, data: Data) -> Self:
        """Measure the validation split of the data of its training."""
        category = flow.context.category
        most = MAX_EVENTS // (len(category.values) if category else 1)
        held_out = itertools.islice(Batches(data.val, 256), math.ceil(most / 256))
        training = None if flow.takes_pixels else Batches(data.train, 65_536)
        return cls.measure(flow, held_out, training)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists of them."""
        numbers = dataclasses.asdict(self)
        if self.unlabelled is not None:
            # Columns are the same with and without labels.
            del numbers["unlabelled"]["columns"]
        return numbers

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> Self:
        """Read the numbers of `to_json`: a ValueError if they are something else."""
        try:
            # "codes" is what 0.1.0 called them.
            columns = numbers.get("columns", numbers.get("codes", ()))
            columns = tuple(ColumnDensity.from_json(column) for column in columns)
            inner = numbers.get("unlabelled")
            unlabelled = None if inner is None else cls(*_checked(inner), columns)
            return cls(*_checked(numbers), columns, unlabelled)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"the model's reference for scores is damaged ({error!r}): measure it again."
            ) from error

    def attach(self, flow: Flow) -> None:
        """Put it into the flow's metadata, which is saved with the flow."""
        flow.metadata["scores"] = self.to_json()

    @classmethod
    def of(cls, flow: Flow) -> Self:
        """The reference in a flow's metadata: a ValueError if there is none."""
        if "scores" not in flow.metadata:
            raise ValueError(
                "the model does not know what its training data score: name data like them by "
                "--reference DATA, or in Python by Reference.measure(flow, batches)."
            )
        return cls.from_json(flow.metadata["scores"])


def _checked(numbers: Mapping[str, Any]) -> tuple[int, float, tuple[float, ...]]:
    quantiles = tuple(map(float, numbers["quantiles"]))
    if len(quantiles) != len(PERCENTS) or not np.isfinite([numbers["mean"], *quantiles]).all():
        raise ValueError(f"it needs {len(PERCENTS)} finite quantiles")
    return int(numbers["events"]), float(numbers["mean"]), quantiles


def _summary(parts: list[Tensor]) -> tuple[int, float, tuple[float, ...]]:
    values = torch.cat(parts).double().numpy() if parts else np.empty(0)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        raise ValueError(
            "there is no held-out event of a finite likelihood to compare with: pass some that the "
            "model did not learn from."
        )
    return len(values), float(values.mean()), tuple(np.quantile(values, PERCENTS).tolist())


def scores(
    flow: Flow,
    batches: Iterable[Batch],
    kind: Kind = "log_prob",
    reference: Reference | None = None,
    *,
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The log-likelihood and the `score` of each event: pairs of `(batch,)`, in nats.

    The flow is in eval mode, batches are `(x, context)`, and the reference is by default the one in
    the flow's metadata; see `log_probs` for events without labels and for the seed.
    """
    if needs_reference(flow, kind) and reference is None:
        reference = Reference.of(flow)
    for_score, batches = itertools.tee(batches)
    for (x, context), log_prob in zip(for_score, log_probs(flow, batches, seed=seed), strict=True):
        against = reference
        if reference is not None and context is None and reference.unlabelled is not None:
            against = reference.unlabelled
        yield log_prob, score(flow, x, log_prob, kind, against)


def score(
    flow: Flow, x: Tensor, log_prob: Tensor, kind: Kind, reference: Reference | None = None
) -> Tensor:
    """One score of events x `(batch, *shape)` of known log-likelihood: `(batch,)`, in nats.

        log_prob     log p(x)
        typicality   -|log p(x) - mean|,   the mean being that of held-out events
        complexity   log p(x) + L(x)

    with L the nats of a code that knows nothing of what the flow has learned: for images the bits
    of the shortest lossless file, times log 2 (`image_bits`); for tables those under independent
    columns (`row_nats`), which makes it a likelihood ratio. For one column it only says how far the
    flow is from a histogram. The reference is by default the one in the flow's metadata.

    Raises:
        ValueError: if the kind is unknown, or needs a reference and there is none.

    (Nalisnick et al. 2019; Serra et al. 2020; Ren et al. 2019)
    """
    if needs_reference(flow, kind):
        reference = reference or Reference.of(flow)
        if kind == "typicality":
            return -(log_prob - reference.mean).abs()
        nats = row_nats(x, reference.columns)
    elif kind == "log_prob":
        return log_prob
    else:
        assert flow.dequantizer is not None
        # With fewer than 8 bits the flow models, and gives the likelihood of, a coarser image.
        modelled = flow.dequantizer.inverse(flow.dequantizer(x.to(flow.device))[0])
        nats = image_bits(modelled) * math.log(2)
    return (log_prob.cpu().double() + nats).to(log_prob)


def needs_reference(flow: Flow, kind: str) -> bool:
    """Whether a score compares with other data: a ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"there is no score '{kind}': choose one of {', '.join(KINDS)}.")
    return kind == "typicality" or (kind == "complexity" and not flow.takes_pixels)


def column_names(flow: Flow, kind: Kind) -> list[str]:
    """The columns of `row_scores`."""
    bits = ["bits_per_dim"] if flow.takes_pixels else []
    return list(dict.fromkeys(["log_prob", *bits, kind]))


def row_scores(
    flow: Flow,
    batches: Iterable[Batch],
    kind: Kind = "log_prob",
    reference: Reference | None = None,
    *,
    seed: int = 0,
) -> Iterator[Array]:
    """The `column_names` of each event, `[events, columns]`; see `scores`."""
    names = column_names(flow, kind)
    for log_prob, value in scores(flow, batches, kind, reference, seed=seed):
        columns: dict[str, Tensor] = {"log_prob": log_prob, kind: value}
        if flow.takes_pixels:
            columns["bits_per_dim"] = -log_prob / flow.nats_per_bpd
        yield torch.stack([columns[name] for name in names], dim=1).numpy()


def image_columns(
    flow: Flow, gallery: Gallery, kind: Kind, reference: Reference | None, *, seed: int = 0
) -> dict[str, list[str] | Array]:
    """The name and the `column_names` of each image, by column; see `scores`."""
    batches = Batches(gallery.images, flow.chunk)
    rows = np.concatenate(list(row_scores(flow, batches, kind, reference, seed=seed)))
    # A name may hold bytes that no text file can, or that control a terminal.
    names = [printable(name) for name in gallery.names]
    return {"image": names} | dict(zip(column_names(flow, kind), rows.T, strict=True))

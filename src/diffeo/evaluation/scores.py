"""Scores that say how much an event is like the training data, higher being more so, in nats.

Flows give simple pictures of something else a higher likelihood than their own data. Typicality
asks how usual a likelihood is rather than how high; complexity takes off what is due to an event's
being simple.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.data import Batches, Data, Gallery
from diffeo.evaluation.code_length import ColumnCode, image_bits, row_nats
from diffeo.evaluation.likelihood import Batch, class_count, log_probs
from diffeo.flow import Flow
from diffeo.utils.console import printable

Array = NDArray[Any]
Kind = Literal["log_prob", "typicality", "complexity"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Of validation events at most, to learn what is usual; where no class is told, one for each class.
PASSES = 20_000
PERCENTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Reference:
    """What a flow says of data like those of its training: scores are seen against it.

    Args:
        events: how many held-out events it was measured on.
        mean: of their log-likelihoods, in nats.
        quantiles: 101 of their log-likelihoods, from the least by percents to the greatest.
        codes: what each column is by itself; for tables.
        unlabelled: the same where the class is not told; for flows that are conditional on
            classes alone (see `class_count`).
    """

    events: int
    mean: float
    quantiles: tuple[float, ...]
    codes: tuple[ColumnCode, ...] = ()
    unlabelled: Reference | None = None

    @classmethod
    def measure(
        cls, flow: Flow, held_out: Iterable[Batch], training: Iterable[Batch] | None = None
    ) -> Self:
        """Pass events that the flow did not learn from.

        Args:
            flow: the model, in eval mode.
            held_out: batches `(x, context)`.
            training: for a table, what its columns are learned from; the held-out rows where None.

        Raises:
            ValueError: if there are no events, or none of a finite likelihood.
        """
        told: list[Tensor] = []
        untold: list[Tensor] = []
        rows: list[Tensor] = []
        for i, (x, context) in enumerate(held_out):
            told += log_probs(flow, [(x, context)], seed=i)
            if context is not None and class_count(flow):
                untold += log_probs(flow, [(x, None)], seed=i)
            if not flow.takes_pixels and training is None:
                rows.append(x)
        if not flow.takes_pixels and training is not None:
            rows = [x for x, _ in training]
        columns = torch.cat(rows).flatten(1).numpy(force=True).T if rows else ()
        codes = tuple(ColumnCode.learn(column) for column in columns)
        unlabelled = cls(*_usual(untold), codes) if untold else None
        return cls(*_usual(told), codes, unlabelled)

    @classmethod
    def learn(cls, flow: Flow, data: Data) -> Self:
        """The reference of a flow and the data of its training: `measure` on its splits."""
        most = PASSES // max(class_count(flow), 1)
        held_out = itertools.islice(Batches(data.val, 256), math.ceil(most / 256))
        training = None if flow.takes_pixels else Batches(data.train, 65_536)
        return cls.measure(flow, held_out, training)

    def rank(self, log_prob: Tensor) -> Tensor:
        """The share of held-out events, 0 to 1, of a lower log-likelihood than each `(batch,)`."""
        share = np.interp(log_prob.numpy(force=True), self.quantiles, PERCENTS)
        return torch.from_numpy(share).to(log_prob.dtype)

    # As numbers, and in a model -----------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists of them."""
        numbers: dict[str, Any] = {"events": self.events, "mean": self.mean}
        numbers["quantiles"] = list(self.quantiles)
        if self.codes:
            numbers["codes"] = [code.to_json() for code in self.codes]
        if self.unlabelled is not None:
            # Columns are the same whether the class is told or not.
            numbers["unlabelled"] = self.unlabelled.to_json()
            numbers["unlabelled"].pop("codes", None)
        return numbers

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> Self:
        """What `to_json` wrote.

        Raises:
            ValueError: if it is something else.
        """
        try:
            codes = tuple(map(ColumnCode.from_json, numbers.get("codes", ())))
            inner = numbers.get("unlabelled")
            unlabelled = None if inner is None else cls(*_numbers(inner), codes)
            return cls(*_numbers(numbers), codes, unlabelled)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"the model's reference for scores is damaged ({error!r}): measure it anew."
            ) from error

    def keep(self, flow: Flow) -> None:
        """Put it into the flow's metadata, with which it is saved."""
        flow.metadata["scores"] = self.to_json()

    @classmethod
    def of(cls, flow: Flow) -> Self:
        """The one that a flow keeps.

        Raises:
            ValueError: if it keeps none.
        """
        if "scores" not in flow.metadata:
            raise ValueError(
                "the model does not know what its training data score: name data like them by "
                "--reference DATA, or in Python by Reference.measure(flow, batches)."
            )
        return cls.from_json(flow.metadata["scores"])


def _numbers(kept: Mapping[str, Any]) -> tuple[int, float, tuple[float, ...]]:
    """Events, mean and quantiles of what was kept."""
    quantiles = tuple(map(float, kept["quantiles"]))
    if len(quantiles) != len(PERCENTS) or not np.isfinite([kept["mean"], *quantiles]).all():
        raise ValueError(f"it wants {len(PERCENTS)} finite quantiles")
    return int(kept["events"]), float(kept["mean"]), quantiles


def _usual(parts: list[Tensor]) -> tuple[int, float, tuple[float, ...]]:
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
    """The log-likelihood and the score of each event: pairs of `(batch,)`, in nats.

    A flow that is conditional on classes alone takes a batch without context under all classes,
    equally likely (see `evaluation.log_probs`).

    Args:
        flow: the model, in eval mode.
        batches: the events, `(x, context)`.
        kind: which score; see `score`.
        reference: what is usual; by default the one that the flow keeps.
        seed: of the noise of dequantization.

    Raises:
        ValueError: as `score`.
    """
    check_kind(kind)
    if reference is None and needs_reference(flow, kind):
        reference = Reference.of(flow)
    ahead, batches = itertools.tee(batches)
    for (x, context), log_prob in zip(ahead, log_probs(flow, batches, seed=seed), strict=True):
        usual = reference
        if reference is not None and context is None and reference.unlabelled is not None:
            usual = reference.unlabelled
        yield log_prob, score(flow, x, log_prob, kind, usual)


def column_names(kind: Kind) -> list[str]:
    """What is written of each row of a table: its log-likelihood, and the score if it is another.

    Raises:
        ValueError: if the kind is unknown.
    """
    check_kind(kind)
    return list(dict.fromkeys(("log_prob", kind)))


def row_scores(
    flow: Flow,
    batches: Iterable[Batch],
    kind: Kind = "log_prob",
    reference: Reference | None = None,
    *,
    seed: int = 0,
) -> Iterator[Array]:
    """The `column_names` of each row, `[rows, columns]`; see `scores`."""
    columns = len(column_names(kind))
    for pair in scores(flow, batches, kind, reference, seed=seed):
        yield torch.stack(pair[:columns], dim=1).numpy()


def image_scores(
    flow: Flow,
    gallery: Gallery,
    kind: Kind = "log_prob",
    reference: Reference | None = None,
    *,
    seed: int = 0,
) -> dict[str, list[str] | Array]:
    """Of each picture its name, log-likelihood, bits/dim and score, by column; see `scores`."""
    batches = Batches(gallery.images, flow.chunk)
    pairs = list(scores(flow, batches, kind, reference, seed=seed))
    nats, values = (torch.cat(column) for column in zip(*pairs, strict=True))
    bits = -nats / flow.nats_per_bpd
    columns = {"log_prob": nats, "bits_per_dim": bits, kind: values}
    # A name may have what no file of text can hold, and what a terminal obeys.
    names = [printable(name) for name in gallery.names]
    return {"picture": names} | {key: value.numpy() for key, value in columns.items()}


def score(
    flow: Flow, x: Tensor, log_prob: Tensor, kind: Kind, reference: Reference | None = None
) -> Tensor:
    """One score of events x `(batch, *shape)` of known log-likelihood `(batch,)`: `(batch,)`, nats.

        log_prob     log p(x)
        typicality   -|log p(x) - mean|,   the mean being that of held-out events
        complexity   log p(x) + L(x)

    with L the nats of a code that knows nothing of what the flow has learned: for pictures the
    bits of the shortest lossless file, times log 2 (`image_bits`); for tables those under
    independent columns (`row_nats`), which makes it a likelihood ratio. Of one column it
    says nothing but how far the flow is from a histogram.

    Args:
        flow: the model.
        x: the events.
        log_prob: what the flow says of them.
        kind: which score.
        reference: what is usual; by default the one that the flow keeps.

    Raises:
        ValueError: if the kind is unknown, or needs a reference and there is none.

    (Nalisnick et al. 2019; Serra et al. 2020; Ren et al. 2019)
    """
    check_kind(kind)
    if kind == "log_prob":
        return log_prob
    if kind == "complexity" and flow.takes_pixels:
        assert flow.dequantizer is not None
        # With fewer bits than 8 the flow sees, and says the likelihood of, a coarser picture.
        seen = flow.dequantizer.inverse(flow.dequantizer(x.to(flow.device))[0])
        nats = image_bits(seen) * math.log(2)
    else:
        reference = reference or Reference.of(flow)
        if kind == "typicality":
            return -(log_prob - reference.mean).abs()
        nats = row_nats(x, reference.codes)
    return (log_prob.double().cpu() + nats).to(log_prob)


def needs_reference(flow: Flow, kind: Kind) -> bool:
    """Whether a score is seen against other data."""
    return kind == "typicality" or (kind == "complexity" and not flow.takes_pixels)


def check_kind(kind: str) -> None:
    """Refuse a kind of score that there is not.

    Raises:
        ValueError: if it is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no score '{kind}': choose one of {', '.join(KINDS)}.")

"""Scores of how much an event is like the training data; higher is more so, in nats.

Flows give simple images of other kinds a higher likelihood than their own data. Typicality asks how
usual a likelihood is rather than how high; complexity corrects for how simple an event is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from diffeo.data import Batches, Data, Gallery
from diffeo.evaluation.code_length import ColumnDensity, image_bits, row_nats
from diffeo.evaluation.likelihood import Batch, log_probs
from diffeo.flow import Flow
from diffeo.utils.console import printable

Array = NDArray[Any]
Kind = Literal["log_prob", "typicality", "complexity"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# The most validation events to measure a reference on; without labels, each counts once per class.
MAX_EVENTS = 20_000
PERCENTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Reference:
    """The likelihoods of events like those of the training, against which others are scored.

    Args:
        events: how many held-out events it was measured on.
        mean: of their log-likelihoods, in nats.
        quantiles: 101 of their log-likelihoods, from the least by percents to the greatest.
        columns: the density of each column on its own; for tables.
        unlabelled: the same without labels; for class-conditional flows.
    """

    events: int
    mean: float
    quantiles: tuple[float, ...]
    columns: tuple[ColumnDensity, ...] = ()
    unlabelled: Reference | None = None

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

    def rank(self, log_prob: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The share, 0 to 1, of held-out events with a lower log-likelihood than each."""
        share = np.interp(log_prob.numpy(force=True), self.quantiles, PERCENTS)
        return torch.from_numpy(share).to(log_prob.dtype)

    # As JSON, and in a model --------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists of them."""
        numbers: dict[str, Any] = {"events": self.events, "mean": self.mean}
        numbers["quantiles"] = list(self.quantiles)
        if self.columns:
            numbers["columns"] = [column.to_json() for column in self.columns]
        if self.unlabelled is not None:
            # Columns are the same with and without labels.
            numbers["unlabelled"] = self.unlabelled.to_json()
            numbers["unlabelled"].pop("columns", None)
        return numbers

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> Self:
        """Read the numbers of `to_json`.

        Raises:
            ValueError: if they are something else.
        """
        try:
            # "codes" is what 0.1.0 called them.
            columns = numbers.get("columns", numbers.get("codes", ()))
            columns = tuple(map(ColumnDensity.from_json, columns))
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
        """The reference in a flow's metadata.

        Raises:
            ValueError: if there is none.
        """
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
) -> Iterator[tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]]:
    """The log-likelihood and the `score` of each event: pairs of `(batch,)`, in nats.

    The flow is in eval mode, batches are `(x, context)`, and the reference is by default the one in
    the flow's metadata; see `log_probs` for events without labels and for the seed.

    Raises:
        ValueError: as `score`.
    """
    check_kind(kind)
    if reference is None and needs_reference(flow, kind):
        reference = Reference.of(flow)
    for_score, batches = itertools.tee(batches)
    for (x, context), log_prob in zip(for_score, log_probs(flow, batches, seed=seed), strict=True):
        against = reference
        if reference is not None and context is None and reference.unlabelled is not None:
            against = reference.unlabelled
        yield log_prob, score(flow, x, log_prob, kind, against)


def column_names(kind: Kind) -> list[str]:
    """The columns that are written for a table: the log-likelihood, and any other score.

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
    """The name, log-likelihood, bits/dim and score of each image, by column; see `scores`."""
    batches = Batches(gallery.images, flow.chunk)
    pairs = list(scores(flow, batches, kind, reference, seed=seed))
    nats, values = (torch.cat(column) for column in zip(*pairs, strict=True))
    columns = {"log_prob": nats, "bits_per_dim": -nats / flow.nats_per_bpd, kind: values}
    # A name may hold bytes that no text file can, or that control a terminal.
    names = [printable(name) for name in gallery.names]
    return {"image": names} | {key: value.numpy() for key, value in columns.items()}


def score(
    flow: Flow,
    x: Shaped[Tensor, "batch *shape"],
    log_prob: Float[Tensor, " batch"],
    kind: Kind,
    reference: Reference | None = None,
) -> Float[Tensor, " batch"]:
    """One score of events x of known log-likelihood: `(batch,)`, in nats.

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
    check_kind(kind)
    if kind == "log_prob":
        return log_prob
    if kind == "complexity" and flow.takes_pixels:
        assert flow.dequantizer is not None
        # With fewer than 8 bits the flow models, and gives the likelihood of, a coarser image.
        modelled = flow.dequantizer.inverse(flow.dequantizer(x.to(flow.device))[0])
        nats = image_bits(modelled) * math.log(2)
    else:
        reference = reference or Reference.of(flow)
        if kind == "typicality":
            return -(log_prob - reference.mean).abs()
        nats = row_nats(x, reference.columns)
    return (log_prob.double().cpu() + nats).to(log_prob)


def needs_reference(flow: Flow, kind: Kind) -> bool:
    """Whether a score compares with other data."""
    return kind == "typicality" or (kind == "complexity" and not flow.takes_pixels)


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of score.

    Raises:
        ValueError: if it is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no score '{kind}': choose one of {', '.join(KINDS)}.")

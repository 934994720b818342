"""The subject of a page: a model and its data."""

from __future__ import annotations

import json
import math
import threading
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from diffeo import latent
from diffeo.data import Data, Images, ImageSplit, Split, Table, size_of
from diffeo.evaluation.likelihood import log_probs
from diffeo.explorer.conditions import Conditions
from diffeo.explorer.reference import Reference, stored_reference
from diffeo.flow import Flow
from diffeo.latent import Directions
from diffeo.models.mixed import MixedFlow
from diffeo.run import Run

OWN = 64  # samples that replace data that are not available
ENCODED = 2_000  # images in which directions are looked for
SCORED = 4_096  # evaluations behind the histogram of log-likelihoods
COOL = 0.8  # temperature of samples that replace data


class Subject:
    """A model and its data, read by all visitors and changed by none.

    Args:
        run: the model; its data are read if they are available.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.flow: Flow = run.flow.eval().requires_grad_(False)
        self.data: Data | None = None
        self.missing: str = ""
        try:
            self.data = run.data()
        except (ValueError, OSError) as error:
            self.missing = " ".join(str(error).split())
        train = None if self.data is None else self.data.train
        self.conditions: Conditions = Conditions.of(
            self.flow, None if train is None else train.context
        )
        self._lock = threading.Lock()

    # What it is ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.folder.resolve().name or str(self.run.folder)

    @property
    def kind(self) -> str:
        """What it models: "images", "mixed" for tables, "plane" for two numbers, or "table"."""
        if self.flow.takes_pixels:
            return "images"
        if isinstance(self.flow, MixedFlow):
            return "mixed"
        return "plane" if self.flow.dims == 2 else "table"

    @property
    def unit(self) -> str:
        """What its events are called."""
        return "images" if self.kind == "images" else "rows"

    def describe(self) -> str:
        """One line for the head of the page."""
        weights = sum(p.numel() for p in self.flow.parameters())
        what = size_of(self.flow.shape) if self.kind == "images" else f"{self.flow.dims} columns"
        data = self.flow.metadata.get("data")
        parts = [type(self.flow).__name__ + (f" of {data}" if data else ""), what]
        if weights:  # mixtures alone have none that are trained
            parts.append(f"{weights:,} weights")
        if score := self._test_score():
            parts.append(score)
        return " · ".join(parts)

    def _test_score(self) -> str:
        try:
            results = json.loads((self.run.folder / "results.json").read_text(encoding="utf-8"))
            score = results["test"]
            if score["bits_per_dim"] is not None:
                return f"{score['bits_per_dim']:.3f} bits/dim on test images"
            return f"{score['nll']:.3f} nats on test rows"
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    # Images -----------------------------------------------------------------------------------

    @cached_property
    def _own(self) -> tuple[Tensor, Tensor | None]:
        """Samples that replace missing data."""
        context = self.conditions.draw(OWN, seed=0)
        return self.run.sample(OWN, context=context, temperature=COOL, seed=0), context

    @property
    def image_count(self) -> int:
        """How many images there are to choose from."""
        return len(self.data.test) if isinstance(self.data, Images) else OWN

    def image(self, number: int) -> tuple[Tensor, Tensor | None, str]:
        """An image by its number: itself `(1, C, H, W)`, its context, and a caption."""
        number %= self.image_count
        if isinstance(self.data, Images):
            x, context = self.data.test.take(torch.tensor([number]))
            return x, context, f"test image {number}"
        with self._lock:
            x, context = self._own
        row = slice(number, number + 1)
        return x[row], None if context is None else context[row], f"the model's sample {number}"

    # Likelihood ---------------------------------------------------------------------------------

    def score(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Log-likelihoods `(n,)` in nats, and the contexts `(n, width)`.

            log p(x) = log(1/k sum_c p(x | c))

        where no context is given, over `Conditions.candidates`; the one under which an event is
        most likely is then taken for its context.
        """
        if not self.conditions or context is not None:
            return torch.cat(list(log_probs(self.flow, [(x, context)]))), context
        rows = self.conditions.candidates()
        # Each pass begins with the same noise.
        under = torch.stack(
            [torch.cat(list(log_probs(self.flow, [(x, row.expand(len(x), -1))]))) for row in rows]
        )
        return under.logsumexp(0) - math.log(len(rows)), rows[under.argmax(0)]

    @property
    def reference(self) -> Reference:
        """The log-likelihoods that a new one is compared with, found once."""
        with self._lock:
            return self._reference

    @cached_property
    def _reference(self) -> Reference:
        # One's own images come without a context, and are compared with such; rows have theirs.
        class_known = self.kind != "images" or not self.conditions
        if usual := stored_reference(self.flow, class_known):  # what `diffeo score` compares with
            return Reference.from_stored(usual, self.unit)
        count = SCORED // 8 if self.kind == "images" else SCORED
        if not class_known:
            count = min(count, max(64, SCORED // len(self.conditions.candidates())))
        if self.data is None:
            context = self.conditions.draw(count, 1)
            x = self.run.sample(count, context=context, seed=1)
            source = f"{count:,} samples of the model itself"
        else:
            # The split that a training measures its reference on, unless there is none.
            held_out = self.data.val if len(self.data.val) else self.data.test
            x, context = first(held_out, count)
            source = f"{len(x):,} held-out {self.unit}"
        nats, _ = self.score(x, context if class_known else None)
        return Reference.of(self.flow, nats, source, class_known=class_known)

    # Attributes ---------------------------------------------------------------------------------

    @cached_property
    def attributes(self) -> list[str]:
        """The attributes that vary among the training images."""
        if not isinstance(self.data, Images) or self.data.train.attributes is None:
            return []
        values = self.data.train.attributes[:ENCODED]
        low = values.nan_to_num(torch.inf).amin(0)
        high = values.nan_to_num(-torch.inf).amax(0)
        return [
            name
            for name, varies in zip(self.data.attribute_names, high > low, strict=True)
            if varies
        ]

    @property
    def directions(self) -> Directions:
        """The direction of each attribute in latent space, found once in the training images.

        Raises:
            ValueError: if there are no attributes.
        """
        with self._lock:
            return self._directions

    @cached_property
    def _directions(self) -> Directions:
        data, names = self.data, self.attributes
        if not isinstance(data, Images) or data.train.attributes is None or not names:
            raise ValueError("its data have no attributes: name images that have some by --data.")
        columns = [data.attribute_names.index(name) for name in names]
        count = min(ENCODED, len(data.train))
        parts = torch.arange(count).split(self.flow.chunk)
        train: ImageSplit = data.train
        attributes = data.train.attributes

        def batches() -> Any:
            for rows in parts:
                x, context = train.take(rows)
                yield x, attributes[rows][:, columns], context

        return latent.find_directions(self.flow, batches(), names)


def first(split: ImageSplit | Split, count: int) -> tuple[Tensor, Tensor | None]:
    """The first rows or images of a split, which is in random order."""
    return split.take(torch.arange(min(count, len(split))))


def table_of(subject: Subject) -> Table | None:
    """Its table, if that is available."""
    return subject.data if isinstance(subject.data, Table) else None


def generator(seed: int) -> Generator:
    """A source of noise."""
    return Generator().manual_seed(seed)

"""Any number of samples as a folder of parts, each drawn with its own seed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from diffeo.data import write_table
from diffeo.data.datasets import mix
from diffeo.data.images.writing import write_image_table
from diffeo.run import Run
from diffeo.scale.folder import claim, digest, model_settings, place, read
from diffeo.scale.parts import Part, draws
from diffeo.scale.ray import Cluster
from diffeo.scale.running import Outcome, finish
from diffeo.scale.work import Done

ROWS, IMAGES = 1_000_000, 1_000  # of a part

# `(count, seed)` -> the context of so many samples, `(count, context_features)` or one row of it.
Contexts = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Sampling:
    """The work of a part: rows drawn with a seed of its own."""

    run: Run
    out: Path
    temperature: float
    seed: int
    contexts: Contexts | None

    def __call__(self, part: Part) -> Done:
        """Write them."""
        assert part.rows is not None
        seed = part_seed(self.seed, part.number)
        context = None if self.contexts is None else self.contexts(part.rows, seed)
        batches = self.run.stream_samples(part.rows, context, self.temperature, seed)
        names = self.run.flow.context.columns
        with place(self.out, part.name) as file:
            if self.run.flow.takes_pixels:
                write_image_table(file, pair_with_context(batches, context), names)
            else:
                write_table(file, self.run.columns + names, with_context(batches, context))
        return Done(part.rows)


def sample_parts(
    run: Run,
    n: int,
    out: str | os.PathLike[str],
    *,
    contexts: Contexts | None = None,
    temperature: float = 1.0,
    seed: int | None = None,
    rows: int | None = None,
    cluster: Cluster | None = None,
    console: Console | None = None,
) -> Outcome:
    """Draw n rows or images into a folder of .parquet files.

    Finished parts are not computed again: the same call continues after one that was killed.
    Images are PNGs in a column, in files called train-00000.parquet and so on: a source of
    `diffeo train`.

    Args:
        run: the model.
        n: how many.
        out: the folder.
        contexts: draws the contexts of a part from a seed.
        temperature: see `Flow.sample`.
        seed: the same seed draws the same, on any number of workers; None for a random one, which
            is stored in the folder.
        rows: how many in a part, on which the samples depend; by default 1,000,000 rows or 1,000
            images.
        cluster: Ray; None to work in this process.
        console: for progress.

    Raises:
        ValueError: if the folder holds something else, or a part cannot be written.
    """
    out = Path(out).expanduser().resolve()
    images = run.flow.takes_pixels
    rows = rows or (IMAGES if images else ROWS)
    parts = draws(n, rows, "train" if images else "part")
    if seed is None:
        seed = (read(out) or {}).get("seed", secrets.randbits(32))
    settings = {
        "what": "samples",
        **model_settings(run),
        "num": n,
        "temperature": temperature,
        "seed": seed,
        "part-rows": rows,
        "context": None if contexts is None else digest(contexts(64, 0).tolist()),
    }
    claim(out, settings)
    work = Sampling(run, out, temperature, seed, contexts)
    return finish(work, parts, out, cluster, console)


def part_seed(seed: int, number: int) -> int:
    """The seed of a part's noise; the next number, which is no part's seed, is for its context.

    PyTorch's CPU generator uses the lower 32 bits of a seed. Among 100,000 random seeds two would
    be equal, so the seeds of parts are counted up from a start that follows from `seed`.
    """
    return (mix(seed, 0) + 2 * number) % 2**32


def pair_with_context(
    batches: Iterable[Tensor], context: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of samples, each with its rows of the context, `(n, columns)` or one row for all."""
    start = 0
    for x in batches:
        rows = context
        if context is not None:
            rows = context[start : start + len(x)] if len(context) > 1 else context
            rows = rows.expand(len(x), -1)
        yield x, rows
        start += len(x)


def with_context(batches: Iterable[Tensor], context: Tensor | None) -> Iterator[Any]:
    """Rows of a table, their context in the last columns."""
    for x, rows in pair_with_context(batches, context):
        yield (x if rows is None else torch.cat((x, rows), dim=1)).numpy()

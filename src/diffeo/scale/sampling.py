"""Any number of samples, as a folder of parts that each draw from a generator of their own."""

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
from diffeo.data.batches import mix
from diffeo.data.images.writing import write_image_table
from diffeo.run import Run
from diffeo.scale.folder import claim, digest, model_settings, place, read
from diffeo.scale.parts import Part, draws
from diffeo.scale.ray import Cluster
from diffeo.scale.running import Outcome, finish
from diffeo.scale.work import Done

ROWS, PICTURES = 1_000_000, 1_000  # of a part

# `(count, seed)` -> the context of so many samples, `(count, context_features)` or one row of it.
Contexts = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Sampling:
    """The work of a part: so many rows, drawn from noise of its own."""

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
        names = self.run.context_columns
        with place(self.out, part.name) as file:
            if self.run.flow.takes_pixels:
                write_image_table(file, beside_context(batches, context), names)
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
    """Draw n rows or pictures into a folder of .parquet files.

    What is finished is not done again: the same call goes on where one was killed. Pictures are
    PNGs in a column, in files called train-00000.parquet and so on: a source of `diffeo train`.

    Args:
        run: whose model.
        n: how many.
        out: the folder; made if need be.
        contexts: draws the context of a part by its seed; the noise is another.
        temperature: see `Flow.sample`.
        seed: the same seed draws the same, on any number of workers; None for one that nobody
            chose, which a call that goes on takes from the folder.
        rows: how many in a part, which what is drawn depends on; by default 1,000,000 rows, or
            1,000 pictures.
        cluster: where Ray is; None to work in this process.
        console: where progress goes.

    Raises:
        ValueError: if the folder holds something else, or a part cannot be written.
    """
    out = Path(out).expanduser().resolve()
    pictures = run.flow.takes_pixels
    rows = rows or (PICTURES if pictures else ROWS)
    parts = draws(n, rows, "train" if pictures else "part")
    if seed is None:
        seed = (read(out) or {}).get("seed", secrets.randbits(32))
    settings = {
        "what": "samples",
        **model_settings(run),
        "num": n,
        "temperature": temperature,
        "seed": seed,
        "part-rows": rows,
        "context": None if contexts is None else digest(_shown(contexts)),
    }
    claim(out, settings)
    work = Sampling(run, out, temperature, seed, contexts)
    return finish(work, parts, out, cluster, console)


def part_seed(seed: int, number: int) -> int:
    """The seed of a part's noise; the next number, that of no part's noise, is for its context.

    PyTorch's generator on a CPU knows a seed by its lower 32 bits. Parts are counted up from a
    place that follows from the seed, since of 100,000 that were drawn at random two would be equal.
    """
    return (mix(seed, 0) + 2 * number) % 2**32


def beside_context(
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
    for x, rows in beside_context(batches, context):
        yield (x if rows is None else torch.cat((x, rows), dim=1)).numpy()


def _shown(contexts: Contexts) -> list[list[float]]:
    """A few contexts, which tell two ways to draw them apart."""
    return contexts(64, 0).tolist()

"""Any number of samples as a folder of parts, each drawn with its own seed."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from diffeo.data import write_frames, write_table
from diffeo.data.datasets import mix
from diffeo.data.images.writing import write_image_table
from diffeo.models.mixed import MixedFlow
from diffeo.run import Run
from diffeo.scale.folder import claim, digest, output_folder, place, read
from diffeo.scale.job import Done, Outcome, Part, finish
from diffeo.scale.ray import Cluster
from diffeo.utils.ranges import Count, NonNegative, Seed, checked

ROWS, IMAGES = 1_000_000, 1_000  # of a part

# `(count, seed)` -> the context of so many samples, `[count, context_features]` or one row of it.
Contexts = Callable[[int, int], Tensor]


def write_samples(
    run: Run, n: int, file: Path, context: Tensor | None, temperature: float, seed: int | None
) -> None:
    """Write n samples, and in the last columns their context, as a table.

    Images are PNGs in a column of a .parquet file; see `write_table` for rows.
    """

    def batches() -> Iterator[tuple[Tensor, Tensor | None]]:
        start = 0
        for x in run.stream_samples(n, context, temperature, seed):
            rows = context
            if context is not None:
                rows = context[start : start + len(x)] if len(context) > 1 else context
                rows = rows.expand(len(x), -1)
            yield x, rows
            start += len(x)

    names = run.flow.context.columns
    if run.flow.takes_pixels:
        write_image_table(file, batches(), names)
    elif isinstance(flow := run.flow, MixedFlow):
        write_frames(file, (flow.to_frame(x, rows) for x, rows in batches()))
    else:
        tables = (x if rows is None else torch.cat((x, rows), dim=1) for x, rows in batches())
        write_table(file, run.columns + names, (table.numpy() for table in tables))


def _sample_part(
    run: Run, out: Path, temperature: float, seed: int, contexts: Contexts | None, part: Part
) -> Done:
    assert part.rows is not None
    seed = part_seed(seed, part.number)
    context = None if contexts is None else contexts(part.rows, seed)
    with place(out, part.name) as file:
        write_samples(run, part.rows, file, context, temperature, seed)
    return Done(part.rows)


@checked
def sample_parts(
    run: Run,
    n: Count,
    out: str | os.PathLike[str],
    *,
    contexts: Contexts | None = None,
    temperature: NonNegative = 1.0,
    seed: Seed | None = None,
    rows: Count | None = None,
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
    out = output_folder(out)
    images = run.flow.takes_pixels
    rows = (IMAGES if images else ROWS) if rows is None else rows
    parts = split_rows(n, rows, "train" if images else "part")
    if seed is None:
        seed = int((read(out) or {}).get("seed", secrets.randbits(32)))
    settings = {"what": "samples", "num": n, "temperature": temperature, "seed": seed}
    settings["part-rows"] = rows
    settings["context"] = None if contexts is None else digest(contexts(64, 0).tolist())
    claim(out, run, settings, {})
    work = partial(_sample_part, run, out, temperature, seed, contexts)
    return finish(work, parts, out, cluster and cluster.on(run.flow.device), console)


def split_rows(n: int, rows: int, name: str) -> list[Part]:
    """Parts of n rows in all, at most `rows` in each, called NAME-00000.parquet and so on."""
    count = math.ceil(n / rows)
    digits = max(5, len(str(count - 1)))
    return [
        Part(i, f"{name}-{i:0{digits}d}.parquet", rows=min(rows, n - i * rows))
        for i in range(count)
    ]


def part_seed(seed: int, number: int) -> int:
    """The seed of a part's noise; the next number, which is no part's seed, is for its context.

    PyTorch's CPU generator uses the lower 32 bits of a seed. Among 100,000 random seeds two would
    be equal, so the seeds of parts are counted up from a start that follows from `seed`.
    """
    return (mix(seed, 0) + 2 * number) % 2**32

"""The part of `diffeo eval` that draws samples, and compares them with images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Generator, Tensor

from diffeo import figures
from diffeo.data import Batches, Images, ImageSplit
from diffeo.evaluation.copies import Nearest, find_nearest
from diffeo.evaluation.features import RandomFeatures
from diffeo.evaluation.quality import NEIGHBOURS, Quality
from diffeo.models.guided import check_guidance
from diffeo.run import Run
from diffeo.utils.files import atomic_write

SEED = 0  # of the samples
DRAWN, SHOWN = 12, 3  # samples in the figure, and training images of each
BATCH = 1_024  # images at once
CONCERN = 0.75  # share of pairs from which on samples are suspiciously near
NO_FID = "* of features of a network of random weights: not comparable with published FID"
SHARES = {
    "precision": "samples that look real",
    "recall": "of real images, reached",
    "coverage": "of real images, represented",
}


def check_quality(run: Run, guidance: float, out: str) -> None:
    """Refuse what `measure_samples` cannot do, before anything is computed."""
    if not run.flow.takes_pixels:
        raise ValueError(f"{run.folder} is a model of a table: --quality is for images.")
    if Path(out).suffix != ".json":
        raise ValueError(f"--out is {out}: end its name in .json; a .png is written next to it.")
    check_guidance(run.flow, guidance)


def measure_samples(
    run: Run, data: str | None, count: int, temperature: float, guidance: float, file: Path
) -> Iterator[Table | str]:
    """Draw `count` samples and compare them, and held-out images, with training images."""
    training, held_out, note = _images(run, data)
    if note:
        yield note
    n = min(count, len(training), len(held_out))
    if n <= NEIGHBOURS:
        raise ValueError(f"{n} images are too few: give more than {NEIGHBOURS}.")
    if n < count:
        yield f"There are {n:,} images to compare with: so many samples are drawn."
    chosen = _evenly(len(held_out), n)
    real, context = held_out.take(chosen)
    known = training.batch(_evenly(len(training), n))
    contexts = _contexts(run, context, n)
    x = run.sample(n, context=contexts, temperature=temperature, seed=SEED, guidance=guidance)

    features = RandomFeatures(run.flow.shape)
    reference = features.learn(known.split(BATCH))
    scores = [Quality.measure(features(part.split(BATCH)), reference) for part in (x, real)]
    k = min(SHOWN, len(training))
    near, usual = (find_nearest(part, _batches(training), k) for part in (x, real))
    nearer = near.nearer_than(usual)
    yield _table(n, scores, [near, usual])
    yield NO_FID + "."
    yield (
        f"In {100 * nearer:.1f} % of pairs a sample is nearer to a training image than a held-out "
        "image is; without memorisation about 50 %, and more for calm samples."
    )
    if near.copies:
        yield f"{near.copies:,} of {n:,} samples are exact copies of training images."
    elif nearer > CONCERN:
        yield "The samples are nearer to training images than is usual: look at the figure."
    results: dict[str, Any] = {
        "images": n,
        "temperature": temperature,
        "guidance": guidance,
        "features": "random convolutions, not those of FID",
        "neighbours": NEIGHBOURS,
        "nearer": nearer,
    }
    pairs = zip(("samples", "held_out"), scores, (near, usual), strict=True)
    for name, score, nearest in pairs:
        distances = {"nearest": nearest.median, "copies": nearest.copies}
        results[name] = asdict(score) | distances
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    figure = file.with_suffix(".png")
    _draw(x, near, training, figure)
    yield f"Written to {file} and drawn into {figure}."


def _images(run: Run, data: str | None) -> tuple[ImageSplit, ImageSplit, str]:
    """Training images, held-out images, and a sentence where the former are not known."""
    try:
        known = run.data()
    except (ValueError, OSError):
        if data is None:
            raise
        given = run.gallery(data, unlabelled=True).images
    else:
        assert isinstance(known, Images)
        held_out = known.test if data is None else run.gallery(data, unlabelled=True).images
        return known.train, held_out, ""
    note = f"The training images are not there: every second image of {data} stands for them."
    return _every_second(given, 0), _every_second(given, 1), note


def _every_second(images: ImageSplit, start: int) -> ImageSplit:
    context = None if images.context is None else images.context[start::2]
    return ImageSplit(images.pixels, images.rows[start::2], context=context)


def _evenly(images: int, count: int) -> Tensor:
    """Numbers of `count` images, spread over all, which may be in the order of their classes."""
    return torch.arange(count) * images // count


def _batches(images: ImageSplit) -> Iterator[Tensor]:
    return (batch for batch, _ in Batches(images, BATCH))


def _contexts(run: Run, context: Tensor | None, count: int) -> Tensor | None:
    """Those of the real images, so that samples are compared with their like; or chance."""
    category = run.flow.context.category
    if context is not None or category is None:
        return context
    classes, generator = len(category.values), Generator().manual_seed(SEED)
    return F.one_hot(torch.randint(classes, (count,), generator=generator), classes).float()


def _table(n: int, scores: Sequence[Quality], nearest: Sequence[Nearest]) -> Table:
    title = f"{n:,} samples and {n:,} held-out images, against {n:,} training images"
    table = Table("", "samples", "held-out", "what it says", title=title)
    lines = [
        ("Fréchet distance *", [f"{score.frechet:.2f}" for score in scores], "less is nearer"),
        *[
            (name, [f"{100 * getattr(score, name):.1f} %" for score in scores], words)
            for name, words in SHARES.items()
        ],
        ("density", [f"{score.density:.2f}" for score in scores], "as precision; 1 is usual"),
        ("nearest, grey levels", [f"{near.median:.1f}" for near in nearest], "median distance"),
        ("exact copies", [f"{near.copies:,}" for near in nearest], "of training images"),
    ]
    for name, (samples, held_out), words in lines:
        table.add_row(name, samples, held_out, words)
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:3]:
        column.justify = "right"
    return table


def _draw(x: Tensor, nearest: Nearest, training: ImageSplit, out: Path) -> None:
    """Samples with their nearest training images: first those that are nearest, then any."""
    rows = torch.cat([nearest.closest(DRAWN // 2), torch.arange(len(x))[: DRAWN // 2]])
    images = [x[rows], *(training.batch(column) for column in nearest.places[rows].T)]
    labels = ["sample", "nearest", "2nd", "3rd"][: len(images)]
    caption = f"The {DRAWN // 2} nearest to a training image, and the first {DRAWN // 2}"
    figures.save(figures.image_grid(torch.stack(images, dim=1), labels, caption), out)

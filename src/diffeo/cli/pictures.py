"""Scoring and sampling pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import Namespace
from rich.console import Console
from torch import Generator

from diffeo.cli.common import figure_file, reference, say_unlabelled
from diffeo.cli.contexts import sample_context
from diffeo.data import Batches, Gallery, check_writable, write_columns
from diffeo.data.images.grid import save_images
from diffeo.data.images.writing import write_images
from diffeo.evaluation.likelihood import Score, evaluate_batches
from diffeo.evaluation.scores import image_scores
from diffeo.run import Run

PICTURES, ROWS = 64, 8


def evaluate(options: Namespace, run: Run) -> Score:
    """The score of the pictures of `--data`."""
    return evaluate_batches(run.flow, _batches(run, run.gallery(options.data)), options.samples)


def score(options: Namespace, run: Run, console: Console) -> None:
    """Write each picture of `--data`: its name, log-likelihood, bits/dim, and score of `--kind`."""
    out = check_writable(options.out)
    gallery = run.gallery(options.data, unlabelled=True)
    if run.flow.context.category and gallery.images.context is None:
        say_unlabelled(options.data, run, console)
    usual = reference(
        options, run, lambda source: _batches(run, run.gallery(source, unlabelled=True))
    )
    columns = image_scores(run.flow, gallery, options.kind, usual)
    write_columns(out, columns)
    for note in gallery.notes:
        console.print(note, highlight=False, soft_wrap=True)
    count = len(gallery.names)
    console.print(f"{count:,} scores written to {out}.", highlight=False, soft_wrap=True)


def sample(options: Namespace, run: Run, console: Console) -> None:
    """Draw pictures onto one sheet, or into an array, or into a folder of files."""
    if options.temperatures is not None:
        _sample_at_temperatures(options, run, console)
        return
    count = options.num or PICTURES
    out = Path(options.out or "samples.png")
    context = sample_context(options, run, count)
    if out.suffix.lower() in {".npy", ".npz"}:
        check_writable(out)
    parts = run.stream_samples(count, context, options.temperature, options.seed)
    if not out.suffix:
        write_images(parts, out)
    elif out.suffix.lower() in {".npy", ".npz"}:
        write_columns(out, {"images": torch.cat(list(parts)).numpy()})
    else:
        save_images(torch.cat(list(parts)), out)
    console.print(f"{count:,} pictures written to {out}.", highlight=False, soft_wrap=True)


def _sample_at_temperatures(options: Namespace, run: Run, console: Console) -> None:
    """Draw a row for each noise and a column for each temperature."""
    from diffeo import figures, latent
    from diffeo.figures.style import tick

    out = figure_file(options.out or "samples.png")
    if options.temperature != 1.0:
        raise ValueError("--temperature and --temperatures are both given: leave one out.")
    count = options.num or ROWS
    context = sample_context(options, run, count)
    generator = Generator()
    generator.seed() if options.seed is None else generator.manual_seed(options.seed)
    x = latent.at_temperatures(
        run.flow, count, options.temperatures, context=context, generator=generator
    )
    labels = [tick(temperature) for temperature in options.temperatures]
    figures.save(figures.image_grid(x, labels, "temperature"), out)
    console.print(f"Drawn into {out}.", highlight=False, soft_wrap=True)


def _batches(run: Run, gallery: Gallery) -> Batches:
    return Batches(gallery.images, run.flow.chunk)

"""Moving about in latent space: paths between pictures, attributes, levels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from jsonargparse import Namespace
from rich.console import Console
from rich.progress import track
from rich.table import Table as RichTable
from torch import Generator, Tensor

from diffeo import figures, latent
from diffeo.cli.common import (
    chosen_attributes,
    chosen_images,
    figure_file,
    first_images,
    open_images,
)
from diffeo.cli.latent_options import EditKind
from diffeo.figures.style import tick
from diffeo.latent import DirectionKind, Directions
from diffeo.run import Run

FILMS = {".gif", ".mp4"}
HELD = 5  # how many frames a film rests on either end


def interpolate(options: Namespace, console: Console) -> None:
    """Write a sheet or a film of paths between pictures."""
    out = Path(options.out)
    figures.check_image_file(out, FILMS)
    if out.suffix == ".mp4":
        figures.find_ffmpeg(out)  # before the work
    if options.corners and out.suffix in FILMS:
        raise ValueError(f"--corners makes one sheet, and {out} is a film: write a .png.")
    if options.pairs < 1:
        raise ValueError(f"--pairs is {options.pairs}: ask for at least one.")
    run = open_images(options)
    split = chosen_images(options, run)
    wanted = 4 if options.corners else 2 * options.pairs
    if len(split) < wanted:
        remedy = "name more by --data" if options.corners else "ask for fewer --pairs"
        raise ValueError(f"there are {len(split)} pictures and {wanted} are wanted: {remedy}.")
    x, context = first_images(split, wanted)
    if options.corners:
        steps = options.frames, options.frames
        sheet = latent.between_four(run.flow, x, *steps, options.kind, context)
        figures.save_images(sheet.flatten(0, 1), out, options.frames)
    else:
        ends = None if context is None else (context[::2], context[1::2])
        paths = latent.interpolate(run.flow, x[::2], x[1::2], options.frames, options.kind, ends)
        if out.suffix in FILMS:
            _write_film(paths, out)
        else:
            figures.save_images(paths.flatten(0, 1), out, options.frames)
    _say(console, f"Drawn into {out}.")


def _write_film(paths: Tensor, out: Path) -> None:
    """All paths `(n, frames, C, H, W)` on one sheet, moving forth and back."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i:05d}.png" for i in range(paths.shape[1])]
        for i, file in enumerate(files):
            figures.save_images(paths[:, i], file)
        order = [files[0]] * HELD + files[1:-1] + [files[-1]] * HELD + files[-2:0:-1]
        if out.suffix == ".mp4":
            figures.film(order, out)
        else:
            figures.animate(order, out, rest=120)


def edit(options: Namespace, console: Console) -> None:
    """Draw a row for each picture and a column for each strength."""
    out = figure_file(options.out)
    if not options.strengths:
        raise ValueError("--strengths is empty: give some, such as -1,0,1.")
    run = open_images(options)
    names = options.attribute
    conditional = set(names) <= set(run.context_columns) and options.directions is None
    kind: EditKind = options.kind or ("condition" if conditional else "mean")
    x, context = first_images(chosen_images(options, run), options.num)
    if kind == "condition":
        columns = _recondition(options, run, x, context)
        caption = f"strength of {', '.join(names)}, as a condition of the model"
    else:
        if options.directions is None:
            directions = _find(options, run, console, kind, names)
        else:
            directions = Directions.load(options.directions)
        columns = [
            latent.edit(run.flow, x, directions, dict.fromkeys(names, strength), context)
            for strength in options.strengths
        ]
        caption = f"strength of {', '.join(names)}, direction of kind {directions.kind}"
    labels = [tick(strength) for strength in options.strengths]
    figures.save(figures.image_grid(torch.stack(columns, dim=1), labels, caption), out)
    _say(console, f"Drawn into {out}.")


def _recondition(options: Namespace, run: Run, x: Tensor, context: Tensor | None) -> list[Tensor]:
    """For each strength the pictures under the context with so much more of the attributes."""
    if context is None:
        raise ValueError(f"{options.run} takes no context: choose another --kind.")
    # How far a context goes is asked of the training, where that is at hand.
    known = run.data().train if run.config_file.is_file() else chosen_images(options, run)
    assert known.context is not None
    conditions = latent.Conditions.of(run.flow.context, known.context)
    moved = [
        conditions.moved(context, dict.fromkeys(options.attribute, strength))
        for strength in options.strengths
    ]
    return [latent.recondition(run.flow, x, context, other) for other in moved]


def directions(options: Namespace, console: Console) -> None:
    """Write the directions of all attributes, and print how long they are."""
    if Path(options.out).suffix != ".safetensors":
        raise ValueError(f"{options.out} has to end in .safetensors.")
    found = _find(options, open_images(options), console, options.kind)
    found.save(options.out)
    table = RichTable("attribute", "with", "without", "length of direction")
    for column in table.columns[1:]:
        column.justify = "right"
    lengths = found.vectors.norm(dim=1).tolist()
    for row in zip(found.names, found.present, found.absent, lengths, strict=True):
        name, present, absent, length = row
        counts = (f"{present:,}", f"{absent:,}") if absent else ("a number", "")
        table.add_row(name, *counts, f"{length:.3f}")
    console.print(table)
    _say(console, f"Written to {options.out}.")


def _find(
    options: Namespace,
    run: Run,
    console: Console,
    kind: DirectionKind,
    wanted: list[str] | None = None,
) -> Directions:
    """The directions of the wanted attributes, or of all."""
    split, names = chosen_attributes(options, run)
    for name in wanted or []:
        if name not in names:
            raise ValueError(f"there is no attribute '{name}': choose from {', '.join(names)}.")
    # Only "partial" has to know of the others.
    chosen = names if wanted is None or kind == "partial" else wanted
    columns = [names.index(name) for name in chosen]
    batches = track(
        list(range(0, len(split), run.flow.chunk)),
        "encoding",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

    def events() -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        assert split.attributes is not None
        for start in batches:
            rows = torch.arange(start, min(start + run.flow.chunk, len(split)))
            x, context = split.take(rows)
            yield x, split.attributes[rows][:, columns], context

    found = latent.find_directions(run.flow, events(), chosen, kind)
    for note in found.notes:
        _say(console, note)
    return found


def levels(options: Namespace, console: Console) -> None:
    """Draw a row for each picture: itself, and a column for each level."""
    out = figure_file(options.out)
    run = open_images(options)
    x, context = first_images(chosen_images(options, run), options.num)
    generator = Generator()
    generator.seed() if options.seed is None else generator.manual_seed(options.seed)
    numbers = range(1, len(run.flow.latent_shapes) + 1)
    columns = [x]
    for level in numbers:
        redrawn = latent.resample(
            run.flow, x, [level], options.temperature, context=context, generator=generator
        )
        columns.append(redrawn[:, 0])
    labels = ["data", *(f"level {level}\nredrawn" for level in numbers)]
    caption = f"temperature {tick(options.temperature)}"
    figures.save(figures.image_grid(torch.stack(columns, dim=1), labels, caption), out)
    _say(console, f"Drawn into {out}.")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)

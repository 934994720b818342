"""What the commands for images share: which images, and the directions of their attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from diffeo.cli.common import open_run, report
from diffeo.data import Images, ImageSplit
from diffeo.latent import DirectionKind, Directions, find_directions
from diffeo.run import Run
from diffeo.utils.console import PlainConsole


def open_images(**run: Any) -> Run:
    """The run, as `open_run`; ValueError for a model of a table."""
    opened = open_run(**run)
    if not opened.flow.takes_pixels:
        raise ValueError(f"{opened.folder} is a model of a table: this command is for images.")
    return opened


def choose_images(run: Run, data: str | None, split: str = "test") -> tuple[ImageSplit, list[str]]:
    """The images of `--data`, or else of a split of the run's own data; the attributes' names."""
    if data is not None:
        gallery = run.gallery(data)
        return gallery.images, gallery.attribute_names
    images = run.data()
    assert isinstance(images, Images)
    return images.split(split), images.attribute_names


def first_images(
    count: int, *, data: str | None = None, **run: Any
) -> tuple[Run, Tensor, Tensor | None]:
    """The run, and the first `count` images with their context, or all if there are fewer.

    Args:
        count: how many.
        data: The images; by default the test split.
    """
    if count < 1:
        raise ValueError(f"-n is {count}: ask for at least one image.")
    opened = open_images(**run)
    split, _ = choose_images(opened, data)
    return opened, *split.take(torch.arange(min(count, len(split))))


def directions_of(
    run: Run, data: str | None, kind: DirectionKind, wanted: list[str] | None = None
) -> Directions:
    """The directions of the wanted attributes, or of all; ValueError if there are none such."""
    split, names = choose_images(run, data, "train")
    attributes = split.attributes
    if attributes is None or not names:
        raise ValueError(
            f"{data or f'the data of {run.folder}'} has no attributes: name images with labels or "
            "attributes with --data, or a file of directions with `diffeo edit --directions`."
        )
    for name in wanted or []:
        if name not in names:
            raise ValueError(f"there is no attribute '{name}': choose from {', '.join(names)}.")
    # Only partial directions depend on the other attributes.
    chosen = names if wanted is None or kind == "partial" else wanted
    columns = [names.index(name) for name in chosen]
    console = PlainConsole()
    starts = track(
        range(0, len(split), run.flow.chunk),
        "encoding",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

    def events() -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for start in starts:
            rows = torch.arange(start, min(start + run.flow.chunk, len(split)))
            x, context = split.take(rows)
            yield x, attributes[rows][:, columns], context

    found = find_directions(run.flow, events(), chosen, kind)
    for note in found.notes:
        report(note)
    return found

"""What the commands for images share: which images, the directions of attributes, figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Generator, Tensor

from diffeo import figures
from diffeo.data import Images, ImageSplit
from diffeo.latent import DirectionKind, Directions, find_directions
from diffeo.run import Run
from diffeo.utils.console import PlainConsole


def choose_images(run: Run, data: str | None, split: str = "test") -> tuple[ImageSplit, list[str]]:
    """The images of `--data`, or else of a split of the run's own data; the attributes' names."""
    if not run.flow.takes_pixels:
        raise ValueError(f"{run.folder} is a model of a table: this command is for images.")
    if data is not None:
        gallery = run.gallery(data)
        return gallery.images, gallery.attribute_names
    images = run.data()
    assert isinstance(images, Images)
    return images.split(split), images.attribute_names


def first_images(run: Run, data: str | None, count: int) -> tuple[Tensor, Tensor | None]:
    """The first `count` images with their context, or all if there are fewer."""
    split, _ = choose_images(run, data)
    return split.take(torch.arange(min(count, len(split))))


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
    console, chunk = PlainConsole(), run.flow.chunk
    starts = range(0, len(split), chunk)
    hidden = not console.is_terminal

    def events() -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for start in track(starts, "encoding", console=console, transient=True, disable=hidden):
            rows = torch.arange(start, min(start + chunk, len(split)))
            x, context = split.take(rows)
            yield x, attributes[rows][:, columns], context

    return find_directions(run.flow, events(), chosen, kind)


def check_figure(name: str) -> Path:
    """The file of a figure; ValueError for a name with another ending."""
    out = Path(name)
    if out.suffix not in {".png", ".pdf", ".svg"}:
        raise ValueError(f"{out} cannot hold a figure: end its name in .png, .pdf or .svg.")
    return out


def draw_columns(columns: Sequence[Tensor], labels: list[str], caption: str, out: Path) -> str:
    """Draw images `[rows, C, H, W]` column by column, each with a label; returns a sentence."""
    figures.save(figures.image_grid(torch.stack([*columns], dim=1), labels, caption), out)
    return f"Drawn into {out}."


def seeded(seed: int | None) -> Generator:
    """A generator of noise; without a seed it draws other noise each time."""
    generator = Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    return generator

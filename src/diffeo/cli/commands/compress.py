"""`diffeo compress`."""

from collections.abc import Iterator
from pathlib import Path

import torch

from diffeo.cli.parser import Parser
from diffeo.data import ImageOptions, load_gallery
from diffeo.run import Run
from diffeo.utils.files import atomic_write

PLACES = " DATA --with RUN"
FIXED = {"device": "cpu", "precision": "float32"}  # both directions have to round alike
WITHOUT = dict.fromkeys(
    ("--device", "--precision"), "files are written and read on the CPU, in float32"
)


def main(run: Run, data: str, *, out: str = "data.flow") -> Iterator[str]:
    """Write a table or images as a small file, without loss.

    What a model says is likely takes few bits.

    Example: `diffeo compress penguins.csv --with runs/penguins --out penguins.flow`. `diffeo
    decompress` makes the data again, with the same model on the same kind of machine. The model is
    one of tables, or a PixelFlow: bits/dim of other models are bounds. Images have the size and the
    colours of the model, since to scale them is a loss.

    Args:
        data: A table, or images.
        out: The file.
    """
    file = Path(out)
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give the name of a file.")
    if run.flow.takes_pixels:
        from diffeo.compression import compress_images
        from diffeo.data.images.dataset import size_of

        written = load_gallery(ImageOptions(data, strict=True)).images.pixels.shape[1:]
        if written != run.flow.shape:
            raise ValueError(
                f"{data} has images of {size_of(written)}, and the model is one of "
                f"{size_of(run.flow.shape)}: give images of that size, since to scale is a loss."
            )
        images = run.gallery(data).images
        x, context = images.take(torch.arange(len(images)))
        packed, what, count = compress_images(run.flow, x, context), "images", len(x)
        share = f"{8 * len(packed) / x.numel():.4f} bits/dim"
    else:
        from diffeo.cli.tables import table_frame, table_model
        from diffeo.compression import compress_table

        frame = table_frame(run, data)
        packed, what, count = compress_table(table_model(run), frame), "rows", len(frame)
        share = f"{8 * len(packed) / max(count, 1):.1f} bits a row"
    with atomic_write(file) as partial:
        partial.write_bytes(packed)
    yield f"{count:,} {what} in {len(packed):,} bytes, {share}, written to {file}."


def add_options(parser: Parser) -> None:
    """The option that names the run."""
    parser.add_argument("--with", metavar="RUN", help="The same as RUN: the run or the model.")


def expand(words: list[str]) -> list[str]:
    """Put the run of `--with` where a run belongs: before the data."""
    found, runs, rest = [], [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--with":
            runs.append(value if equals else next(rest, ""))
        else:
            found.append(word)
    return [*runs[-1:], *found]

"""`diffeo interpolate`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from diffeo import figures, latent
from diffeo.cli.images import first_images
from diffeo.latent import Frames, PathKind
from diffeo.run import Run
from diffeo.utils.ranges import Count

FILM = ".gif"
REST = 5  # frames for which a film rests at either end


def main(
    run: Run,
    *,
    data: str | None = None,
    pairs: Count = 8,
    frames: Frames = 9,
    kind: PathKind = "spherical",
    corners: bool = False,
    out: str = "interpolation.png",
) -> Iterator[str]:
    """Draw paths in latent space from one image to another.

    Args:
        data: The images; by default the test split.
        pairs: How many pairs, taken from the first images.
        frames: The number of images on a path, ends included.
        kind: spherical paths keep the length that noise has, linear ones are straight.
        corners: Draw frames x frames images between the first four instead.
        out: An image with a pair in each row, .png, .jpg or .webp; or a film, .gif.
    """
    file = Path(out)
    figures.check_image_file(file, [FILM])
    if corners and file.suffix == FILM:
        raise ValueError(f"--corners makes one image, and {file} is a film: write a .png.")
    wanted = 4 if corners else 2 * pairs
    x, context = first_images(run, data, wanted)
    if len(x) < wanted:
        remedy = "name more with --data" if corners else "ask for fewer --pairs"
        raise ValueError(f"there are {len(x)} images and {wanted} are needed: {remedy}.")
    if corners:
        between = latent.between_four(run.flow, x, frames, frames, kind, context)
        figures.save_images(between.flatten(0, 1), file, frames)
    else:
        ends = None if context is None else (context[::2], context[1::2])
        paths = latent.interpolate(run.flow, x[::2], x[1::2], frames, kind, ends)
        if file.suffix == FILM:
            _write_film(paths, file)
        else:
            figures.save_images(paths.flatten(0, 1), file, frames)
    yield f"Drawn into {file}."


def _write_film(paths: Tensor, out: Path) -> None:
    """All paths `(n, frames, C, H, W)` in one moving image, forth and back."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i:05d}.png" for i in range(paths.shape[1])]
        for i, file in enumerate(files):
            figures.save_images(paths[:, i], file)
        order = [files[0]] * REST + files[1:-1] + [files[-1]] * REST + files[-2:0:-1]
        figures.animate(order, out, rest=120)

"""Pictures, one after the other, as a GIF."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffeo.beside import beside

WIDTH, COLORS = 640, 128  # at most


def animate(frames: Sequence[Path], out: str | os.PathLike[str], milliseconds: int = 120) -> None:
    """Put pictures of one size, in their order, into an endless GIF that rests on the last one.

    Args:
        frames: files that Pillow reads.
        out: the GIF, written beside and then put in place.
        milliseconds: time of each frame but the last, which stays for 2 seconds.

    Raises:
        ValueError: if there are no frames, or their sizes differ.
    """
    if not frames:
        raise ValueError("there are no frames to animate.")
    pictures = []
    for frame in frames:
        with Image.open(frame) as picture:
            pictures.append(picture.convert("RGB"))
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1:
        raise ValueError(f"frames must be of one size, but these are {sizes}.")
    width, height = sizes[0]
    if width > WIDTH:
        size = WIDTH, round(height * WIDTH / width)
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    # One palette from all the frames: with one for each, still parts would flicker. Eight of them
    # at half their size, the last among them, show what colours there are.
    step = -(-len(pictures) // 8)
    strip = np.concatenate([np.asarray(picture)[::2, ::2] for picture in pictures[::-step]])
    palette = Image.fromarray(strip).quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=2)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with beside(Path(out)) as partial:
        indexed[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=indexed[1:],
            duration=[milliseconds] * (len(indexed) - 1) + [2_000],
            loop=0,
        )

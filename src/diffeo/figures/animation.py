"""Animations: image files, one after the other, as a GIF."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffeo.utils.files import atomic_write

MAX_WIDTH, COLORS = 640, 128  # of a GIF


def animate(
    frames: Sequence[Path],
    out: str | os.PathLike[str],
    milliseconds: int = 120,
    rest: int = 2_000,
) -> None:
    """Write image files of one size, in order, as an endless GIF.

    A frame is shown for some milliseconds, the last one for `rest` milliseconds.

    Raises:
        ValueError: if there are no frames, or their sizes differ.
    """
    if not frames:
        raise ValueError("there are no frames to animate.")
    images = []
    for frame in frames:
        with Image.open(frame) as image:
            images.append(image.convert("RGB"))
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise ValueError(f"frames must be of one size, but these are {sizes}.")
    width, height = sizes[0]
    if width > MAX_WIDTH:
        size = MAX_WIDTH, round(height * MAX_WIDTH / width)
        images = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
    # With a palette for each frame, areas that do not move would flicker. The one palette comes
    # from eight frames at a quarter of their size, the last among them.
    step = -(-len(images) // 8)
    strip = np.concatenate([np.asarray(image)[::4, ::4] for image in images[::-step]])
    palette = Image.fromarray(strip).quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=2)
    first, *others = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    with atomic_write(Path(out)) as partial:
        first.save(
            partial,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=[milliseconds] * len(others) + [rest],
            loop=0,
        )

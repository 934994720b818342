"""Animations: image files, one after the other, as a GIF or an .mp4."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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


def film(frames: Sequence[Path], out: str | os.PathLike[str], milliseconds: int = 120) -> None:
    """Write PNG files of one size, in order, as an .mp4: a ValueError if ffmpeg fails."""
    program = find_ffmpeg(out)
    with tempfile.TemporaryDirectory() as folder, atomic_write(Path(out)) as partial:
        for i, frame in enumerate(frames):
            shutil.copyfile(frame, Path(folder) / f"{i:05d}.png")
        command = [program, "-loglevel", "error", "-y", "-framerate", f"{1000 / milliseconds:g}"]
        command += ["-i", str(Path(folder) / "%05d.png"), "-pix_fmt", "yuv420p"]
        # H.264 takes no odd width or height; the padding has the background colour of a grid.
        command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=0xe9ecf1", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"it ended with code {done.returncode}"
            raise ValueError(f"ffmpeg could not write {out} ({reason}): write a .gif.")


def find_ffmpeg(out: str | os.PathLike[str]) -> str:
    """The path of ffmpeg: a ValueError if it is not installed."""
    if program := shutil.which("ffmpeg"):
        return program
    raise ValueError(f"{out} needs the program ffmpeg, which is not on the path: write a .gif.")

"""Pictures, one after the other, as a GIF or a film."""

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

WIDTH, COLORS = 640, 128  # at most


def animate(
    frames: Sequence[Path],
    out: str | os.PathLike[str],
    milliseconds: int = 120,
    rest: int = 2_000,
) -> None:
    """Put pictures of one size, in their order, into an endless GIF that rests on the last one.

    Args:
        frames: files that Pillow reads.
        out: the GIF, written beside and then put in place.
        milliseconds: time of each frame but the last.
        rest: time of the last, in milliseconds.

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
    # at a quarter of their size, the last among them, show what colours there are.
    step = -(-len(pictures) // 8)
    strip = np.concatenate([np.asarray(picture)[::4, ::4] for picture in pictures[::-step]])
    palette = Image.fromarray(strip).quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=2)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with atomic_write(Path(out)) as partial:
        indexed[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=indexed[1:],
            duration=[milliseconds] * (len(indexed) - 1) + [rest],
            loop=0,
        )


def film(frames: Sequence[Path], out: str | os.PathLike[str], milliseconds: int = 120) -> None:
    """Put PNG files of one size, in their order, into an .mp4, by calling ffmpeg.

    Args:
        frames: the files.
        out: the film, written beside and then put in place.
        milliseconds: time of each frame.

    Raises:
        ValueError: if there is no ffmpeg, or it fails.
    """
    program = find_ffmpeg(out)
    with tempfile.TemporaryDirectory() as folder, atomic_write(Path(out)) as partial:
        for i, frame in enumerate(frames):
            shutil.copyfile(frame, Path(folder) / f"{i:05d}.png")
        command = [program, "-loglevel", "error", "-y", "-framerate", f"{1000 / milliseconds:g}"]
        command += ["-i", str(Path(folder) / "%05d.png"), "-pix_fmt", "yuv420p"]
        # H.264 takes no odd width or height; the colour is that of our paper.
        command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=0xe9ecf1", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"it ended with code {done.returncode}"
            raise ValueError(f"ffmpeg could not write {out} ({reason}): write a .gif.")


def find_ffmpeg(out: str | os.PathLike[str]) -> str:
    """Where the program is that writes a film.

    Raises:
        ValueError: if it is not on the path.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise ValueError(f"{out} needs the program ffmpeg, which is not on the path: write a .gif.")
    return program

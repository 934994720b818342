"""Loads images from where they are: listed, decoded once, and split, or in their order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from diffeo.data.datasets import SPLITS, check_options, split_sizes
from diffeo.data.files import check_file, plain_path
from diffeo.data.images.arrays import open_array
from diffeo.data.images.cache import Contents, Decoded, decoded_images, describe
from diffeo.data.images.dataset import (
    IMAGE_SETS,
    Gallery,
    ImageOptions,
    Images,
    ImageSplit,
    Pixels,
)
from diffeo.data.images.folders import ENDINGS, open_folder, open_single
from diffeo.data.images.parquet import open_image_file, open_image_folder, open_image_hub
from diffeo.data.images.source import ImageSource
from diffeo.data.images.synthetic import open_digits, open_shapes

READERS: dict[str, Callable[[Path, ImageOptions], ImageSource]] = {
    ".npz": open_array,
    ".npy": open_array,
    ".parquet": open_image_file,
}


def open_images(options: ImageOptions) -> ImageSource:
    """Lists the images of a source without decoding them.

    Raises:
        ValueError: an unknown name or ending, or a source that is missing, empty or damaged.
    """
    name = options.source
    if name.startswith("hf://"):
        return open_image_hub(options)
    path = plain_path(name)
    is_folder = name not in IMAGE_SETS and path.is_dir()
    table = open_image_folder(path, options) if is_folder else None
    if table is not None:
        return table
    if is_folder or path.suffix.lower() != ".parquet":
        for column in ("image_column", "label_column"):
            if getattr(options, column) is not None:
                raise ValueError(f"{name} has no columns: --data.{column} is for parquet and hf://")
    if name in IMAGE_SETS:
        return open_digits(options) if name == "digits" else open_shapes(options)
    if is_folder:
        return open_folder(name, path)
    if path.suffix.lower() in ENDINGS and path.is_file():
        return open_single(name, path)
    others = f"{' or '.join(IMAGE_SETS)}, an image, a folder of images"
    check_file(name, path, tuple(READERS), others, IMAGE_SETS)
    return READERS[path.suffix.lower()](path, options)


def is_image_source(source: str) -> bool:
    """Whether a source holds images rather than a table, by its name or its file's header.

    True for digits, shapes, folders, arrays of three or four axes, and parquet files and datasets
    of the hub with a column of images. Raises nothing.
    """
    try:
        return plain_path(source).is_dir() or bool(open_images(ImageOptions(source)))
    except Exception:  # loading it raises a sentence about what is wrong
        return False


def load_gallery(options: ImageOptions, console: Console | None = None) -> Gallery:
    """Reads and checks images as `load_images` does, and leaves them in their order.

    Raises:
        ValueError: as `load_images`.
    """
    pixels, contents = _decoded(options, console)
    whole = _split(pixels, contents, np.arange(len(pixels)))
    notes, (*_, height, width) = _notes(contents, options), contents.shape
    if contents.scaled:
        notes.append(
            f"{options.source}: scaled and cropped {contents.scaled} of {len(pixels)} images to "
            f"{width} x {height} pixels"
        )
    gallery = Gallery(whole, contents.names, notes, contents.attributes)
    return gallery.conditional_on(options.source, options.context or [])


def load_images(options: ImageOptions, console: Console | None = None) -> Images:
    """Reads, checks and splits images, decoded the first time and taken from the cache afterwards.

    The images are permuted by `options.seed`. Splits that the source gives stay; those that it does
    not give are taken from its training images by `options.splits`. A file that cannot be read is
    left out with a note, or refused if `options.strict`.

    Args:
        options: which images, and how.
        console: where a progress bar goes if decoding takes long; stderr by default.

    Raises:
        ValueError: options that contradict each other or the source, or no images of one size.
            One sentence, which names the source and the remedy.
    """
    pixels, contents = _decoded(options, console)
    _, channels, height, width = contents.shape
    if options.shift >= min(height, width):
        raise ValueError(
            f"{options.source}: a shift of {options.shift} pixels moves images of "
            f"{width} x {height} out of sight: pass a smaller --data.shift"
        )
    train, val, test = (_split(pixels, contents, rows) for rows in _divide(contents, options))
    images = Images(
        name=Path(options.source).stem or options.source,
        shape=(channels, height, width),
        label_names=contents.label_names,
        train=train,
        val=val,
        test=test,
        notes=_notes(contents, options),
        options=options,
        attributes=contents.attributes,
    )
    return images.conditional_on(options.context or [])


def _decoded(options: ImageOptions, console: Console | None) -> Decoded:
    check_options(options)
    return decoded_images(open_images(options), options, console)


def _divide(contents: Contents, options: ImageOptions) -> list[NDArray[np.int64]]:
    given = [contents.splits.get(split, 0) for split in SPLITS]
    there = [count > 0 for count in given[1:]]
    sizes = split_sizes(options.source, "image", given[0], options.splits, there)
    order = np.random.default_rng(options.seed).permutation(contents.shape[0])
    origin = np.repeat(np.arange(3), given)[order]
    parts = np.split(order[origin == 0], np.cumsum(sizes[:2]))
    return [part if len(part) else order[origin == i] for i, part in enumerate(parts)]


def _split(pixels: Pixels, contents: Contents, rows: NDArray[np.int64]) -> ImageSplit:
    labels = contents.labels[rows]
    return ImageSplit(
        pixels,
        rows,
        None if (labels < 0).any() else torch.from_numpy(labels),
        torch.from_numpy(contents.values[rows]) if contents.attributes else None,
    )


def _notes(contents: Contents, options: ImageOptions) -> list[str]:
    source, gaps = options.source, contents.gaps
    total = contents.shape[0] + len(gaps)
    if gaps and options.strict:
        raise ValueError(
            f"{source}: {len(gaps)} of {total} {contents.unit} cannot be used, "
            f"{describe(gaps, total)}: remove them, or leave out --data.strict"
        )
    notes = []
    if gaps:
        notes.append(
            f"{source}: left out {len(gaps)} of {total} {contents.unit}: {describe(gaps, 3)}"
        )
    unlabelled = int((contents.labels < 0).sum())
    if 0 < unlabelled < len(contents.labels):
        notes.append(
            f"{source}: {unlabelled} of {len(contents.labels)} images have no label, so that their "
            "split has no labels"
        )
    return notes

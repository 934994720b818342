"""A source as pictures: listed, decoded once, and split in three."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from diffeo.data.files import reading
from diffeo.data.images.building import build, describe
from diffeo.data.images.cache import Contents, Pictures, cache_folder, cache_key, cached, uncached
from diffeo.data.images.options import ImageOptions, check_image_options
from diffeo.data.images.sets import Gallery, Images, ImageSplit
from diffeo.data.images.source import SPLITS
from diffeo.data.images.sources import open_images


def load_gallery(options: ImageOptions, console: Console | None = None) -> Gallery:
    """Reads and checks pictures as `load_images` does, and leaves them in their order.

    Raises:
        ValueError: as `load_images`.
    """
    pictures = _decoded(options, console)
    contents = pictures.contents
    whole = _part(pictures, np.arange(len(pictures.pixels)))
    gallery = Gallery(whole, contents.names, _notes(contents, options), contents.attributes)
    return gallery.conditional_on(options.source, options.context or [])


def load_images(options: ImageOptions, console: Console | None = None) -> Images:
    """Reads, checks and splits pictures, decoded the first time and taken from the cache later.

    The pictures are permuted by `options.seed`. Splits that the source gives are kept; those that
    it does not give are cut from its training pictures by `options.splits`. A file that cannot be
    read is left out with a note, or refused if `options.strict`.

    Args:
        options: which pictures, and how.
        console: where a progress bar goes if decoding takes long; stderr by default.

    Raises:
        ValueError: options that contradict each other or the source, or no pictures of one size.
            One sentence, which names the source and the remedy.
    """
    pictures = _decoded(options, console)
    contents = pictures.contents
    _, channels, height, width = contents.shape
    if options.shift >= min(height, width):
        raise ValueError(
            f"{options.source}: a shift of {options.shift} pixels moves pictures of "
            f"{width} x {height} out of sight: pass a smaller --data.shift"
        )
    train, val, test = (_part(pictures, rows) for rows in _divide(contents, options))
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


def _decoded(options: ImageOptions, console: Console | None) -> Pictures:
    check_image_options(options)
    source = open_images(options)

    def decode_to(path: Path) -> Contents:
        return build(source, path, options.size, options.grey, options.rows, console)

    if source.content is None:
        return uncached(decode_to)
    with reading(options.source):
        key = cache_key(options, source.content())
    return cached(cache_folder(options), key, decode_to)


def _divide(contents: Contents, options: ImageOptions) -> list[NDArray[np.int64]]:
    given = [contents.splits.get(split, 0) for split in SPLITS]
    sizes = [
        0 if count else max(1, round(given[0] * share))
        for count, share in zip(given, options.splits, strict=True)
    ]
    sizes[0] = given[0] - sizes[1] - sizes[2]
    if sizes[0] < 1:
        raise ValueError(
            f"{options.source} has {given[0]} picture{'s' * (given[0] != 1)} to cut splits from, "
            f"too few for --data.splits {list(options.splits)}: give more"
        )
    order = np.random.default_rng(options.seed).permutation(contents.shape[0])
    origin = np.repeat(np.arange(3), given)[order]
    cuts = np.split(order[origin == 0], np.cumsum(sizes[:2]))
    return [cut if len(cut) else order[origin == i] for i, cut in enumerate(cuts)]


def _part(pictures: Pictures, rows: NDArray[np.int64]) -> ImageSplit:
    labels = torch.from_numpy(pictures.contents.labels[rows])
    attributes = torch.from_numpy(pictures.contents.values[rows])
    return ImageSplit(
        pictures.pixels,
        rows,
        None if (labels < 0).any() else labels,
        attributes if attributes.shape[1] else None,
    )


def _notes(contents: Contents, options: ImageOptions) -> list[str]:
    notes = []
    total = contents.shape[0] + len(contents.gaps)
    if contents.gaps and options.strict:
        raise ValueError(
            f"{options.source}: {len(contents.gaps)} of {total} {contents.unit} cannot be used, "
            f"{describe(contents.gaps, total)}: remove them, or leave out --data.strict"
        )
    if contents.gaps:
        notes.append(
            f"{options.source}: left out {len(contents.gaps)} of {total} {contents.unit}: "
            f"{describe(contents.gaps, 3)}"
        )
    unlabelled = int((contents.labels < 0).sum())
    if 0 < unlabelled < len(contents.labels):
        notes.append(
            f"{options.source}: {unlabelled} of {len(contents.labels)} pictures have no label, so "
            "that their split has no labels"
        )
    return notes


def augment(x: Tensor, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Mirrors and moves each picture at random, for training only.

    Args:
        x: pictures, uint8 `[n, channels, height, width]`.
        flip: whether each is mirrored left to right with probability 1/2.
        shift: how far each is moved at most, in pixels, down or up and right or left, all
            distances being equally likely; what moves in repeats the edge.
        generator: draws the random numbers, on its device.

    Returns:
        Pictures of the same shape; each of their pixels is one of the same picture's.
    """
    n, channels, height, width = x.shape

    def positions(length: int) -> Tensor:
        distance = torch.randint(
            -shift, shift + 1, (n, 1), generator=generator, device=generator.device
        )
        steps = torch.arange(length, device=generator.device)
        return (steps - distance).clamp(0, length - 1).to(x.device)

    rows, columns = positions(height), positions(width)
    if flip:
        mirrored = torch.rand((n, 1), generator=generator, device=generator.device) < 0.5
        columns = torch.where(mirrored.to(x.device), width - 1 - columns, columns)
    picture = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return x[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]

"""A source as pictures: listed, decoded once, and split in three."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from diffeo.data.building import build, describe
from diffeo.data.cache import Contents, Pictures, cache_folder, cache_key, cached, uncached
from diffeo.data.decoding import Pixels
from diffeo.data.files import reading
from diffeo.data.image_options import ImageOptions, check_image_options
from diffeo.data.image_sources import open_pictures
from diffeo.data.pictures import SPLITS


@dataclass(frozen=True)
class ImageSplit:
    """Pictures of one split, left on the disk until they are asked for.

    Args:
        pixels: those of all splits, uint8 `[pictures, channels, height, width]`.
        rows: which of them are in this split `[n]`.
        labels: their classes, int64 `[n]`, or None where not each of them has one.
        attributes: what is known of each, float32 `[n, k]`, NaN where it is missing; None if
            nothing is.
    """

    pixels: Pixels
    rows: NDArray[np.int64]
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """The pictures at `indices` `[n]` of this split, uint8 `[n, channels, height, width]`."""
        rows = self.rows[indices.numpy(force=True)]
        order = rows.argsort()  # one way through the file, whatever was asked for
        pixels = np.empty((len(rows), *self.pixels.shape[1:]), dtype=np.uint8)
        pixels[order] = self.pixels[rows[order]]
        return torch.from_numpy(pixels)

    def all(self, limit: int | None = None) -> Tensor:
        """The first `limit` pictures, or all, uint8 `[n, channels, height, width]`."""
        count = len(self) if limit is None else min(limit, len(self))
        return self.batch(torch.arange(count))

    def take(self, indices: Tensor) -> tuple[Tensor, None]:
        """`batch`, in the form of a table's rows and their context."""
        return self.batch(indices), None


@dataclass(frozen=True)
class Images:
    """Pictures of one size, split in three.

    Args:
        name: short, for titles.
        shape: channels, height and width.
        label_names: what the labels 0, 1, ... are called; empty where there are none.
        train: the pictures to learn from.
        val: the pictures to choose by.
        test: the pictures to report on.
        notes: sentences for the user.
        options: what the pictures were loaded with.
        attribute_names: of the attributes of each split.
    """

    name: str
    shape: tuple[int, int, int]
    label_names: list[str]
    train: ImageSplit
    val: ImageSplit
    test: ImageSplit
    notes: list[str] = field(default_factory=list)
    options: ImageOptions = field(default_factory=ImageOptions)
    attribute_names: list[str] = field(default_factory=list)

    def split(self, name: str) -> ImageSplit:
        """The split called train, val or test.

        Raises:
            ValueError: another name.
        """
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise ValueError(f"there is no split '{name}': choose one of {', '.join(splits)}")
        return splits[name]


@dataclass(frozen=True)
class Gallery:
    """All pictures of a source in its order.

    Args:
        pictures: they.
        names: what each is called: its file inside the folder, or its row.
        notes: sentences for the user.
        attribute_names: of the attributes of the pictures.
    """

    pictures: ImageSplit
    names: list[str]
    notes: list[str]
    attribute_names: list[str] = field(default_factory=list)


def size_of(shape: tuple[int, ...]) -> str:
    """The (channels, height, width) of a picture in words: "8 x 8 pixels in 1 channel"."""
    channels, height, width = shape
    return f"{width} x {height} pixels in {channels} channel{'s' * (channels != 1)}"


def load_gallery(options: ImageOptions, console: Console | None = None) -> Gallery:
    """Reads and checks pictures as `load_images` does, and leaves them in their order.

    Raises:
        ValueError: as `load_images`.
    """
    pictures = _decoded(options, console)
    contents = pictures.contents
    whole = _part(pictures, np.arange(len(pictures.pixels)))
    return Gallery(whole, contents.names, _notes(contents, options), _attribute_names(contents))


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
    return Images(
        name=Path(options.source).stem or options.source,
        shape=(channels, height, width),
        label_names=contents.label_names,
        train=train,
        val=val,
        test=test,
        notes=_notes(contents, options),
        options=options,
        attribute_names=_attribute_names(contents),
    )


def _decoded(options: ImageOptions, console: Console | None) -> Pictures:
    check_image_options(options)
    source = open_pictures(options)

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
    if (labels < 0).any():
        return ImageSplit(pictures.pixels, rows)
    classes = torch.arange(len(pictures.contents.label_names))
    return ImageSplit(pictures.pixels, rows, labels, (labels[:, None] == classes).float())


def _attribute_names(contents: Contents) -> list[str]:
    return [f"label={name}" for name in contents.label_names]


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

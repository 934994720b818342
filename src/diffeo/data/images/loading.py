"""Images of one size as tensors: listed, decoded once, and split, or in the order of the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from diffeo.context import ContextSpec
from diffeo.data.files import reading
from diffeo.data.images.attributes import choose, context_columns
from diffeo.data.images.building import build, describe
from diffeo.data.images.cache import Contents, cache_folder, cache_key, cached, uncached
from diffeo.data.images.decoding import Pixels
from diffeo.data.images.opening import open_images
from diffeo.data.images.options import ImageOptions, check_image_options
from diffeo.data.splits import SPLITS, Dataset, split_sizes


@dataclass(frozen=True)
class ImageSplit:
    """Images of one split, left on the disk until they are asked for.

    Args:
        pixels: those of all splits, uint8 `[images, channels, height, width]`.
        rows: which of them are in this split `[n]`.
        labels: their classes, int64 `[n]`, or None where not each of them has one.
        attributes: what else is known of them, float32 `[n, attributes]`, NaN where it is not; None
            where the source has no attributes.
        context: what their density is conditional on, float32 `[n, context_features]`, or None.
    """

    pixels: Pixels
    rows: NDArray[np.int64]
    labels: Tensor | None = None
    attributes: Tensor | None = None
    context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices` `[n]` of this split, uint8 `[n, channels, height, width]`."""
        rows = self.rows[indices.numpy(force=True)]
        order = rows.argsort()  # one pass through the file, whatever was asked for
        pixels = np.empty((len(rows), *self.pixels.shape[1:]), dtype=np.uint8)
        pixels[order] = self.pixels[rows[order]]
        return torch.from_numpy(pixels)

    def all(self, limit: int | None = None) -> Tensor:
        """The first `limit` images, or all, uint8 `[n, channels, height, width]`."""
        return self.batch(torch.arange(len(self))[:limit])

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images at `indices` `[n]` as `batch` gives them, and their context."""
        context = None if self.context is None else self.context[indices.to(self.context.device)]
        return self.batch(indices), context


@dataclass(frozen=True, kw_only=True)
class Images(Dataset[ImageSplit]):
    """Images of one size, split in three.

    Args:
        shape: channels, height and width.
        label_names: what the labels 0, 1, ... are called; empty where there are none.
        options: what the images were loaded with.
        attributes: what the columns of the splits' attributes mean.
    """

    shape: tuple[int, int, int]
    label_names: list[str]
    options: ImageOptions = field(default_factory=ImageOptions)
    attributes: ContextSpec = field(default_factory=ContextSpec)

    @property
    def attribute_names(self) -> list[str]:
        """The names of the columns of the attributes."""
        return self.attributes.columns

    def conditional_on(self, context: Sequence[str]) -> Images:
        """The same images, conditional on attributes, or NAME=VALUE for one value of a text.

        Raises:
            ValueError: a name that is unknown or chosen twice, or one that not each image has.
        """
        source = self.options.source
        spec = choose(source, self.attributes, context)
        splits = [self.train, self.val, self.test]
        train, val, test = _with_context(source, splits, self.attributes, spec)
        options = dataclasses.replace(self.options, context=[*context] or None)
        return dataclasses.replace(
            self, train=train, val=val, test=test, options=options, context=spec
        )


@dataclass(frozen=True)
class Gallery:
    """All images of a source in its order.

    Args:
        images: they.
        names: what each is called: its file inside the folder, or its row.
        notes: sentences for the user.
        attributes: what the columns of the images' attributes mean.
        context: which of them are context.
    """

    images: ImageSplit
    names: list[str]
    notes: list[str]
    attributes: ContextSpec = field(default_factory=ContextSpec)
    context: ContextSpec = field(default_factory=ContextSpec)

    @property
    def attribute_names(self) -> list[str]:
        """The names of the columns of the attributes."""
        return self.attributes.columns

    def conditional_on(self, source: str, context: Sequence[str] | ContextSpec) -> Gallery:
        """The same images with another context, as `Images.conditional_on` or as a model has it.

        Categories of a model may have values that no image has.

        Raises:
            ValueError: as there, or a value of a category that the context does not have.
        """
        if not isinstance(context, ContextSpec):
            context = choose(source, self.attributes, context)
        (images,) = _with_context(source, [self.images], self.attributes, context)
        return dataclasses.replace(self, images=images, context=context)


def _with_context(
    source: str, splits: list[ImageSplit], attributes: ContextSpec, context: ContextSpec
) -> list[ImageSplit]:
    """Splits whose context is made of some of their attributes, none of which may be missing."""
    if not context:
        return [dataclasses.replace(split, context=None) for split in splits]
    none = torch.empty(0)
    values = [none if split.attributes is None else split.attributes for split in splits]
    whole = context_columns(source, attributes, torch.cat(values), context)
    rows = whole.split([len(split) for split in splits])
    return [dataclasses.replace(split, context=c) for split, c in zip(splits, rows, strict=True)]


def size_of(shape: tuple[int, ...]) -> str:
    """The (channels, height, width) of an image in words: "8 x 8 pixels in 1 channel"."""
    channels, height, width = shape
    return f"{width} x {height} pixels in {channels} channel{'s' * (channels != 1)}"


def load_gallery(options: ImageOptions, console: Console | None = None) -> Gallery:
    """Reads and checks images as `load_images` does, and leaves them in their order.

    Raises:
        ValueError: as `load_images`.
    """
    pixels, contents = _decoded(options, console)
    whole = _split(pixels, contents, np.arange(len(pixels)))
    gallery = Gallery(whole, contents.names, _notes(contents, options), contents.attributes)
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


def _decoded(options: ImageOptions, console: Console | None) -> tuple[Pixels, Contents]:
    check_image_options(options)
    source = open_images(options)

    def decode_to(path: Path) -> Contents:
        return build(source, path, options, console)

    if source.content is None:
        return uncached(decode_to)
    with reading(options.source):
        key = cache_key(options, source.content())
    return cached(cache_folder(options), key, decode_to)


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
            f"{options.source}: {unlabelled} of {len(contents.labels)} images have no label, so "
            "that their split has no labels"
        )
    return notes

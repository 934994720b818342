"""Images of one size: which ones, in three splits or in their order, and as batches."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.context import ContextSpec
from diffeo.data.datasets import Dataset, SourceOptions
from diffeo.data.images.attributes import choose, context_columns
from diffeo.utils.ranges import Range, Whole

Pixels = NDArray[np.uint8]

IMAGE_SETS = ("digits", "shapes")  # those that need no file
LARGEST = 4096  # pixels a side
Side = Annotated[int, Range(1, LARGEST)]


@dataclass
class ImageOptions(SourceOptions):
    """Which images to learn from, and how.

    Args:
        source: The bundled digits, shapes that are drawn here, a folder of images or of
            train*.parquet and test*.parquet, a .npz, .npy or .parquet file, or hf://owner/name.
        size: The height and width to which each image is scaled and cropped, in pixels; by
            default all are of one size and stay as they are.
        image_column: The column of images in a parquet file or a hub dataset; by default found.
        label_column: The column of labels in a parquet file or a hub dataset; by default found.
        strict: Whether a file that cannot be read is an error, instead of left out with a note.
        flip: Whether training images are mirrored left to right at random.
        shift: By how many pixels at most training images are moved at random.
        grey: Whether images are turned grey, with one channel.
        cache: The folder for decoded images; by default $DIFFEO_CACHE or ~/.cache/diffeo.
    """

    source: str = "digits"
    size: Side | None = None
    image_column: str | None = None
    label_column: str | None = None
    strict: bool = False
    flip: bool = False
    shift: Whole = 0
    grey: bool = False
    cache: str | None = None


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

    def conditional_on(self, context: Sequence[str]) -> Self:
        """The same images, conditional on attributes, or NAME=VALUE for one value of a text.

        Raises:
            ValueError: a name that is unknown or chosen twice, or one that not each image has.
        """
        splits = [self.train, self.val, self.test]
        source = self.options.source
        spec, (train, val, test) = _with_context(source, splits, self.attributes, context)
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

    def conditional_on(self, source: str, context: Sequence[str] | ContextSpec) -> Self:
        """The same images with another context, as `Images.conditional_on` or as a model has it.

        Categories of a model may have values that no image has.

        Raises:
            ValueError: as there, or a value of a category that the context does not have.
        """
        spec, (images,) = _with_context(source, [self.images], self.attributes, context)
        return dataclasses.replace(self, images=images, context=spec)


def _with_context(
    source: str,
    splits: list[ImageSplit],
    attributes: ContextSpec,
    context: Sequence[str] | ContextSpec,
) -> tuple[ContextSpec, list[ImageSplit]]:
    """A context, and splits with it: some of their attributes, none of which may be missing."""
    spec = context if isinstance(context, ContextSpec) else choose(source, attributes, context)
    if not spec:
        return spec, [dataclasses.replace(split, context=None) for split in splits]
    none = torch.empty(0)
    values = [none if split.attributes is None else split.attributes for split in splits]
    rows = context_columns(source, attributes, torch.cat(values), spec)
    parts = rows.split([len(split) for split in splits])
    return spec, [dataclasses.replace(s, context=c) for s, c in zip(splits, parts, strict=True)]


def size_of(shape: tuple[int, ...]) -> str:
    """The (channels, height, width) of an image in words: "8 x 8 pixels in 1 channel"."""
    channels, height, width = shape
    return f"{width} x {height} pixels in {channels} channel{'s' * (channels != 1)}"


def augment(x: Tensor, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Mirrors and moves each image at random, for training only.

    Args:
        x: images, uint8 `[n, channels, height, width]`.
        flip: whether each is mirrored left to right with probability 1/2.
        shift: how far each is moved at most, in pixels, down or up and right or left, all
            distances being equally likely; what moves in repeats the edge.
        generator: draws the random numbers, on its device.

    Returns:
        Images of the same shape; each of their pixels is one of the same image's.
    """
    n, _, height, width = x.shape
    device = generator.device

    def positions(length: int) -> Tensor:
        distance = torch.randint(-shift, shift + 1, (n, 1), generator=generator, device=device)
        return (torch.arange(length, device=device) - distance).clamp(0, length - 1)

    rows, columns = positions(height), positions(width)
    if flip:
        mirrored = torch.rand((n, 1), generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    moved = x.gather(2, rows.to(x.device)[:, None, :, None].expand(x.shape))
    return moved.gather(3, columns.to(x.device)[:, None, None, :].expand(x.shape))

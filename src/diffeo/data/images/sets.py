"""Pictures of one size, as splits from which batches are taken, and what goes with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.context import ContextSpec
from diffeo.data.images.attributes import choose, context_columns
from diffeo.data.images.decoding import Pixels
from diffeo.data.images.options import ImageOptions
from diffeo.data.splits import Divided


@dataclass(frozen=True)
class ImageSplit:
    """Pictures of one split, left on the disk until they are asked for.

    Args:
        pixels: those of all splits, uint8 `[pictures, channels, height, width]`.
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

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The pictures at `indices` `[n]` as `batch` gives them, and their context."""
        context = None if self.context is None else self.context[indices.to(self.context.device)]
        return self.batch(indices), context


@dataclass(frozen=True, kw_only=True)
class Images(Divided[ImageSplit]):
    """Images of one size, split in three.

    Args:
        name: short, for titles.
        shape: channels, height and width.
        label_names: what the labels 0, 1, ... are called; empty where there are none.
        notes: sentences for the user.
        options: what the images were loaded with.
        attributes: what the columns of the splits' attributes mean.
    """

    name: str
    shape: tuple[int, int, int]
    label_names: list[str]
    notes: list[str] = field(default_factory=list)
    options: ImageOptions = field(default_factory=ImageOptions)
    attributes: ContextSpec = field(default_factory=ContextSpec)

    @property
    def attribute_names(self) -> list[str]:
        """The names of the columns of the splits' attributes."""
        return self.attributes.columns

    def conditional_on(self, context: Sequence[str]) -> Images:
        """The same images with another context.

        Args:
            context: names of attributes, or NAME=VALUE for one value of a text; none for no
                context.

        Raises:
            ValueError: a name that is unknown or chosen twice, or one that not each image has.
        """
        source = self.options.source
        spec = choose(source, self.attributes, context)
        train, val, test = _with_context(
            source, [self.train, self.val, self.test], self.attributes, spec
        )
        return dataclasses.replace(
            self,
            train=train,
            val=val,
            test=test,
            options=dataclasses.replace(self.options, context=[*context] or None),
            context=spec,
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
        """The names of the columns of the images' attributes."""
        return self.attributes.columns

    def conditional_on(self, source: str, context: Sequence[str] | ContextSpec) -> Gallery:
        """The same images with another context.

        Args:
            source: named in messages.
            context: names as for `Images.conditional_on`; or that of a model, whose categories
                may have values that no image has.

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
    rows = context_columns(source, attributes, torch.cat(values), context)
    return [
        dataclasses.replace(split, context=part)
        for split, part in zip(splits, rows.split([*map(len, splits)]), strict=True)
    ]


def size_of(shape: tuple[int, ...]) -> str:
    """The (channels, height, width) of a picture in words: "8 x 8 pixels in 1 channel"."""
    channels, height, width = shape
    return f"{width} x {height} pixels in {channels} channel{'s' * (channels != 1)}"

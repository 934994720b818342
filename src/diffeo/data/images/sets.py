"""Pictures of one size, as splits from which batches are taken, and what goes with them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeo.data.images.attributes import check_present, choose
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
    """Pictures of one size, split in three.

    Args:
        name: short, for titles.
        shape: channels, height and width.
        label_names: what the labels 0, 1, ... are called; empty where there are none.
        notes: sentences for the user.
        options: what the pictures were loaded with.
        attribute_names: what the columns of the splits' attributes are called.
    """

    name: str
    shape: tuple[int, int, int]
    label_names: list[str]
    notes: list[str] = field(default_factory=list)
    options: ImageOptions = field(default_factory=ImageOptions)
    attribute_names: list[str] = field(default_factory=list)

    def conditional_on(self, context: list[str]) -> Images:
        """The same pictures with another context.

        Args:
            context: names of attributes, or of a text for all its values; none for no context.

        Raises:
            ValueError: a name that is unknown or chosen twice, or one that not each picture has.
        """
        columns = choose(self.options.source, self.attribute_names, context)
        splits = _with_context(
            self.options.source, [self.train, self.val, self.test], self.attribute_names, columns
        )
        return dataclasses.replace(
            self,
            train=splits[0],
            val=splits[1],
            test=splits[2],
            options=dataclasses.replace(self.options, context=context or None),
            context_columns=columns,
        )


@dataclass(frozen=True)
class Gallery:
    """All pictures of a source in its order.

    Args:
        pictures: they.
        names: what each is called: its file inside the folder, or its row.
        notes: sentences for the user.
        attribute_names: what the columns of the pictures' attributes are called.
        context_columns: which of them are context.
    """

    pictures: ImageSplit
    names: list[str]
    notes: list[str]
    attribute_names: list[str] = field(default_factory=list)
    context_columns: list[str] = field(default_factory=list)

    def conditional_on(self, source: str, context: list[str]) -> Gallery:
        """The same pictures with another context, as `Images.conditional_on`; source for messages.

        Raises:
            ValueError: as there.
        """
        columns = choose(source, self.attribute_names, context)
        (pictures,) = _with_context(source, [self.pictures], self.attribute_names, columns)
        return dataclasses.replace(self, pictures=pictures, context_columns=columns)


def _with_context(
    source: str, splits: list[ImageSplit], names: list[str], columns: list[str]
) -> list[ImageSplit]:
    """Splits whose context is some columns of their attributes, of which none may be missing."""
    if not columns:
        return [dataclasses.replace(split, context=None) for split in splits]
    places = [names.index(column) for column in columns]
    contexts = [split.attributes[:, places] for split in splits if split.attributes is not None]
    every = torch.cat(contexts).numpy()
    check_present(source, {column: every[:, i] for i, column in enumerate(columns)})
    return [
        dataclasses.replace(split, context=context)
        for split, context in zip(splits, contexts, strict=True)
    ]


def size_of(shape: tuple[int, ...]) -> str:
    """The (channels, height, width) of a picture in words: "8 x 8 pixels in 1 channel"."""
    channels, height, width = shape
    return f"{width} x {height} pixels in {channels} channel{'s' * (channels != 1)}"

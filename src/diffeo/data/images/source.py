"""Images that have been listed but not decoded, wherever they come from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeo.data.images.attributes import Label
from diffeo.data.images.dataset import Pixels

Content = Path | bytes | Pixels  # a file, its bytes, or pixels `[height, width]` or `[..., 3]`


@dataclass(frozen=True)
class Part:
    """Images of one of `SPLITS`, "train" where the source gives none.

    Args:
        split: which.
        names: what each image is called: its file, or its row.
        labels: the class of each.
        attributes: a DataFrame, with a row for each.
        read: yields the content of each.
    """

    split: str
    names: Sequence[str]
    labels: Sequence[Label]
    attributes: Any
    read: Callable[[], Iterator[Content]]

    def first(self, rows: int) -> Part:
        """The first images."""
        return Part(
            self.split,
            self.names[:rows],
            self.labels[:rows],
            self.attributes.iloc[:rows],
            lambda: itertools.islice(self.read(), rows),
        )


def rows_part(
    labels: Sequence[Label], attributes: Mapping[str, Any], read: Callable[[], Iterator[Content]]
) -> Part:
    """Images that are numbered; `attributes` has a column for each."""
    import pandas

    names = [f"row {row + 1}" for row in range(len(labels))]
    table = pandas.DataFrame(attributes, index=range(len(labels)))
    return Part("train", names, labels, table, read)


@dataclass(frozen=True)
class ImageSource:
    """Images that have been listed but not decoded.

    Args:
        name: the source as the user wrote it, for messages.
        unit: what its images are counted in: files, rows.
        parts: `parts()` are its images, in the order of `SPLITS`.
        content: `content()` changes with the images; None for too few to be worth a cache.
        label_names: what its labels 0, 1, ... are called, where the source knows.
        label_column: what its labels are called as an attribute.
    """

    name: str
    unit: str
    parts: Callable[[], Iterable[Part]]
    content: Callable[[], str] | None
    label_names: list[str] | None = None
    label_column: str = "label"

    def first(self, rows: int | None) -> list[Part]:
        """The first `rows` images of each split, or all."""
        parts: list[Part] = []
        for part in self.parts():
            before = sum(len(p.names) for p in parts if p.split == part.split)
            parts.append(part if rows is None else part.first(max(0, rows - before)))
        return parts

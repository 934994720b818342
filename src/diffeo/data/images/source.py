"""Images that have been listed but not decoded, wherever they come from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeo.data.images.attributes import Label
from diffeo.data.images.dataset import Pixels

Content = Path | bytes | Pixels  # a file, its bytes, or pixels `[height, width]` or `[..., 3]`


@dataclass(frozen=True)
class Part:
    """Images of one of `SPLITS`, "train" where the source gives none."""

    split: str
    names: Sequence[str]  # what each image is called: its file, or its row
    labels: Sequence[Label]  # the class of each
    attributes: Any  # a DataFrame, with a row for each
    contents: Iterable[Content]


def rows_part(
    labels: Sequence[Label], attributes: Mapping[str, Any], contents: Iterable[Content]
) -> Part:
    """Images that are numbered, with columns of attributes."""
    import pandas

    names = [f"row {row + 1}" for row in range(len(labels))]
    table = pandas.DataFrame(attributes, index=range(len(labels)))
    return Part("train", names, labels, table, contents)


@dataclass(frozen=True)
class ImageSource:
    """Images that have been listed but not decoded."""

    name: str  # the source as the user wrote it, for messages
    unit: str  # what its images are counted in: files, rows
    parts: Callable[[], Iterable[Part]]  # in the order of `SPLITS`
    content: Callable[[], str] | None  # changes with the images; None for too few to be cached
    label_names: list[str] | None = None  # what its labels 0, 1, ... are called, if that is known
    label_column: str = "label"  # what its labels are called as an attribute

    def first(self, rows: int | None) -> list[Part]:
        """The first `rows` images of each split, or all."""
        parts: list[Part] = []
        for part in self.parts():
            known = sum(len(before.names) for before in parts if before.split == part.split)
            end = len(part.names) if rows is None else max(0, rows - known)
            names, labels, table = part.names[:end], part.labels[:end], part.attributes.iloc[:end]
            contents = itertools.islice(part.contents, end)
            parts.append(Part(part.split, names, labels, table, contents))
        return parts

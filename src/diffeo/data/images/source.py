"""Images that have been listed but not decoded, wherever they come from."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from diffeo.data.images.attributes import Value
from diffeo.data.images.decoding import Content

Label = int | str | None


@dataclass(frozen=True)
class Entry:
    """One image that has not been decoded: its name, its pixels, its class, and other facts."""

    name: str
    content: Content
    label: Label = None
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Images of one of `SPLITS`, "train" where the source gives none; `read` yields `count`."""

    split: str
    count: int
    read: Callable[[], Iterator[Entry]]


@dataclass(frozen=True)
class ImageSource:
    """Images that have been listed but not decoded.

    Args:
        name: the source as the user wrote it, for messages.
        unit: what its images are counted in: files, rows.
        parts: its images, in the order of `SPLITS`.
        content: `content()` changes with the images; None for too few to be worth a cache.
        label_names: what its labels 0, 1, ... are called, where the source knows.
        label_column: what its labels are called as an attribute.
    """

    name: str
    unit: str
    parts: list[Part]
    content: Callable[[], str] | None
    label_names: list[str] | None = None
    label_column: str = "label"

    def count(self, rows: int | None) -> int:
        """How many images `entries(rows)` yields."""
        counts = Counter[str]()
        for part in self.parts:
            counts[part.split] += part.count
        return sum(count if rows is None else min(count, rows) for count in counts.values())

    def entries(self, rows: int | None) -> Iterator[tuple[str, Entry]]:
        """The first `rows` images of each split, each with the split's name."""
        for split, parts in itertools.groupby(self.parts, lambda part: part.split):
            entries = itertools.chain.from_iterable(part.read() for part in parts)
            for entry in itertools.islice(entries, rows):
                yield split, entry

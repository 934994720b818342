"""All images of a source as one array, decoded in threads and written as they come."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from diffeo.context import ContextSpec
from diffeo.data.images.attributes import encode, encode_labels, number_labels
from diffeo.data.images.cache import Contents, Gap
from diffeo.data.images.dataset import ImageOptions, Pixels
from diffeo.data.images.decoding import UnreadableError, decode
from diffeo.data.images.source import Content, ImageSource, Part
from diffeo.utils.console import printable

THREADS = 16  # at most: each holds some images of up to 50 MB

Result = Pixels | UnreadableError


def build(
    source: ImageSource, path: Path, options: ImageOptions, console: Console | None
) -> Contents:
    """Decodes a source into a file of the bytes of `[images, channels, height, width]`.

    Memory holds a few images for each core, and the attributes of all. All images have three
    channels if one of them has.

    Raises:
        ValueError: images of different sizes, or none that can be read.
    """
    parts = source.first(options.rows)
    names = [name for part in parts for name in part.names]
    contents = itertools.chain.from_iterable(part.read() for part in parts)
    console = console or Console(stderr=True)
    progress = track(
        _decoded(contents, options.size, options.grey),
        escape(f"decoding {printable(source.name)}"),
        len(names),
        console=console,
        transient=True,
        disable=not console.is_interactive,
    )
    gaps: list[Gap] = []
    rows: list[int] = []  # those of the images that can be read
    channels: list[int] = []
    size: tuple[int, ...] = ()
    with path.open("wb") as file:
        for row, pixels in enumerate(progress):
            if isinstance(pixels, UnreadableError):
                gaps.append((names[row], pixels.kind))
                continue
            size = size or pixels.shape[1:]
            if pixels.shape[1:] != size:
                found = [(names[rows[0]], size), (names[row], pixels.shape[1:])]
                raise ValueError(
                    f"{source.name} holds images of different sizes, "
                    + " and ".join(f"{shown(name)} of {w} x {h}" for name, (h, w) in found)
                    + " pixels: pass --data.size N to scale and crop each to N x N"
                )
            file.write(pixels.tobytes())
            channels.append(len(pixels))
            rows.append(row)
    if not rows:
        why = f": {describe(gaps, 3)}" if gaps else ""
        raise ValueError(f"{source.name} holds no image that can be read{why}")
    if {*channels} == {1, 3}:
        _widen(path, channels, math.prod(size))
    shape = [len(rows), max(channels), *size]
    return _contents(source, parts, shape, names, rows, gaps)


def _widen(path: Path, channels: list[int], size: int) -> None:
    """Gives three channels to the images of one."""
    wide = path.with_suffix(".wide")
    with path.open("rb") as narrow, wide.open("wb") as file:
        for count in channels:
            file.write(narrow.read(count * size) * (3 // count))
    wide.replace(path)


def _contents(
    source: ImageSource,
    parts: list[Part],
    shape: list[int],
    names: list[str],
    rows: list[int],
    gaps: list[Gap],
) -> Contents:
    """What is known of the images in some rows of all parts."""
    import pandas

    table = pandas.concat([part.attributes for part in parts], ignore_index=True)
    labels = [label for part in parts for label in part.labels]
    if not len(names) == len(table) == len(labels) == len(rows) + len(gaps):
        raise ValueError(f"{source.name} cannot be read, it may be damaged: it lacks some rows")
    labels = [labels[row] for row in rows]
    numbers, label_names = number_labels(labels, source.label_names)
    columns = encode(table.iloc[rows])
    if source.label_column not in table:  # which is preferred to the name of a folder
        columns = encode_labels(source.label_column, labels, numbers, label_names) | columns
    splits = [part.split for part in parts for _ in part.names]
    nothing = np.empty((len(rows), 0), np.float32)
    return Contents(
        shape=shape,
        names=[names[row] for row in rows],
        labels=numbers,
        label_names=label_names,
        attributes=ContextSpec(tuple(columns)),
        values=np.concatenate([nothing, *columns.values()], axis=1),
        splits=dict(Counter(splits[row] for row in rows)),
        gaps=gaps,
        unit=source.unit,
    )


def shown(name: str) -> str:
    """A file's name, escaped if it would not stay on its line."""
    return name if name.isprintable() else f"'{printable(name)}'"


def describe(gaps: list[Gap], most: int) -> str:
    """What is missing, by kind: "2 broken (a.png, b.png), 1 no image (notes.txt)"."""
    kinds: dict[str, list[str]] = {}
    for name, kind in gaps:
        kinds.setdefault(kind, []).append(shown(name))
    return ", ".join(
        f"{len(names)} {kind if len(names) > 1 else kind.replace('images', 'image')} "
        f"({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
        for kind, names in kinds.items()
    )


def _decoded(contents: Iterable[Content], size: int | None, grey: bool) -> Iterator[Result]:
    """Images in their order, decoded in as many threads as cores: Pillow lets go of the GIL."""

    def one(content: Content) -> Result:
        try:
            return decode(content, size, grey)
        except UnreadableError as error:
            return error

    threads = min(os.cpu_count() or 1, THREADS)
    waiting: deque[Future[Result]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # What matters becomes an error of ours; the rest (odd metadata) does not touch a pixel.
        warnings.filterwarnings("ignore", module="PIL")
        for content in contents:
            waiting.append(pool.submit(one, content))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

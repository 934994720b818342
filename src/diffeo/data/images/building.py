"""All images of a source as one array, decoded in threads and written as they come."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from diffeo.context import ContextSpec
from diffeo.data.images.attributes import Collector, encode_label
from diffeo.data.images.cache import Contents, Gap
from diffeo.data.images.decoding import Pixels, UnreadableError, decode
from diffeo.data.images.options import ImageOptions
from diffeo.data.images.source import Entry, ImageSource, Label
from diffeo.utils.console import printable

GROUP = 16  # images for one turn of a thread: one alone costs less than handing it over
AT_ONCE = 2**28  # bytes of decoded images that wait for their turn
PATIENCE = 2.0  # seconds without a progress bar

Given = tuple[str, Entry]
Result = Pixels | UnreadableError
Decoded = tuple[str, Entry, Result]


def build(
    source: ImageSource, path: Path, options: ImageOptions, console: Console | None
) -> Contents:
    """Decodes a source into a .npy file `[images, channels, height, width]`.

    Memory holds a few images for each core, and the attributes of all. All images have three
    channels if one of them has.

    Raises:
        ValueError: images of different sizes, or none that can be read.
    """
    gaps: list[Gap] = []
    names: list[str] = []
    labels: list[Label] = []
    attributes = Collector()
    splits = Counter[str]()
    with PixelFile(path) as file:
        decoded = _decoded(source.entries(options.rows), options.size, options.grey)
        total = source.count(options.rows)
        for split, entry, pixels in _with_progress(decoded, total, source.name, console):
            if isinstance(pixels, UnreadableError):
                gaps.append((entry.name, pixels.kind))
                continue
            if file.shape[1:] not in ((), pixels.shape[1:]):
                sizes = [(names[0], file.shape), (entry.name, pixels.shape)]
                raise ValueError(
                    f"{source.name} holds images of different sizes, "
                    + " and ".join(f"{shown(name)} of {w} x {h}" for name, (_, h, w) in sizes)
                    + " pixels: pass --data.size N to scale and crop each to N x N"
                )
            file.append(pixels)
            names.append(entry.name)
            labels.append(entry.label)
            attributes.append(entry.attributes)
            splits[split] += 1
    if not labels:
        why = f": {describe(gaps, 3)}" if gaps else ""
        raise ValueError(f"{source.name} holds no image that can be read{why}")
    numbers, label_names = _number_labels(labels, source.label_names)
    columns = attributes.encode()
    if source.label_column not in attributes:  # which is preferred to the name of a folder
        columns = encode_label(source.label_column, labels, numbers, label_names) | columns
    nothing = np.empty((len(labels), 0), np.float32)
    return Contents(
        shape=[len(labels), *file.shape],
        names=names,
        labels=numbers,
        label_names=label_names,
        attributes=ContextSpec(tuple(columns)),
        values=np.concatenate([nothing, *columns.values()], axis=1),
        splits=dict(splits),
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


def _number_labels(
    labels: list[Label], names: list[str] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Labels as numbers `[images]` and the names of these; -1 where there is none.

    Without names the labels that occur are numbered in their order.
    """
    if names is None:
        found = sorted({label for label in labels if label is not None})  # type: ignore[type-var]
        number: dict[Label, int] = {label: i for i, label in enumerate(found)}
        names = [str(label) for label in found]
    else:
        number = {i: i for i in range(len(names))}
    return np.array([number.get(label, -1) for label in labels], dtype=np.int64), names


def _decoded(entries: Iterator[Given], size: int | None, grey: bool) -> Iterator[Decoded]:
    """Images in their order, decoded in as many threads as cores: Pillow lets go of the GIL."""
    threads = os.cpu_count() or 1
    most = AT_ONCE // (threads + 2)

    def one(entry: Entry) -> Result:
        try:
            return decode(entry.content, size, grey)
        except UnreadableError as error:
            return error

    def work(group: list[Given]) -> list[Result]:
        """The first results of a group, no more than may be held."""
        done: list[Result] = []
        held = 0
        while len(done) < len(group) and held <= most:
            done.append(one(group[len(done)][1]))
            held += getattr(done[-1], "nbytes", 0)
        return done

    def results(group: list[Given], future: Future[list[Result]]) -> Iterator[Decoded]:
        done = future.result()
        for i, (split, entry) in enumerate(group):
            yield split, entry, done[i] if i < len(done) else one(entry)

    waiting: deque[tuple[list[Given], Future[list[Result]]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # What matters becomes an error of ours; the rest (odd metadata) does not touch a pixel.
        warnings.filterwarnings("ignore", module="PIL")
        while group := list(itertools.islice(entries, GROUP)):
            waiting.append((group, pool.submit(work, group)))
            if len(waiting) > threads + 1:
                yield from results(*waiting.popleft())
        while waiting:
            yield from results(*waiting.popleft())


def _with_progress(
    items: Iterable[Decoded], total: int, name: str, console: Console | None
) -> Iterator[Decoded]:
    """The same items, with a progress bar once they have taken long."""
    start = time.monotonic()
    console = console or Console(stderr=True)
    bar = Progress(console=console, transient=True)
    task = bar.add_task(escape(f"decoding {printable(name)}"), total=total)
    try:
        for item in items:
            yield item
            bar.advance(task)
            if console.is_interactive and time.monotonic() - start > PATIENCE:
                bar.start()  # once: later calls do nothing
    finally:
        if bar.live.is_started:
            bar.stop()


class PixelFile:
    """A .npy file of images that need not be counted beforehand.

    The first image sets their shape. NumPy's header leaves room for the count to grow, so it is
    written again at the end; images of one channel get three as soon as one has colours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape: tuple[int, ...] = ()
        self.count = 0
        self._file: IO[bytes] = path.open("wb")

    def append(self, pixels: Pixels) -> None:
        """Writes an image `[channels, height, width]`."""
        if not self.count:
            self.shape = pixels.shape
            self._write_header()
        elif pixels.shape[0] > self.shape[0]:
            self._widen(pixels.shape)
        self._write(pixels)
        self.count += 1

    def _write(self, pixels: Pixels) -> None:
        self._file.write(np.broadcast_to(pixels, self.shape).tobytes())

    def _write_header(self) -> None:
        shape = (self.count, *self.shape)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)

    def _widen(self, shape: tuple[int, ...]) -> None:
        self.close()
        grey = np.load(self.path, mmap_mode="r")
        wide = self.path.with_suffix(".wide")
        self._file, self.shape = wide.open("wb"), shape
        self._write_header()
        for image in grey:
            self._write(image)
        del grey  # a file that is mapped cannot be replaced on Windows
        self._file.close()
        wide.replace(self.path)
        self._file = self.path.open("r+b")
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Writes the count and closes the file."""
        if self.count:
            self._write_header()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

"""All pictures of a source as one array, decoded in threads and written as they come."""

from __future__ import annotations

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
from diffeo.data.images.source import Entry, ImageSource, Label
from diffeo.utils.console import printable

GROUP = 16  # pictures for one turn of a thread: one alone costs less than handing it over
AT_ONCE = 2**28  # bytes of decoded pictures that wait for their turn
PATIENCE = 2.0  # seconds without a progress bar

Given = tuple[str, Entry]
Decoded = tuple[str, Entry, Pixels | UnreadableError]


def build(
    source: ImageSource,
    path: Path,
    size: int | None,
    grey: bool,
    rows: int | None,
    console: Console | None,
) -> Contents:
    """Decodes a source into a .npy file `[pictures, channels, height, width]`.

    Memory holds a few pictures for each core, and the attributes of all. All pictures have three
    channels if one of them has.

    Raises:
        ValueError: pictures of different sizes, or none that can be read.
    """
    gaps: list[Gap] = []
    names: list[str] = []
    labels: list[Label] = []
    attributes = Collector()
    splits = Counter[str]()
    total = source.count(rows)
    with PixelFile(path) as file:
        decoded = _decoded(source.entries(rows), size, grey)
        for split, entry, pixels in _watched(decoded, total, source.name, console):
            if isinstance(pixels, UnreadableError):
                gaps.append((entry.name, pixels.kind))
                continue
            if file.shape[1:] not in ((), pixels.shape[1:]):
                raise ValueError(
                    f"{source.name} holds pictures of different sizes, "
                    f"{_size(names[0], file.shape)} and {_size(entry.name, pixels.shape)} pixels: "
                    "pass --data.size N to scale and crop each to N x N"
                )
            file.append(pixels)
            names.append(entry.name)
            labels.append(entry.label)
            attributes.append(entry.attributes)
            splits[split] += 1
    if not labels:
        why = f": {describe(gaps, 3)}" if gaps else ""
        raise ValueError(f"{source.name} holds no picture that can be read{why}")
    numbers, label_names = number_labels(labels, source.label_names)
    columns = attributes.encode()
    if source.label_column not in attributes:  # which says more than the name of a folder
        columns = encode_label(source.label_column, labels, numbers, label_names) | columns
    return Contents(
        shape=[len(labels), *file.shape],
        names=names,
        labels=numbers,
        label_names=label_names,
        attributes=ContextSpec(tuple(columns)),
        values=np.concatenate(
            [*columns.values()] or [np.empty((len(labels), 0), np.float32)], axis=1
        ),
        splits=dict(splits),
        gaps=gaps,
        unit=source.unit,
    )


def _size(name: str, shape: tuple[int, ...]) -> str:
    return f"{shown(name)} of {shape[2]} x {shape[1]}"


def shown(name: str) -> str:
    """A file's name, escaped if it would not stay on its line."""
    return name if name.isprintable() else f"'{printable(name)}'"


def describe(gaps: list[Gap], most: int) -> str:
    """What is missing, by kind: "2 broken (a.png, b.png), 1 no picture (notes.txt)"."""
    kinds: dict[str, list[str]] = {}
    for name, kind in gaps:
        kinds.setdefault(kind, []).append(shown(name))
    return ", ".join(
        f"{len(names)} {kind if len(names) > 1 else kind.replace('pictures', 'picture')} "
        f"({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
        for kind, names in kinds.items()
    )


def number_labels(
    labels: list[Label], names: list[str] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Labels as numbers `[pictures]` and the names of these; -1 where there is none.

    Without names the labels that occur are numbered in their order.
    """
    if names is None:
        found = sorted({label for label in labels if label is not None})  # type: ignore[type-var]
        number: dict[Label, int] = {label: i for i, label in enumerate(found)}
        names = [str(label) for label in found]
    else:
        number = {i: i for i in range(len(names))}
    return np.array([number.get(label, -1) for label in labels], dtype=np.int64), names


def _decoded(entries: Iterable[Given], size: int | None, grey: bool) -> Iterator[Decoded]:
    """Pictures in their order, decoded in as many threads as cores: Pillow lets go of the GIL."""

    def work(group: list[Given]) -> list[Pixels | UnreadableError | None]:
        done: list[Pixels | UnreadableError | None] = []
        held = 0
        for _, entry in group:
            pixels = None if held > most else _try_decode(entry, size, grey)
            held += pixels.nbytes if isinstance(pixels, np.ndarray) else 0
            done.append(pixels)
        return done

    def results() -> Iterator[Decoded]:
        group, future = waiting.popleft()
        for (split, entry), pixels in zip(group, future.result(), strict=True):
            # Of large pictures few are held at once: the others are decoded in their turn.
            yield split, entry, _try_decode(entry, size, grey) if pixels is None else pixels

    threads = os.cpu_count() or 1
    most = AT_ONCE // (threads + 2)
    waiting: deque[tuple[list[Given], Future[list[Pixels | UnreadableError | None]]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # What matters becomes an error of ours; the rest (odd metadata) does not touch a pixel.
        warnings.filterwarnings("ignore", module="PIL")
        for group in _groups(entries):
            waiting.append((group, pool.submit(work, group)))
            if len(waiting) > threads + 1:
                yield from results()
        while waiting:
            yield from results()


def _try_decode(entry: Entry, size: int | None, grey: bool) -> Pixels | UnreadableError:
    try:
        return decode(entry.content, size, grey)
    except UnreadableError as error:
        return error


def _groups(entries: Iterable[Given]) -> Iterator[list[Given]]:
    group: list[Given] = []
    for entry in entries:
        group.append(entry)
        if len(group) == GROUP:
            yield group
            group = []
    if group:
        yield group


def _watched(
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
            slow = time.monotonic() - start > PATIENCE
            if slow and console.is_interactive and not bar.live.is_started:
                bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()


class PixelFile:
    """A .npy file of pictures that need not be counted beforehand.

    The first picture sets their shape. NumPy's header leaves room for the count to grow, so it is
    written again at the end; pictures of one channel get three as soon as one has colours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape: tuple[int, ...] = ()
        self.count = 0
        self._file: IO[bytes] = path.open("wb")

    def append(self, pixels: Pixels) -> None:
        """Writes a picture `[channels, height, width]`."""
        if not self.count:
            self.shape = pixels.shape
            _write_header(self._file, (0, *self.shape))
        elif pixels.shape[0] > self.shape[0]:
            self._widen(pixels.shape)
        elif pixels.shape[0] < self.shape[0]:
            pixels = np.repeat(pixels, self.shape[0], axis=0)
        self._file.write(pixels.tobytes())
        self.count += 1

    def _widen(self, shape: tuple[int, ...]) -> None:
        self.close()
        grey = np.load(self.path, mmap_mode="r")
        wide = self.path.with_suffix(".wide")
        self._file, self.shape = wide.open("wb"), shape
        _write_header(self._file, (0, *shape))
        for picture in grey:
            self._file.write(np.repeat(picture, shape[0], axis=0).tobytes())
        del grey  # a file that is mapped cannot be replaced on Windows
        self._file.close()
        wide.replace(self.path)
        self._file = self.path.open("r+b")
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Writes the count and closes the file."""
        if self.count:
            self._file.seek(0)
            _write_header(self._file, (self.count, *self.shape))
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )

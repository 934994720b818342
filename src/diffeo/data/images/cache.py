"""Decoded images on the disk: made once, whole or not at all, and mapped instead of read."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from diffeo.context import Category, ContextSpec, Number
from diffeo.data.datasets import SPLITS
from diffeo.data.files import check_plain, reading
from diffeo.data.images.attributes import encode, encode_labels, number_labels
from diffeo.data.images.dataset import ImageOptions, Pixels
from diffeo.data.images.decoding import UnreadableError, fit, open_image
from diffeo.data.images.source import Content, ImageSource, Part
from diffeo.utils.console import printable
from diffeo.utils.files import parse_json, read_text

VERSION = 6  # of what the folders hold and of how images are decoded

META_BYTES = 2**30  # of the names of some ten million images
PIXELS, VALUES, META = "pixels.bin", "values.npy", "meta.json"
THREADS = 16  # at most: each holds some images of up to 50 MB

Gap = tuple[str, str]
Result = tuple[Pixels, bool] | UnreadableError


@dataclass(frozen=True)
class Contents:
    """What is known of decoded images, except for their pixels."""

    shape: list[int]  # images, channels, height, width
    names: list[str]  # what each image is called: its file, or its row
    labels: NDArray[np.int64]  # the class of each, -1 where it has none
    label_names: list[str]  # what the labels 0, 1, ... are called
    attributes: ContextSpec  # what else is known of the images
    values: NDArray[np.float32]  # [images, attributes.width], NaN where they are not known
    splits: dict[str, int]  # how many of them, in their order, the source gives to each split
    gaps: list[Gap]  # what was left out: the name and the kind of trouble
    unit: str  # what images are counted in: files, rows
    scaled: int  # how many were of another size than the one asked for


Decoded = tuple[Pixels, Contents]  # pixels `[images, channels, height, width]` and the rest


def decoded_images(source: ImageSource, options: ImageOptions, console: Console | None) -> Decoded:
    """The images of a source, decoded by one process the first time, then taken from the cache.

    A cache is the folder of the options, $DIFFEO_CACHE or ~/.cache/diffeo, and has a folder for
    each source and each size. This is built under another name: what an interruption leaves
    is never used, and removed by the next build. Few images are not cached.

    Raises:
        ValueError: a folder that cannot be written, images of different sizes, or none that can be
            read.
    """
    if source.content is None:
        with tempfile.TemporaryDirectory() as memory:
            contents = _build(source, Path(memory) / PIXELS, options, console)
            return np.fromfile(Path(memory) / PIXELS, np.uint8).reshape(contents.shape), contents
    with reading(source.name):
        facts = [VERSION, options.size, options.grey, options.image_column, options.label_column]
        facts += [options.rows, source.content()]
    folder = Path(options.cache).expanduser() if options.cache else default_folder()
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    home, partial = folder / key, folder / f"{key}.partial"
    if found := _load(home):
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if found := _load(home):  # another process was first
                return found
            for remains in (home, partial):
                shutil.rmtree(remains, ignore_errors=True)
            try:
                partial.mkdir()
                _save(partial, _build(source, partial / PIXELS, options, console))
                partial.rename(home)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        remedy = "set DIFFEO_CACHE to a folder that can be"
        if options.cache:
            remedy = "name another with --data.cache, or in config.yaml of a run"
        raise ValueError(
            f"the cache {folder} cannot be written, {error.strerror}: {remedy}"
        ) from error
    if found := _load(home):
        return found
    raise ValueError(f"the cache {home} was damaged as it was made: try again")


def default_folder() -> Path:
    """Where decoded images are stored unless an option says otherwise."""
    return Path(os.environ.get("DIFFEO_CACHE") or "~/.cache/diffeo").expanduser()


def _save(folder: Path, contents: Contents) -> None:
    attributes = [
        [variable.name, variable.values if isinstance(variable, Category) else None]
        for variable in contents.attributes.variables
    ]
    meta = vars(contents) | {"attributes": attributes, "labels": contents.labels.tolist()}
    np.save(folder / VALUES, meta.pop("values"))
    (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _load(folder: Path) -> Decoded | None:
    """Opens a cache; None if it is missing or damaged.

    The sizes of its files and the types of their values are checked; to read every pixel would take
    the time that the cache saves.
    """
    try:
        meta = parse_json(read_text(folder / META, META_BYTES))
        variables = [
            Number(name) if values is None else Category(name, tuple(values))
            for name, values in meta.pop("attributes")
        ]
        meta["gaps"] = [(name, kind) for name, kind in meta["gaps"]]
        meta["labels"] = np.array(meta["labels"], dtype=np.int64)
        for name in (PIXELS, VALUES):
            check_plain(name, folder / name)
        values = np.array(np.lib.format.open_memmap(folder / VALUES, mode="r"))
        contents = Contents(attributes=ContextSpec(tuple(variables)), values=values, **meta)
        shape = tuple(contents.shape)
        pixels = np.memmap(folder / PIXELS, np.uint8, mode="r", shape=shape)
        return (pixels, contents) if _fits(shape, contents) else None
    except Exception:  # damage makes NumPy's and Python's readers raise nearly anything
        return None


def _fits(shape: tuple[int, ...], known: Contents) -> bool:
    """Whether contents are those of pixels of a shape."""
    texts = [known.names, known.label_names, known.attributes.columns, map("".join, known.gaps)]
    return (
        len(shape) == 4
        and shape[1] in (1, 3)
        and all(isinstance(text, str) for names in texts for text in names)
        and len(known.names) == shape[0]
        and known.labels.shape == shape[:1]
        and known.labels.min() >= -1
        and known.labels.max() < max(len(known.label_names), 1)
        and known.values.dtype == np.float32
        and known.values.shape == (shape[0], known.attributes.width)
        and {*known.splits} <= {*SPLITS}
        and all(type(n) is int and n >= 0 for n in known.splits.values())
        and sum(known.splits.values()) == shape[0]
    )


def _build(
    source: ImageSource, path: Path, options: ImageOptions, console: Console | None
) -> Contents:
    """Decodes a source into a file of the bytes of `[images, channels, height, width]`.

    Memory holds a few images for each core, and the attributes of all. All images have three
    channels if one of them has.
    """
    parts = source.first(options.rows)
    names = [name for part in parts for name in part.names]
    contents = itertools.chain.from_iterable(part.contents for part in parts)
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
    scaled = 0
    with path.open("wb") as file:
        for row, result in enumerate(progress):
            if isinstance(result, UnreadableError):
                gaps.append((names[row], result.kind))
                continue
            pixels, changed = result
            scaled += changed
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
    return _contents(source, parts, shape, names, rows, gaps, scaled)


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
    scaled: int,
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
        scaled=scaled,
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
    """Images in their order, and whether each was scaled or cropped.

    They are decoded in as many threads as cores: Pillow lets go of the GIL.
    """

    def one(content: Content) -> Result:
        try:
            image = open_image(content, size)
            return fit(image, size, grey), size is not None and image.size != (size, size)
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

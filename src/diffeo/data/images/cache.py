"""Decoded images on the disk: made once, whole or not at all, and mapped instead of read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from diffeo.context import Category, ContextSpec, Number
from diffeo.data.datasets import SPLITS
from diffeo.data.files import check_plain
from diffeo.data.images.dataset import ImageOptions, Pixels
from diffeo.utils.files import parse_json, read_text

VERSION = 5  # of what the folders hold and of how images are decoded

META_BYTES = 2**30  # of the names of some ten million images
PIXELS, VALUES, META = "pixels.bin", "values.npy", "meta.json"

Gap = tuple[str, str]


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


Decoded = tuple[Pixels, Contents]  # pixels `[images, channels, height, width]` and the rest


def cache_folder(options: ImageOptions) -> Path:
    """The folder of all caches: the options', $DIFFEO_CACHE, or ~/.cache/diffeo."""
    folder = options.cache or os.environ.get("DIFFEO_CACHE") or "~/.cache/diffeo"
    return Path(folder).expanduser()


def cache_key(options: ImageOptions, content: str) -> str:
    """The name of a cache, from the hash of the source and the options that change decoding."""
    parts = [VERSION, options.size, options.grey, options.image_column, options.label_column]
    return hashlib.sha256(json.dumps([*parts, options.rows, content]).encode()).hexdigest()


def cached(folder: Path, key: str, build: Callable[[Path], Contents]) -> Decoded:
    """The images under a key, built if they are missing or damaged, by one process at a time.

    They are built in a folder of their own, which is renamed at the end: what an interruption
    leaves is never used, and removed by the next build. `build` writes pixels to the file that it
    is given, and returns the rest.

    Raises:
        ValueError: a folder that cannot be written, and whatever `build` raises.
    """
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
                _save(partial, build(partial / PIXELS))
                partial.rename(home)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ValueError(
            f"the cache {folder} cannot be written, {error.strerror}: "
            "name another folder with --data.cache"
        ) from error
    if found := _load(home):
        return found
    raise ValueError(f"the cache {home} was damaged as it was made: try again")


def uncached(build: Callable[[Path], Contents]) -> Decoded:
    """Images in memory, for few of them; `build` as for `cached`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PIXELS
        contents = build(path)
        return np.fromfile(path, np.uint8).reshape(contents.shape), contents


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

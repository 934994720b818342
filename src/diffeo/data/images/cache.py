"""Decoded images on the disk: made once, whole or not at all, and mapped instead of read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffeo.context import Category, ContextSpec, Number
from diffeo.data.images.decoding import Pixels
from diffeo.data.images.options import ImageOptions
from diffeo.data.limits import check_plain
from diffeo.data.splits import SPLITS
from diffeo.utils.files import parse_json, read_text

VERSION = 4  # of what the folders hold and of how images are decoded

META_BYTES = 2**30  # of the names of some ten million images
_ARRAYS = ("labels", "values")  # files of their own; the rest is in meta.json

Gap = tuple[str, str]


@dataclass(frozen=True)
class Contents:
    """What is known of decoded images, except for their pixels.

    Args:
        shape: `[images, channels, height, width]`.
        names: what each image is called: its file, or its row.
        labels: the class of each image `[images]`, -1 where it has none.
        label_names: what the labels 0, 1, ... are called.
        attributes: what else is known of the images.
        values: of the attributes `[images, attributes.width]`, NaN where they are not known.
        splits: how many of the images, in their order, the source gives to each split.
        gaps: what was left out: the name and the kind of trouble.
        unit: what images are counted in: files, rows.
    """

    shape: list[int]
    names: list[str]
    labels: NDArray[np.int64]
    label_names: list[str]
    attributes: ContextSpec
    values: NDArray[np.float32]
    splits: dict[str, int]
    gaps: list[Gap]
    unit: str


Images = tuple[Pixels, Contents]  # pixels `[images, channels, height, width]` and the rest


def cache_folder(options: ImageOptions) -> Path:
    """The folder of all caches: the options', $DIFFEO_CACHE, or ~/.cache/diffeo."""
    folder = options.cache or os.environ.get("DIFFEO_CACHE") or "~/.cache/diffeo"
    return Path(folder).expanduser()


def cache_key(options: ImageOptions, content: str) -> str:
    """The name of a cache, from the hash of the source and the options that change decoding."""
    parts = [VERSION, options.size, options.grey, options.image_column, options.label_column]
    return hashlib.sha256(json.dumps([*parts, options.rows, content]).encode()).hexdigest()


def cached(folder: Path, key: str, build: Callable[[Path], Contents]) -> Images:
    """The images under a key, built if they are missing or damaged.

    They are built in a folder of their own, which is renamed at the end: what an interruption
    leaves is never used, and removed by the next build. `build` writes pixels to the .npy file it
    is given, and returns the rest.

    Raises:
        ValueError: a folder that cannot be written, and whatever `build` raises.
    """
    home = folder / key
    if found := _load(home):
        return found
    partial = folder / f"{key}.partial-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder, key)
        partial.mkdir()
        _save(partial, build(partial / "pixels.npy"))
        if _load(home) is None:
            shutil.rmtree(home, ignore_errors=True)  # damaged
        partial.rename(home)
    except OSError as error:
        if found := _load(home):  # another process was first
            return found
        raise ValueError(
            f"the cache {folder} cannot be written, {error.strerror}: "
            "name another folder with --data.cache"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if found := _load(home):
        return found
    raise ValueError(f"the cache {home} was damaged as it was made: try again")


def uncached(build: Callable[[Path], Contents]) -> Images:
    """Images in memory, for few of them; `build` as for `cached`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.npy"
        contents = build(path)
        return np.load(path), contents


def _save(folder: Path, contents: Contents) -> None:
    meta = {field.name: getattr(contents, field.name) for field in dataclasses.fields(contents)}
    meta["attributes"] = [
        [variable.name, variable.values if isinstance(variable, Category) else None]
        for variable in contents.attributes.variables
    ]
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", meta.pop(name))
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _load(folder: Path) -> Images | None:
    """Opens a cache; None if it is missing or damaged.

    The sizes of its files and the types of their values are checked; to read every pixel would take
    the time that the cache saves.
    """
    try:
        meta = parse_json(read_text(folder / "meta.json", META_BYTES))
        meta["gaps"] = [(name, kind) for name, kind in meta["gaps"]]
        variables = [
            Number(name) if values is None else Category(name, tuple(values))
            for name, values in meta.pop("attributes")
        ]
        arrays: Any = {name: np.array(_mapped(folder / f"{name}.npy")) for name in _ARRAYS}
        contents = Contents(attributes=ContextSpec(tuple(variables)), **arrays, **meta)
        pixels = _mapped(folder / "pixels.npy")
        return (pixels, contents) if _fits(pixels, contents) else None
    except Exception:  # damage makes NumPy's and Python's readers raise nearly anything
        return None


def _mapped(path: Path) -> NDArray[Any]:
    """An array that ends where its file does, and is not of objects."""
    check_plain(path.name, path)
    return np.lib.format.open_memmap(path, mode="r")


def _fits(pixels: NDArray[Any], known: Contents) -> bool:
    """Whether pixels and contents are of one set of images."""
    count = len(pixels)
    texts = [known.names, known.label_names, known.attributes.columns, map("".join, known.gaps)]
    return (
        pixels.dtype == np.uint8
        and known.labels.dtype == np.int64
        and known.values.dtype == np.float32
        and list(pixels.shape) == known.shape
        and len(known.shape) == 4
        and known.shape[1] in (1, 3)
        and min(known.shape) > 0
        and len(known.names) == count
        and all(isinstance(text, str) for names in texts for text in names)
        and known.labels.shape == (count,)
        and known.labels.min() >= -1
        and known.labels.max() < max(len(known.label_names), 1)
        and known.values.shape == (count, known.attributes.width)
        and {*known.splits} <= {*SPLITS}
        and all(type(n) is int and n >= 0 for n in known.splits.values())
        and sum(known.splits.values()) == count
    )


def _remove_stale(folder: Path, key: str) -> None:
    """Removes what builds of a key have left that ended without a chance to clean up."""
    for partial in folder.glob(f"{key}.partial-*"):
        process = partial.name.rpartition("-")[2]
        if not (process.isdecimal() and _is_running(int(process))):
            shutil.rmtree(partial, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether another process has this id."""
    if process == os.getpid():
        return False
    if os.name != "posix":
        return True  # elsewhere, to ask could end it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True

"""Images in NumPy's files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffeo.data.files import check_archive, file_hash, listing, reading
from diffeo.data.images.attributes import Label
from diffeo.data.images.dataset import ImageOptions, Pixels
from diffeo.data.images.decoding import LONGEST_SIDE
from diffeo.data.images.source import ImageSource, Part, rows_part

Header = tuple[tuple[int, ...], np.dtype[Any]]  # the shape and the type of an array

_IMAGES, _LABELS = ("x", "images"), ("y", "labels")


def open_array(path: Path, options: ImageOptions) -> ImageSource:
    """A .npy file, or the array of a .npz file that is named x or images or is the only one.

    Its shape is (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. A .npz, which is read
    whole, may hold labels (N,) named y or labels.

    Raises:
        ValueError: no such array, another shape, or a damaged file; as it is read, another type
            than uint8.
    """
    name = options.source
    with reading(name):
        headers = _read_headers(path)
    named = [key for key in _IMAGES if key in headers]
    others = [key for key in headers if key not in _LABELS]
    if not named and len(others) != 1:
        held = listing(f"{key} {shape}" for key, (shape, _) in headers.items())
        raise ValueError(
            f"{name} holds {held or 'no array'}: save one array of images named x, and labels "
            "named y if there are any"
        )
    key = (named or others)[0]
    shape, dtype = headers[key]
    if len(shape) not in (3, 4) or (len(shape) == 4 and not {shape[1], shape[3]} & {1, 3}):
        raise ValueError(
            f"{name} holds an array of shape {shape}: save one of (images, height, width), "
            "(images, height, width, channels) or (images, channels, height, width)"
        )
    if min(shape) < 1 or max(shape[1:]) > LONGEST_SIDE:
        raise ValueError(
            f"{name} holds an array of shape {shape}: there is no image in it that has from 1 to "
            f"{LONGEST_SIDE:,} pixels a side"
        )

    def parts() -> list[Part]:
        if dtype != np.uint8:
            raise ValueError(f"{name} holds images of {dtype}: pass uint8 values, 0 to 255")
        return [rows_part(_read_labels(name, path, headers, shape[0]), {}, _read(name, path, key))]

    return ImageSource(name, "rows", parts, lambda: file_hash(path))


def _read_headers(path: Path) -> dict[str, Header]:
    """The arrays of a .npz file by name, or that of a .npy file, whose name is empty."""
    if path.suffix.lower() == ".npy":
        array = np.lib.format.open_memmap(path, mode="r")
        return {"": (array.shape, array.dtype)}
    headers = {}
    with zipfile.ZipFile(path) as archive:
        check_archive(path.name, archive)
        for member in archive.namelist():
            with archive.open(member) as file:
                old = np.lib.format.read_magic(file) == (1, 0)
                read = (
                    np.lib.format.read_array_header_1_0
                    if old
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
                headers[member.removesuffix(".npy")] = shape, dtype
    return headers


def _read_labels(name: str, path: Path, headers: dict[str, Header], images: int) -> list[Label]:
    key = next((key for key in _LABELS if key in headers), None)
    if key is None:
        return [None] * images
    shape, dtype = headers[key]
    if shape not in ((images,), (images, 1)) or dtype.kind not in "iubU":
        raise ValueError(
            f"{name} holds labels '{key}' of {dtype} and shape {shape}: save one whole number or "
            f"text for each of its {images} images"
        )
    with reading(name), np.load(path, allow_pickle=False) as file:
        labels: list[Label] = file[key].reshape(-1).tolist()
    return labels


def _read(name: str, path: Path, key: str) -> Iterator[Pixels]:
    with reading(name):
        if not key:
            yield from map(_channels_last, np.lib.format.open_memmap(path, mode="r"))
        else:
            with np.load(path, allow_pickle=False) as arrays:
                yield from map(_channels_last, arrays[key])


def _channels_last(pixels: Pixels) -> Pixels:
    """Pixels `[H, W]` or `[H, W, 3]`; of two axes that could be channels the last one is."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)

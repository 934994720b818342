"""Images in NumPy's files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from diffeo.data.files import Array, check_archive, file_hash, listing, reading
from diffeo.data.images.attributes import Label
from diffeo.data.images.dataset import ImageOptions, Pixels
from diffeo.data.images.decoding import LONGEST_SIDE
from diffeo.data.images.source import ImageSource, Part, rows_part

_IMAGES, _LABELS = ("x", "images"), ("y", "labels")


class Header(NamedTuple):
    """The header of a .npy file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def open_array(path: Path, options: ImageOptions) -> ImageSource:
    """A .npy file, or the array of a .npz file that is named x or images or is the only one.

    Its shape is (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. A .npz may hold
    labels (N,) named y or labels.

    Raises:
        ValueError: no such array, another type than uint8, another shape, or a damaged file.
    """
    name = options.source
    with reading(name):
        headers = read_headers(path)
    key = find_images(headers)
    if key is None:
        held = listing(f"{key} {header.shape}" for key, header in headers.items())
        raise ValueError(
            f"{name} holds {held or 'no array'}: save one array of images named x, and labels "
            "named y if there are any"
        )
    shape, _, dtype = headers[key]
    if dtype != np.uint8:
        raise ValueError(f"{name} holds images of {dtype}: pass uint8 values, 0 to 255")
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
    labels = _read_labels(name, path, headers, shape[0])

    def read() -> Iterator[Pixels]:
        with reading(name):
            yield from map(_channels_last, _rows(path, key, headers[key]))

    def parts() -> list[Part]:
        return [rows_part(labels, {}, read)]

    return ImageSource(name, "rows", parts, lambda: file_hash(path))


def read_headers(path: Path) -> dict[str, Header]:
    """The arrays of a .npz file by name, or that of a .npy file, whose name is empty."""
    if path.suffix.lower() == ".npy":
        array = np.lib.format.open_memmap(path, mode="r")
        return {"": Header(array.shape, False, array.dtype)}
    headers = {}
    with zipfile.ZipFile(path) as archive:
        check_archive(path.name, archive)
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member.removesuffix(".npy")] = _read_header(file)
    return headers


def _read_header(file: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return Header(*np.lib.format.read_array_header_1_0(file))
    return Header(*np.lib.format.read_array_header_2_0(file))


def find_images(headers: dict[str, Header]) -> str | None:
    """The name of the array that holds the images, or None."""
    named = [key for key in _IMAGES if key in headers]
    others = [key for key in headers if key not in _LABELS]
    return named[0] if named else others[0] if len(others) == 1 else None


def _read_labels(name: str, path: Path, headers: dict[str, Header], images: int) -> list[Label]:
    key = next((key for key in _LABELS if key in headers), None)
    if key is None:
        return [None] * images
    shape, _, dtype = headers[key]
    if shape not in ((images,), (images, 1)) or dtype.kind not in "iubU":
        raise ValueError(
            f"{name} holds labels '{key}' of {dtype} and shape {shape}: save one whole number or "
            f"text for each of its {images} images"
        )
    with reading(name), np.load(path, allow_pickle=False) as file:
        labels: list[Label] = file[key].reshape(-1).tolist()
    return labels


def _rows(path: Path, key: str, header: Header) -> Iterator[Array]:
    """The images of an array one by one, without ever holding it whole."""
    if not key:
        yield from np.lib.format.open_memmap(path, mode="r")
    elif header.fortran:  # its images are not contiguous
        with np.load(path, allow_pickle=False) as arrays:
            yield from arrays[key]
    else:
        shape = header.shape[1:]
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            _read_header(file)
            for _ in range(header.shape[0]):
                pixels = file.read(int(np.prod(shape)))
                yield np.frombuffer(pixels, dtype=np.uint8).reshape(shape)


def _channels_last(pixels: Pixels) -> Pixels:
    """Pixels `[H, W]` or `[H, W, 3]`; of two axes that could be channels the last one is."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)

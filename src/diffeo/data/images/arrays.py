"""Pictures in NumPy's files, and the bundled digits."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffeo.data.bounds import check_archive
from diffeo.data.files import Array, listing, reading
from diffeo.data.images.decoding import LONGEST_SIDE, Pixels
from diffeo.data.images.source import Entry, ImageSource, Label, Part, file_hash

_IMAGES, _LABELS = ("x", "images"), ("y", "labels")


@dataclass(frozen=True)
class Header:
    """What a .npy file says about its array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def open_array(name: str, path: Path) -> ImageSource:
    """A .npy file, or the array of a .npz file that is named x or images or is the only one.

    Its shape is (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. A .npz may hold
    labels (N,) named y or labels.

    Raises:
        ValueError: no such array, another type than uint8, another shape, or a damaged file.
    """
    with reading(name):
        headers = read_headers(path)
    key = images_key(headers)
    if key is None:
        held = listing(f"{key} {header.shape}" for key, header in headers.items())
        raise ValueError(
            f"{name} holds {held or 'no array'}: save one array of pictures named x, and labels "
            "named y if there are any"
        )
    header = headers[key]
    shape = header.shape
    if header.dtype != np.uint8:
        raise ValueError(f"{name} holds pictures of {header.dtype}: pass uint8 values, 0 to 255")
    if len(shape) not in (3, 4) or (len(shape) == 4 and not {shape[1], shape[3]} & {1, 3}):
        raise ValueError(
            f"{name} holds an array of shape {shape}: save one of (pictures, height, width), "
            "(pictures, height, width, channels) or (pictures, channels, height, width)"
        )
    if min(shape) < 1:
        raise ValueError(f"{name} holds an array of shape {shape}: there is no picture in it")
    if max(shape[1:]) > LONGEST_SIDE:
        raise ValueError(
            f"{name} holds pictures of shape {shape[1:]}: save some of {LONGEST_SIDE:,} pixels a "
            "side at most"
        )
    labels = _labels(name, path, headers, shape[0])

    def read() -> Iterator[Entry]:
        with reading(name):
            for row, pixels in enumerate(_rows(path, key, header)):
                label = None if labels is None else labels[row]
                yield Entry(f"row {row + 1}", _channels_last(pixels), label)

    return ImageSource(name, "rows", [Part("train", shape[0], read)], lambda: file_hash(path))


def read_headers(path: Path) -> dict[str, Header]:
    """The arrays of a .npz file by name, or that of a .npy file, whose name is empty."""
    if path.suffix.lower() == ".npy":
        array = np.lib.format.open_memmap(path, mode="r")
        return {"": Header(array.shape, False, array.dtype)}
    headers = {}
    with zipfile.ZipFile(path) as archive:
        check_archive(path.name, archive)
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            with archive.open(member) as file:
                headers[member.removesuffix(".npy")] = _header(file)
    return headers


def _header(file: Any) -> Header:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"version {version} of NumPy's format is not known")
    return Header(*read[version](file))


def images_key(headers: dict[str, Header]) -> str | None:
    """The name of the array that holds the pictures, or None."""
    others = [key for key in headers if key not in _LABELS]
    named = [key for key in _IMAGES if key in headers]
    return next(iter(named or others), None) if named or len(others) == 1 else None


def _labels(name: str, path: Path, headers: dict[str, Header], pictures: int) -> list[Label] | None:
    key = next((key for key in _LABELS if key in headers), None)
    if key is None:
        return None
    header = headers[key]
    if header.shape not in ((pictures,), (pictures, 1)) or header.dtype.kind not in "iubU":
        raise ValueError(
            f"{name} holds labels '{key}' of {header.dtype} and shape {header.shape}: save one "
            f"whole number or text for each of its {pictures} pictures"
        )
    with reading(name), np.load(path, allow_pickle=False) as file:
        labels: list[Label] = file[key].reshape(-1).tolist()
    return labels


def _rows(path: Path, key: str, header: Header) -> Iterator[Array]:
    """The pictures of an array one by one, without ever holding it whole."""
    if not key:
        yield from np.lib.format.open_memmap(path, mode="r")
    elif header.fortran:  # its pictures are not contiguous
        with np.load(path, allow_pickle=False) as file:
            yield from file[key]
    else:
        shape = header.shape[1:]
        size = int(np.prod(shape))
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            _header(file)
            for _ in range(header.shape[0]):
                pixels = file.read(size)
                if len(pixels) < size:
                    raise EOFError(f"the array '{key}' is too short")
                yield np.frombuffer(pixels, dtype=np.uint8).reshape(shape)


def _channels_last(pixels: Pixels) -> Pixels:
    """Pixels `[H, W]` or `[H, W, 3]`; of two axes that could be channels the last one is."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def open_digits() -> ImageSource:
    """Scikit-learn's 1,797 digits, 8 x 8 pixels of v = 0 to 16, here floor(255 v / 16)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * 255 // 16).astype(np.uint8)

    def read() -> Iterator[Entry]:
        for row, (picture, label) in enumerate(zip(pixels, digits.target, strict=True), 1):
            yield Entry(f"row {row}", picture, int(label))

    part = Part("train", len(pixels), read)
    return ImageSource("digits", "rows", [part], None, [str(i) for i in range(10)])

"""The file: what made it, its parts, and how one that is damaged is found out."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from diffeo.flow import Flow
from diffeo.utils.config import to_config

MAGIC, VERSION = b"diffeo", 3
# In every format these come first, then a check sum of all that follows.
CHECK = struct.Struct("<6sI")
FIRST = struct.Struct("<BB8s")  # the format, the kind, and the model
Kind = Literal["tables", "images"]
FACTS: dict[Kind, tuple[str, ...]] = {
    "tables": ("rows", "coded", "sum"),
    "images": ("images", "sum"),
}
PARTS: dict[Kind, tuple[str, ...]] = {
    "tables": ("limits", "others", "rows", "places", "cells"),
    "images": ("context", "pixels"),
}


@dataclass
class Container:
    """A compressed file.

    Args:
        kind: of what is in it.
        model: the digest of the model that made it.
        facts: each of `FACTS`, whole numbers from 0 on.
        parts: the bytes of each of `PARTS`.
    """

    kind: Kind
    model: str
    facts: dict[str, int] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)

    def pack(self) -> bytes:
        """All of it as bytes; the last part is as long as what is left."""
        parts = [self.parts[name] for name in PARTS[self.kind]]
        numbers = [self.facts[name] for name in FACTS[self.kind]] + [*map(len, parts[:-1])]
        first = FIRST.pack(VERSION, [*PARTS].index(self.kind), bytes.fromhex(self.model))
        rest = b"".join([first, *map(_packed, numbers), *parts])
        return CHECK.pack(MAGIC, zlib.crc32(rest)) + rest

    @classmethod
    def unpack(cls, data: bytes, kind: Kind, model: str) -> Container:
        """The container of a file.

        Raises:
            ValueError: if it is none, damaged, of a newer format, holds another kind of data, or
                was made with another model than that of this digest.
        """
        if not data.startswith(MAGIC):
            raise ValueError("this is no file of `diffeo compress`: give one that it wrote.")
        damaged = ValueError("the file is damaged: take another copy of it.")
        rest = data[CHECK.size :]
        if len(rest) < FIRST.size or zlib.crc32(rest) != CHECK.unpack_from(data)[1]:
            raise damaged
        version, place, maker = FIRST.unpack_from(rest)
        if version != VERSION:
            raise ValueError(
                f"the file has format {version}, and this diffeo reads {VERSION}: install the one "
                "that wrote it."
            )
        if place >= len(PARTS):
            raise damaged
        if (held := [*PARTS][place]) != kind:
            raise ValueError(
                f"the file holds {held}, and the model is one of {kind}: give the run that "
                "compressed it."
            )
        if maker.hex() != model:
            raise ValueError(
                "the file was made with another model, or in another precision: give the run that "
                f"compressed it (its digest begins with {maker.hex()[:8]}, that of this one with "
                f"{model[:8]})."
            )
        names, (*measured, last) = FACTS[kind], PARTS[kind]
        numbers, at = [], FIRST.size
        try:
            for _ in (*names, *measured):
                number, at = _unpacked(rest, at)
                numbers.append(number)
        except IndexError:
            raise damaged from None
        parts = {}
        for name, length in zip(measured, numbers[len(names) :], strict=True):
            parts[name] = rest[at : at + length]
            at += length
        parts[last] = rest[at:]
        return cls(kind, model, dict(zip(names, numbers, strict=False)), parts)


def _packed(number: int) -> bytes:
    """A whole number from 0 on, seven bits in a byte, of which all but the last are marked."""
    *marked, last = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(bits | 128 for bits in marked), last])


def _unpacked(data: bytes, at: int) -> tuple[int, int]:
    """The number that was `_packed` there, and the place after it."""
    number = shift = 0
    while data[at] & 128:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1


def check_sum(x: Tensor) -> int:
    """That of the values of a tensor, by which reading finds out that it went wrong."""
    values = x.detach().cpu().contiguous()
    if values.dtype.is_floating_point:
        values = torch.where(values.isnan(), torch.nan, values)
    return zlib.crc32(values.numpy().tobytes())


def digest(flow: Flow) -> str:
    """What tells a model from all others, and from itself in another precision, in 64 bits."""
    found = hashlib.sha256(json.dumps(to_config(flow), sort_keys=True).encode())
    for name, tensor in sorted(flow.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.digest()[:8].hex()

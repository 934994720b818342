"""The file: what made it, its parts, and how one that is damaged is found out."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from diffeo.flow import Flow
from diffeo.utils.config import to_config
from diffeo.utils.files import parse_json

MAGIC, VERSION = b"diffeo", 2
# In every format these come first, then a check sum of all that follows.
CHECK = struct.Struct("<6sI")
FIRST = struct.Struct("<BB16sI")  # the format, the kind, the model, and how long the facts are
Kind = Literal["tables", "images"]
PARTS: dict[Kind, tuple[str, ...]] = {
    "tables": ("cells", "others", "rows", "places"),
    "images": ("pixels", "context"),
}


@dataclass
class Container:
    """A compressed file.

    Args:
        kind: of what is in it.
        model: the digest of the model that made it.
        facts: that reading needs.
        parts: the bytes of each of `PARTS`.
    """

    kind: Kind
    model: str
    facts: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)

    def pack(self) -> bytes:
        """All of it as bytes."""
        parts = [self.parts[name] for name in PARTS[self.kind]]
        facts = [self.facts, [len(part) for part in parts]]
        text = zlib.compress(json.dumps(facts, separators=(",", ":")).encode(), 9)
        kind, model = [*PARTS].index(self.kind), bytes.fromhex(self.model)
        rest = b"".join([FIRST.pack(VERSION, kind, model, len(text)), text, *parts])
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
        version, place, maker, size = FIRST.unpack_from(rest)
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
        parts, at = {}, FIRST.size + size
        facts, lengths = parse_json(zlib.decompress(rest[FIRST.size : at]).decode())
        for name, length in zip(PARTS[kind], lengths, strict=True):
            parts[name] = rest[at : at + length]
            at += length
        return cls(kind, model, facts, parts)


def check_sum(x: Tensor) -> int:
    """That of the values of a tensor, by which reading finds out that it went wrong."""
    values = x.detach().cpu().contiguous()
    if values.dtype.is_floating_point:
        values = torch.where(values.isnan(), torch.nan, values)
    return zlib.crc32(values.numpy().tobytes())


def digest(flow: Flow) -> str:
    """What tells a model from all others, and from itself in another precision, in 128 bits."""
    found = hashlib.sha256(json.dumps(to_config(flow), sort_keys=True).encode())
    for name, tensor in sorted(flow.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]

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

MAGIC, VERSION = b"diffeo\x00\x00", 1
LENGTHS = struct.Struct("<III")  # of the header, and check sums of the header and of what follows
Kind = Literal["tables", "images"]


@dataclass
class Container:
    """A compressed file.

    Args:
        kind: of what is in it.
        model: the digest of the model that made it.
        facts: that reading needs.
        parts: named bytes.
    """

    kind: Kind
    model: str
    facts: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)

    def pack(self) -> bytes:
        """All of it as bytes."""
        body = b"".join(self.parts.values())
        header = {"version": VERSION, "kind": self.kind, "model": self.model, "facts": self.facts}
        header["parts"] = {name: len(part) for name, part in self.parts.items()}
        text = json.dumps(header, separators=(",", ":")).encode()
        text = zlib.compress(text, 9)
        return MAGIC + LENGTHS.pack(len(text), zlib.crc32(text), zlib.crc32(body)) + text + body

    @classmethod
    def unpack(cls, data: bytes, kind: Kind, model: str) -> Container:
        """The container of a file.

        Raises:
            ValueError: if it is none, damaged, of a newer format, holds another kind of data, or
                was made with another model than that of this digest.
        """
        if not data.startswith(MAGIC):
            raise ValueError("this is no file of `diffeo compress`: give one that it wrote.")
        start = len(MAGIC) + LENGTHS.size
        damaged = ValueError("the file is damaged: take another copy of it.")
        if len(data) < start:
            raise damaged
        size, *sums = LENGTHS.unpack(data[len(MAGIC) : start])
        text, body = data[start : start + size], data[start + size :]
        if [zlib.crc32(text), zlib.crc32(body)] != sums:
            raise damaged
        header = parse_json(zlib.decompress(text).decode())
        if header["version"] != VERSION:
            raise ValueError(
                f"the file has format {header['version']}, and this diffeo reads {VERSION}: "
                "install the one that wrote it."
            )
        if header["kind"] != kind:
            raise ValueError(
                f"the file holds {header['kind']}, and the model is one of {kind}: give "
                "the run that compressed it."
            )
        if header["model"] != model:
            raise ValueError(
                "the file was made with another model, or in another precision: give the run that "
                f"compressed it (its digest begins with {header['model'][:8]}, that of this one "
                f"with {model[:8]})."
            )
        parts, at = {}, 0
        for name, length in header["parts"].items():
            parts[name] = body[at : at + length]
            at += length
        return cls(kind, model, header["facts"], parts)


def check_sum(x: Tensor) -> int:
    """That of the values of a tensor, by which reading finds out that it went wrong."""
    values = x.detach().cpu().contiguous()
    if values.dtype.is_floating_point:
        values = torch.where(values.isnan(), torch.nan, values)
    return zlib.crc32(values.numpy().tobytes())


def digest(flow: Flow) -> str:
    """What tells a model from all others, and from itself in another precision."""
    found = hashlib.sha256(json.dumps(to_config(flow), sort_keys=True).encode())
    for name, tensor in sorted(flow.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()

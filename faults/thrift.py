"""Footers of parquet files as nobody writes them: Thrift's compact protocol, by hand."""

from __future__ import annotations

import struct
from pathlib import Path

MAGIC = b"PAR1"
INT32, INT64, DOUBLE, BINARY, LIST, STRUCT = 5, 6, 7, 8, 9, 12


def number(value: int) -> bytes:
    """A whole number, zigzag and in groups of seven bits."""
    value = (value << 1) ^ (value >> 63)
    return _varint(value & (1 << 64) - 1)


def text(value: bytes) -> bytes:
    """A string after its length."""
    return _varint(len(value)) + value


def table(kind: int, *items: bytes) -> bytes:
    """A list of one kind."""
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind])
    return head + (b"" if len(items) < 15 else _varint(len(items))) + b"".join(items)


def record(*fields: tuple[int, int, bytes]) -> bytes:
    """A struct of fields `(id, kind, value)` in rising order."""
    parts, last = [], 0
    for id_, kind, value in fields:
        parts += [bytes([id_ - last << 4 | kind]), value]
        last = id_
    return b"".join(parts) + b"\0"


def write_footer(path: Path, columns: int, rows: int) -> None:
    """A parquet file of columns of doubles, none of which is there."""
    root = record((4, BINARY, text(b"schema")), (5, INT32, number(columns)))
    leaves = (
        record((1, INT32, number(5)), (3, INT32, number(0)), (4, BINARY, text(b"c%d" % i)))
        for i in range(columns)
    )
    footer = record(
        (1, INT32, number(1)),
        (2, LIST, table(STRUCT, root, *leaves)),
        (3, INT64, number(rows)),
        (4, LIST, table(STRUCT)),
    )
    path.write_bytes(MAGIC + footer + struct.pack("<I", len(footer)) + MAGIC)


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])

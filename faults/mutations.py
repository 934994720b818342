"""Whole files changed a little, in ways that their readers have to notice or to bear."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 3, 10**9, 10**30, 0.5, 1e308, "", "x", "\x1b[2J", "\udcff", "a.b", "../../a",
    [], {}, [0], [[1], [2]], {"a": 1}, ["x", 5], [10**9, 10**9], "9" * 400, {"class_path": "a.B"},
)  # fmt: skip
WORDS = (
    b"", b"nan", b"-inf", b"1e999", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"{", b"}", b"[",
    b"]",
    b"&a ", b"*a", b"!!python/name:os.system ", b"<<: ", b": ", b"- ", b"'", b"#", b"|", b"(", b")",
    b"True", b"9" * 50, b"O", b"<f8", b"|O", b"\xef\xbb\xbf", b"-", b"=", b"\x1b[", b"a.B", b"\t",
)  # fmt: skip


def some_bytes(random: Random, content: bytes) -> bytes:
    """Bytes changed, cut, doubled, moved, or numbers that stand for sizes made odd."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        place = random.randrange(len(data) + 1)
        if random.random() < 0.3:  # where headers are
            place = min(place, random.randrange(64))
        many = random.choice((1, 2, 4, 8, 64))
        kind = random.randrange(6)
        if kind == 0:
            data[place : place + 1] = bytes([random.randrange(256)])
        elif kind == 1:
            del data[place : place + many]
        elif kind == 2:
            data[place:place] = data[place : place + many] * random.choice((1, 2, 100))
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            code = random.choice(("<I", ">I", "<Q", ">H", "<H", "B"))
            number = random.choice(NUMBERS) % (1 << 8 * struct.calcsize(code))
            data[place : place + struct.calcsize(code)] = struct.pack(code, number)
        else:
            data[place : place + random.choice((0, 1, 4))] = random.choice(WORDS)
    return bytes(data)


def some_words(random: Random, content: bytes) -> bytes:
    """Words of a text left out, doubled, exchanged, or replaced by odd ones."""
    parts = content.replace(b",", b" , ").replace(b"\n", b" \n ").split(b" ")
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.randrange(len(parts))
        kind = random.randrange(5)
        if kind == 0:
            parts[place] = random.choice(WORDS)
        elif kind == 1:
            parts[place : place + 1] = []
        elif kind == 2:
            parts[place:place] = parts[place : place + 5] * random.choice((1, 50))
        elif kind == 3:
            parts[place] += random.choice(WORDS)
        else:
            parts[place] = str(random.choice(NUMBERS)).encode()
        parts = parts or [b""]
    return b" ".join(parts).replace(b" , ", b",").replace(b" \n ", b"\n")


def some_json(random: Random, content: bytes) -> bytes:
    """A value in a JSON text replaced, left out, nested, or made long."""
    try:
        value = json.loads(content)
    except ValueError:
        return some_bytes(random, content)
    for _ in range(random.choice((1, 1, 2, 3))):
        value = _changed(random, value)
    return json.dumps(value).encode()


def _changed(random: Random, value: Any) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        kind = random.randrange(8)
        if kind == 0:
            return {name: inner for name, inner in value.items() if name != key}
        if kind == 1:
            return value | {random.choice(("", "x", "\x1b", key + "x")): value[key]}
        return value | {key: _changed(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        place = random.randrange(len(value))
        if random.random() < 0.3:
            return value[:place] + value[place : place + 1] * random.choice((0, 2, 1000))
        return [*value[:place], _changed(random, value[place]), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.5:
        return random.choice((value + 1, value - 1, 2 * value, -value, *NUMBERS))
    return random.choice(VALUES)


def some_header(random: Random, content: bytes) -> bytes:
    """The JSON header of a safetensors file, with the length that it then has."""
    if len(content) < 8 or random.random() < 0.3:
        return some_bytes(random, content)
    (length,) = struct.unpack("<Q", content[:8])
    header = some_json(random, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def some_member(inner: Mutation) -> Mutation:
    """One member of a zip file, which stays a zip file."""

    def change(random: Random, content: bytes) -> bytes:
        if random.random() < 0.3:
            return some_bytes(random, content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        chosen = random.choice(list(members))
        members[chosen] = inner(random, members[chosen])
        if random.random() < 0.1:
            members[random.choice(("../x.npy", "x", "y.npy", "x.npy"))] = members.pop(chosen)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return file.getvalue()

    return change


def any_of(*mutations: Mutation) -> Mutation:
    """One of several."""
    return lambda random, content: random.choice(mutations)(random, content)

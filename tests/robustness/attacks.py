"""What somebody may put into a file on purpose, and the command that reads it.

A command may read it, or refuse it in one sentence. It must not run the code in it, print a control
character, or take more than 10 s of the processor or 2 GB.
"""

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from . import specimens as sp
from .commands import MOST_BYTES, MOST_SECONDS, Words, run
from .damage import TARGETS, find
from .promises import Observation, Promise

MANY, DEEP = 10**9, 10**5
CHECKPOINTS = "run/checkpoints/last.ckpt", "run/checkpoints/before.ckpt"
FILES = [target for target in TARGETS.values() if target.file != "options"]
PLACES = [TARGETS[name] for name in ("run", "settings", "config", "glow")]  # of settings
Content = bytes | str | Callable[[Path], Any]


class Attack(NamedTuple):
    """A command, and the files that it meets; a function writes one itself."""

    words: Words
    files: dict[str, Content]

    def place(self, home: Path) -> int:
        for name, content in self.files.items():
            path = find(name, home) if "*" in name else home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return 0


Attacks = Iterator[Attack]


def each(kind: Callable[[Path, Path], Attacks]) -> Callable[[Path, bool], Iterator[Any]]:
    """The attacks of a kind, each with a folder of its own, and a file that its code writes."""

    def attempts(folder: Path, sample: bool) -> Iterator[Any]:
        whole, marker = sp.whole(folder.parent / "whole"), folder / "marker"
        every = [*kind(whole, marker)]
        for i in range(0, len(every), len(every) // 4 if sample else 1):
            yield every[i], whole, folder / f"{i}", marker

    return attempts


def attempt(task: tuple[Attack, Path, Path, Path]) -> Observation:
    attack, whole, home, marker = task
    shutil.copytree(whole, home)
    os.environ["DIFFEO_CACHE"] = str(home / "cache")
    placed = run(lambda: attack.place(home), home)
    done = run(attack.words, home)
    good = done.orderly and done.seconds < MOST_SECONDS and done.peak < MOST_BYTES
    wrong = [] if good and placed.status == 0 else [f"{attack.words}: {placed} {done}"]
    wrong += [f"{attack.words} ran its code"] if marker.exists() else []
    shutil.rmtree(home, ignore_errors=True)
    return Observation("refused" if done.status else "read", wrong, done.seconds, done.peak)


def pickles(whole: Path, marker: Path) -> Attacks:
    bomb = sp.Bomb(marker)
    contents = (
        pickle.dumps(bomb),
        sp.saved(lambda file: torch.save({"state_dict": bomb, "epoch": 1}, file)),
        sp.saved(lambda file: np.save(file, np.array([[bomb, 1], [2, 3]], dtype=object))),
    )
    for content in contents:
        yield Attack(sp.RESUME, dict.fromkeys(CHECKPOINTS, content))
        yield from (Attack(target.words, {target.file: content}) for target in FILES)
    for key in ("x", "columns"):
        members = {"x": np.zeros((24, 4, 4), np.uint8), key: np.array([bomb] * 24, dtype=object)}
        content = sp.saved(lambda file, m=members: np.savez(file, allow_pickle=True, **m))
        for words, name in ((sp.SCORE, "rows.npz"), (sp.SCORE_IMAGES, "images.npz")):
            yield Attack([*words, name], {name: content})


def classes(whole: Path, marker: Path) -> Attacks:
    code = f"open({str(marker)!r}, 'w').close()\n"
    more = {
        "evil.py": f"{code}from diffeo import RealNVP\nclass E(RealNVP): pass\n",
        "inner.yaml": '{"model": {"class_path": "evil.E"}}',
    }
    values = ("evil.E", {"class_path": "evil.E"}, {"class": "evil.E"}, ["evil.E"], "inner.yaml")
    for file, words, *_ in PLACES[:3]:
        text = (whole / file).read_text()
        tree = yaml.safe_load(text)
        for path in sp.nodes(tree):
            for value in values[: 1 if len(path) > 2 else None]:
                yield Attack(words, more | {file: json.dumps(sp.replaced(tree, path, value))})
        for tag in ("object/apply:exec", "object/new:evil.E", "module:evil", "name:evil.E"):
            tagged = f'seed: !!python/{tag} [\'open("{marker}", "w").close()\']\n'
            yield Attack(words, more | {file: tagged + text})


def sizes(whole: Path, marker: Path) -> Attacks:
    huge = (MANY, 10**30, -1, [MANY, MANY], [30_000] * 2, "x", None, [[[]]], ["x"] * 10**6)
    laughs = "a0: &a0 [1, 1]\n"
    laughs += "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 30))
    texts = [laughs, "a: &a [*a]\n", "[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP, "{}", "5",
             "- " * DEEP, "a: 1\n" * 10**6, "\0", "seed: " + "9" * DEEP, "&a " * DEEP]  # fmt: skip
    for file, words, *_ in PLACES[:3]:
        yield from (Attack(words, {file: text}) for text in texts)
    for file, words, *_ in PLACES[2:]:
        tree = json.loads((whole / file).read_text())
        for path in sp.nodes(tree):
            for value in huge[: (9, 8, 8, 4, 4)[min(len(path), 5) - 1]]:
                yield Attack(words, {file: json.dumps(sp.replaced(tree, path, value))})
    for shape, end in (([MANY, MANY], 8), ([-1], 8), ([0, 10**18], 0)):  # of safetensors
        header = (
            f'{{"a": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, {end}]}}}}'.encode()
        )
        for length in (len(header), 10**8, 2**63):
            content = struct.pack("<Q", length) + header + bytes(8)
            yield Attack(sp.SAMPLE, {"run/model/model.safetensors": content})
            yield Attack([*sp.EDIT, "age.safetensors"], {"age.safetensors": content})


def bombs(whole: Path, marker: Path) -> Attacks:
    small = sp.image("PNG", np.zeros((4, 4), np.uint8))
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8))) * 100
    large = [png(60_000, 60_000), png(60_000, 1), png(2**31 - 1, 2**31 - 1)]
    for content in (*large, small[:33] + text + small[33:], b"<html></html>"):
        yield Attack([*sp.SCORE_IMAGES, "own"], {"own/0.png": content})
    # Many at once, each of which is small only on the disk.
    many = dict.fromkeys([f"own/{i}.png" for i in range(6)], png(9_000, 9_000, whole=True))
    yield Attack([*sp.SCORE_IMAGES, "own"], many)
    names = ",".join(map(str, range(10**6)))
    files: dict[str, Content] = {
        "line.csv": "x,y\n1,2\n" + "7" * (2**24 + 9),
        "columns.csv": f"{names}\n{names}\n",
        "open.csv": 'x,y\n"1,2\n' + "3,4\n" * 10**5,
        "zeros.npz": lambda path: np.savez_compressed(path, x=np.zeros((2**18, 64, 64), np.uint8)),
        "zeros.parquet": zeros_parquet,
    }
    for name, content in files.items():
        yield Attack([*sp.SCORE, name], {name: content})
        yield Attack([*sp.SCORE_IMAGES, name], {name: content})


def png(width: int, height: int, whole: bool = False) -> bytes:
    """A black PNG, of which only a little is there unless it is whole."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * (height if whole else 1)), 9 if whole else 1)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros_parquet(path: Path) -> None:  # of a gigabyte a column
    table = pa.table(dict.fromkeys("xy", np.zeros(2**27 + 2**20)))
    pages = {"row_group_size": 2**28, "data_page_size": 2**31 - 1}
    pq.write_table(table, path, compression="zstd", use_dictionary=["y"], **pages)


def names(whole: Path, marker: Path) -> Attacks:
    black = sp.image("PNG", np.zeros((4, 4), np.uint8))
    for odd in (
        "line\nbreak",
        "\x1b[31mred",
        "[bold]x",
        "-rf",
        "\udcff\udcfe",
        "\u202edlrow",
        "%s",
    ):
        two = {f"own/{odd}.png": black, f"own/{odd}.txt": b"none", f"{odd}.csv": "a,b\n1,2\n"}
        yield Attack([*sp.SCORE_IMAGES, "own"], two)
        yield Attack([*sp.SCORE, f"{odd}.csv"], two)
        yield Attack(["sample", f"./{odd}"], {})
    pipes = lambda path: path.unlink(missing_ok=True) or os.mkfifo(path)  # noqa: E731
    zeros = lambda path: path.unlink(missing_ok=True) or path.symlink_to("/dev/zero")  # noqa: E731
    loops = lambda path: path.unlink(missing_ok=True) or path.symlink_to(path.name)  # noqa: E731
    for special in (pipes, zeros, loops):
        yield from (Attack(target.words, {target.file: special}) for target in FILES)
        yield Attack(sp.RESUME, dict.fromkeys(CHECKPOINTS, special))
    up = {"own/a.png": black, "own/up": lambda path: path.symlink_to("..")}
    yield Attack([*sp.SCORE_IMAGES, "own"], up)


HOLDS = "read, or refused in one sentence; no code is run; never more than 10 s or 2 GB"
KINDS = {
    "A pickle in each file, and in each place for one": pickles,
    "A class that a file names, in each place of settings, runs and models": classes,
    "Models and settings that ask for 10^9 of anything": sizes,
    "Images of 60,000 pixels, lines without end, files that unpack into gigabytes": bombs,
    "Names with commands to the terminal; pipes, devices, loops": names,
}
PROMISES = [Promise(what, HOLDS, each(kind), attempt) for what, kind in KINDS.items()]

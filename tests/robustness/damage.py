"""Files changed at random: the command that reads one does so, or refuses it in one sentence.

A content that breaks the promise is written to the folder `diffeo-failing` of temporary files,
under a name that `tests/failing_inputs` takes.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from . import specimens as sp
from .commands import MOST_BYTES, MOST_SECONDS, Ended, run
from .promises import Observation, Promise

SAVED = Path(tempfile.gettempdir()) / "diffeo-failing"
QUIET: dict[str, Any] = {"deadline": None, "database": None, "phases": [Phase.generate]}
QUIET["suppress_health_check"] = list(HealthCheck)
SIZES = (0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1)
TOKENS = [struct.pack(code, size) for code in ("<I", ">I", "<Q") for size in SIZES]
TOKENS += [
    b"", b"nan", b"-inf", b"1e999", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"{", b"}", b"[",
    b"]", b"&a ", b"*a", b"!!python/name:os.system ", b"<<: ", b": ", b"- ", b"'", b"#", b"|", b"(",
    b")", b"True", b"9" * 50, b"O", b"<f8", b"|O", b"\xef\xbb\xbf", b"-", b"=", b"\x1b[", b"a.B",
]  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 3, 10**9, 10**30, 0.5, 1e308, "", "x", "\x1b[2J", "\udcff", "a.b", "../../a",
    [], {}, [0], [[1], [2]], {"a": 1}, ["x", 5], [10**9, 10**9], "9" * 400, {"class_path": "a.B"},
)  # fmt: skip


@st.composite
def damaged(draw: DrawFn, content: bytes) -> bytes:
    """Bytes replaced, left out, repeated, or missing from some place on."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)) | st.integers(0, min(len(data), 64)))
        end = place + draw(st.sampled_from((0, 1, 2, 4, 8, 64)))
        again = st.sampled_from((2, 100)).map(lambda n, old=bytes(data[place:end]): old * n)
        data[place:end] = draw(st.sampled_from(TOKENS) | st.binary(max_size=8) | again)
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 4)) == 4 else data)


@st.composite
def changed(draw: DrawFn, content: bytes) -> bytes:
    """Values of a tree, JSON or YAML, replaced by others."""
    tree = yaml.safe_load(content)
    for _ in range(draw(st.integers(1, 3))):
        paths = [*sp.nodes(tree)] or [()]
        tree = sp.replaced(tree, draw(st.sampled_from(paths)), draw(st.sampled_from(VALUES)))
    return json.dumps(tree).encode()


def headed(content: bytes) -> SearchStrategy[bytes]:
    """The JSON header of a safetensors file changed, with the length that it then has."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return changed(content[8:end]).map(lambda h: struct.pack("<Q", len(h)) + h + content[end:])


@st.composite
def zipped(draw: DrawFn, content: bytes) -> bytes:
    """One member of a zip file damaged; what comes of it is a zip file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = draw(st.sampled_from([*members]))
    name = draw(st.sampled_from((chosen, chosen, "../x.npy", "x")))
    members[name] = draw(damaged(members.pop(chosen)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


class Target(NamedTuple):
    file: str
    words: list[str]  # the command that reads it
    changes: Callable[[bytes], SearchStrategy[bytes]] = damaged
    optional: bool = False  # whether the command must do its work whatever the file holds


IMAGES = [*sp.SCORE_IMAGES, "images"]
TARGETS = {
    "config": Target("run/model/config.json", sp.SAMPLE, changed),
    "scores": Target("run/model/config.json", [*sp.TYPICALITY, "rows.csv"], changed),
    "glow": Target("glow/model/config.json", sp.SAMPLE_IMAGES, changed),
    "weights": Target("glow/model/model.safetensors", sp.SAMPLE_IMAGES, headed),
    "directions": Target("age.safetensors", [*sp.EDIT, "age.safetensors"], headed),
    "settings": Target("settings.yaml", [*sp.CONFIGURE, "settings.yaml"], changed),
    "run": Target("run/config.yaml", sp.EVALUATE, changed),
    "words": Target("options", ["train"]),
    "csv": Target("rows.csv", [*sp.SCORE, "rows.csv"]),
    "parquet": Target("rows.parquet", [*sp.SCORE, "rows.parquet"]),
    "npy": Target("rows.npy", [*sp.SCORE, "rows.npy"]),
    "npz": Target("rows.npz", [*sp.SCORE, "rows.npz"], zipped),
    "images": Target("images.parquet", [*sp.SCORE_IMAGES, "images.parquet"]),
    "pixels": Target("images.npz", [*sp.SCORE_IMAGES, "images.npz"], zipped),
    "image": Target("images/a/0.png", IMAGES),
    "metadata": Target("images/metadata.csv", IMAGES),
    "cached": Target("cache/*/values.npy", IMAGES, damaged, True),
    "cachemeta": Target("cache/*/meta.json", IMAGES, changed, True),
}
LINE = (
    b"--data my.csv --data.columns a,b --data.splits [0.5,0.25,0.25] --model.hidden [4,5] --seed=3"
)


def contents(name: str, home: Path) -> SearchStrategy[bytes]:
    """Changed contents of a target in a folder of specimens."""
    file, _, change, _ = TARGETS[name]
    starts = [LINE] if name == "words" else sp.encoded() if name == "image" else ()
    starts = starts or [find(file, home).read_bytes()]
    return st.sampled_from(starts).flatmap(lambda start: damaged(start) | change(start))


def find(file: str, home: Path) -> Path:
    """A file of a folder, by a pattern; where it is of the cache, this is filled if need be."""
    if file.startswith("cache") and not [*home.glob(file)]:
        read("metadata", (home / "images/metadata.csv").read_bytes(), home)
    return min(home.glob(file), default=home / file)


def read(name: str, content: bytes, home: Path) -> str:
    """Give a content to the command that reads it, which does so, or refuses it in one sentence."""
    from diffeo.cli import main

    target = TARGETS[name]
    os.chdir(home)
    os.environ["DIFFEO_CACHE"] = str(home / "cache")
    words = target.words
    if name == "words":
        given = [word.decode(errors="surrogateescape") for word in content.split(b" ") if word]
        words = [*words, *given, "--out=run"]
    else:
        find(target.file, home).write_bytes(content)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main(words)
        except SystemExit as end:  # of --help
            status = 1 if end.code else 0
    ended = Ended(status, out.getvalue())
    assert ended.orderly and not (status and target.optional), f"{words}: {ended}"
    return "refused" if status else "read"


def batches(folder: Path, sample: bool) -> Iterator[tuple[str, Path, int, int]]:
    """Batches of contents of each target: where to put them, their seed, and how many."""
    sp.whole(folder / "whole")
    start = 0 if sample else random.randrange(2**32)
    for name in TARGETS:
        for i in range(1 if sample else 12):
            yield name, folder / f"{name}-{i}", start + i, 8 if sample else 50


def attempt(batch: tuple[str, Path, int, int]) -> Observation:
    """Read all contents of a batch in a process that may crash."""
    name, home, _, count = batch
    shutil.copytree(home.parent / "whole", home)
    done = run(lambda: read_all(*batch), home)
    if done.status or done.peak > MOST_BYTES:
        content = (home / "content").read_bytes()
        SAVED.mkdir(exist_ok=True)
        path = SAVED / f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"
        path.write_bytes(content)
        return Observation({"failed": count}, [f"{path}: {done}"], 0.0, done.peak)
    counts = json.loads((home / "counts").read_text())
    shutil.rmtree(home, ignore_errors=True)
    return Observation(counts, (), 0.0, done.peak)


def read_all(name: str, home: Path, number: int, count: int) -> int:
    counts = Counter[str]()

    @seed(number)
    @settings(max_examples=count, **QUIET)
    @given(contents(name, home))
    def attempt(content: bytes) -> None:
        (home / "content").write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # whatever takes longer is ended
        counts[read(name, content, home)] += 1
        signal.setitimer(signal.ITIMER_PROF, 0)

    attempt()
    (home / "counts").write_text(json.dumps(counts))
    return 0


WHAT = "models, weights, directions, settings, options, tables, images of ten formats, their cache"
HOLDS = "read, or refused in one sentence; never more than 10 s or 2 GB"
PROMISES = [Promise(f"Random changes to {WHAT}", HOLDS, batches, attempt)]

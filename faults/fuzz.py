"""Files changed at random, for each loader: it reads them, or raises what it says it raises.

Never anything else: no other exception, no crash, no more than 10 s or 2 GB. Inputs are tried in
copies of this process, and follow from a seed: a sample tries the first few of each kind. One that
fails is written into the folder `diffeo-failing` of temporary files, under a name that
`tests/failing_inputs` takes.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sys
import tempfile
import time
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

import diffeo
from diffeo.cli.parser import make_parser, parse
from diffeo.cli.settings import check_settings
from diffeo.data import (
    DataOptions,
    ImageOptions,
    TableOptions,
    load_data,
    load_gallery,
    load_table,
)
from diffeo.data.images.decoding import UnreadableError, decode
from diffeo.evaluation.scores import Reference
from diffeo.latent import Directions
from diffeo.run import Run
from diffeo.training.checkpoints import newest
from faults import specimens
from faults.apart import MOST_BYTES, MOST_SECONDS, Ended, apart
from faults.mutations import (
    Mutation,
    any_of,
    some_bytes,
    some_header,
    some_json,
    some_member,
    some_words,
)
from faults.outcomes import Outcome

SECONDS = 170.0  # of all loaders
INPUTS, BATCH = 30, 30  # of a sample for each loader; in one process
FAILING = Path(tempfile.gettempdir()) / "diffeo-failing"


@dataclass(frozen=True)
class Loader:
    """What reads a file, or words.

    Args:
        what: is read, in words.
        load: reads it: the bytes, and a folder to put them into.
        whole: bytes that are in order.
        change: changes them.
        raises: what it says that it raises.
        least: characters of what is said then; less where it is no sentence.
    """

    what: str
    load: Callable[[bytes, Path], Any]
    whole: Callable[[Path], list[bytes]]
    change: Mutation
    raises: tuple[type[BaseException], ...] = (ValueError,)
    least: int = 20

    def check(self, content: bytes, folder: Path) -> bool:
        """Whether it was read; an exception that it says it raises has a sentence to it.

        Raises:
            AssertionError: if there is none.
        """
        try:
            self.load(content, folder)
        except self.raises as error:
            refused = error
        else:
            return True
        if len(str(refused).strip()) < self.least:
            raise AssertionError(f"no sentence: {refused!r}")
        return False


def attempt(folder: Path, sample: bool) -> Iterator[Outcome]:
    """Each loader for the same time, or for the same number of inputs."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ["DIFFEO_CACHE"] = str(folder / "cache")
    seconds = float(os.environ.get("FUZZ_SECONDS", SECONDS)) / len(LOADERS)
    for name, loader in LOADERS.items():
        (folder / name).mkdir()
        end = None if sample else time.monotonic() + seconds
        yield _fuzz(name, loader, folder / name, end)


def _fuzz(name: str, loader: Loader, folder: Path, end: float | None) -> Outcome:
    random, whole = Random(name), loader.whole(folder)
    tried = read = failed = peak = 0
    slowest = 0.0
    while tried < INPUTS if end is None else time.monotonic() < end:
        batch = [loader.change(random, random.choice(whole)) for _ in range(BATCH)]
        while batch:
            ended, reached, good, longest = _try(loader, batch, folder)
            tried, read = tried + reached, read + good
            slowest, peak = max(slowest, longest), max(peak, ended.peak)
            if reached == len(batch) and ended.status == 0 and ended.peak <= MOST_BYTES:
                break
            # The one it was at is what ended it; those after it have their turn.
            culprit = min(reached, len(batch) - 1)
            failed, tried = failed + 1, tried + (reached < len(batch))
            _keep(name, batch[culprit], ended)
            batch = batch[culprit + 1 :]
    seen = f"{read:,} read, {tried - read - failed:,} refused; at most {slowest:.1f} s"
    seen += f" and {peak / 2**20:,.0f} MB"
    return Outcome(f"At random: {loader.what}", tried, failed, seen)


def _try(loader: Loader, batch: list[bytes], folder: Path) -> tuple[Ended, int, int, float]:
    """How it ended, how many were tried, how many of them read, and the longest time of one."""
    place = folder / "place"
    place.write_text("0 0 0")

    def work() -> int:
        torch.set_num_threads(1)  # the others were left behind
        good, longest = 0, 0.0
        with tempfile.TemporaryDirectory(dir=folder) as own:
            os.chdir(own)
            for number, content in enumerate(batch, 1):
                start = time.process_time()
                here = Path(own, str(number))
                here.mkdir()
                # Of the processor's time; what waits for something else is ended by `apart`.
                signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
                good += loader.check(content, here)
                signal.setitimer(signal.ITIMER_PROF, 0)
                longest = max(longest, time.process_time() - start)
                place.write_text(f"{number} {good} {longest}")
        return 0

    ended = apart(work, folder / "said")
    reached, good, longest = place.read_text().split()
    return ended, int(reached), int(good), float(longest)


def _keep(name: str, content: bytes, ended: Ended) -> None:
    """Write an input that failed where it can be looked at, and say why it did."""
    FAILING.mkdir(exist_ok=True)
    path = FAILING / f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"
    path.write_bytes(content)
    why = (ended.said.strip().splitlines() or [""])[-1]
    print(f"lost: {path}: status {ended.status}, {ended.peak >> 20} MB: {why}", file=sys.stderr)


# Loaders ----------------------------------------------------------------------------------------


def _model(of: str, changed: str) -> Callable[[bytes, Path], None]:
    """A model of which one file was changed: what it is used for, once it could be loaded."""

    def load(content: bytes, folder: Path) -> None:
        (specimens.table_model if of == "table" else specimens.image_model)(folder)
        (folder / changed).write_bytes(content)
        run = Run(folder)
        width = run.flow.context_features
        if run.flow.dims > 10_000:
            return
        run.sample(2, seed=0, context=torch.zeros(1, width) if width else None)
        if "scores" in run.flow.metadata:
            Reference.of(run.flow)

    return load


def _table(name: str, columns: list[str] | None = None) -> Callable[[bytes, Path], None]:
    def load(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        load_table(TableOptions(str(folder / name), columns=columns))

    return load


def _images(name: str) -> Callable[[bytes, Path], None]:
    def load(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        load_gallery(ImageOptions(str(folder / name), cache=str(folder / "cache")))

    return load


def _cache(name: str) -> Callable[[bytes, Path], None]:
    """Whatever a cache holds, its pictures are read, or made anew."""

    def load(content: bytes, folder: Path) -> None:
        specimens.pictures(folder / "pngs")
        kept = specimens.cache(folder / "cache", folder / "pngs")
        (kept / name).write_bytes(content)
        gallery = load_gallery(ImageOptions(str(folder / "pngs"), cache=str(folder / "cache")))
        assert gallery.images.all().shape[1:] == gallery.images.pixels.shape[1:]

    return load


def _settings(content: bytes, folder: Path) -> None:
    specimens.csv(folder / "rows.csv")
    (folder / "config.yaml").write_bytes(content)
    check_settings(str(folder / "config.yaml"), None, set())
    make_parser("train").parse_args(["--config", str(folder / "config.yaml")])


def _run(content: bytes, folder: Path) -> None:
    specimens.run_folder(folder / "run")
    (folder / "run" / "config.yaml").write_bytes(content)
    specimens.csv(folder / "rows.csv")
    os.chdir(folder)
    Run(folder / "run").data()


def _directions(content: bytes, folder: Path) -> None:
    (folder / "d.safetensors").write_bytes(content)
    found = Directions.load(folder / "d.safetensors")
    specimens.image_model(folder)
    found.check(diffeo.load(folder))


def _words(content: bytes, folder: Path) -> None:
    words = [word.decode(errors="surrogateescape") for word in content.split(b" ") if word]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            parse("train", words)
        except SystemExit as end:  # of --help
            if end.code:
                raise AssertionError("ended without a sentence") from end


def _checkpoint(content: bytes, folder: Path) -> None:
    (folder / "last.ckpt").write_bytes(content)
    newest(folder)


def _metadata(content: bytes, folder: Path) -> None:
    specimens.pictures(folder / "pngs")
    (folder / "pngs" / "metadata.csv").write_bytes(content)
    load_data(DataOptions(str(folder / "pngs"), cache=str(folder / "cache")))


# Seeds ------------------------------------------------------------------------------------------


def _file(write: Callable[[Path], Any], name: str) -> Callable[[Path], list[bytes]]:
    """What a writer of one file writes, or of a folder with a file of that name."""

    def whole(folder: Path) -> list[bytes]:
        path = folder / "whole" / name
        path.parent.mkdir(exist_ok=True)
        written = write(path) if path.suffix and write not in _FOLDERS else write(path.parent)
        return [(written / name if isinstance(written, Path) else path).read_bytes()]

    return whole


def _cached(folder: Path) -> Path:
    specimens.pictures(folder / "pngs")
    return specimens.cache(folder / "cache", folder / "pngs")


_FOLDERS = (specimens.table_model, specimens.image_model, specimens.pictures, _cached)
LINES = [
    b"--data my.csv --data.columns a,b --model NICE --model.layers 6 --seed=3",
    b"--preset mnist-cpu --data digits --data.size 8 --optimizer.lr 0.1 --out x",
    b'--config {"seed":5} --trainer.max_epochs 3 --trainer.memory auto --precision float32',
    b"--model.hidden [4,5] --data.splits [0.5,0.25,0.25] --data moons --data.rows 50",
]


def _decoded(content: bytes, folder: Path) -> None:
    decode(content, 8)
    decode(content)


def _encoded(folder: Path) -> list[bytes]:
    """A picture in each format that is read."""
    pixels = specimens.pixels(1)
    colours = pixels[..., None].repeat(3, -1)
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "ICO", "AVIF")
    return [specimens.picture(kind, array) for kind in kinds for array in (pixels, colours)]


TEXT, NUMPY = any_of(some_words, some_bytes), some_bytes
CONFIG, WEIGHTS = "config.json", "model.safetensors"
LOADERS = {
    "config": Loader(
        "config.json of a model of a table",
        _model("table", CONFIG),
        _file(specimens.table_model, CONFIG),
        any_of(some_json, some_json, some_bytes),
    ),
    "glow": Loader(
        "config.json of a model of pictures",
        _model("pictures", CONFIG),
        _file(specimens.image_model, CONFIG),
        some_json,
    ),
    "weights": Loader(
        "weights, safetensors",
        _model("pictures", WEIGHTS),
        _file(specimens.image_model, WEIGHTS),
        some_header,
    ),
    "directions": Loader(
        "directions, safetensors",
        _directions,
        _file(specimens.directions, "d.safetensors"),
        some_header,
    ),
    "settings": Loader(
        "settings, `--config`",
        _settings,
        lambda _: [specimens.CONFIG.encode()],
        TEXT,
        (ValueError, ArgumentError),
    ),
    "run": Loader("config.yaml of a run", _run, lambda _: [specimens.CONFIG.encode()], TEXT),
    "words": Loader(
        "options of `diffeo train`", _words, lambda _: LINES, TEXT, (ValueError, ArgumentError)
    ),
    "csv": Loader("CSV", _table("x.csv"), _file(specimens.csv, "x.csv"), TEXT),
    "parquet": Loader(
        "parquet",
        _table("x.parquet", ["x", "y"]),
        _file(specimens.parquet, "x.parquet"),
        some_bytes,
    ),
    "images": Loader(
        "parquet of pictures",
        _images("x.parquet"),
        _file(specimens.image_parquet, "x.parquet"),
        some_bytes,
    ),
    "npy": Loader("npy", _table("x.npy"), _file(specimens.npy, "x.npy"), NUMPY),
    "npz": Loader("npz", _table("x.npz"), _file(specimens.npz, "x.npz"), some_member(NUMPY)),
    "pixels": Loader(
        "npz of pictures",
        _images("x.npz"),
        _file(specimens.image_npz, "x.npz"),
        some_member(NUMPY),
    ),
    "picture": Loader(
        "pictures of ten formats", _decoded, _encoded, some_bytes, (UnreadableError,), 6
    ),
    "metadata": Loader(
        "metadata.csv of pictures", _metadata, _file(specimens.pictures, "metadata.csv"), TEXT
    ),
    "cached": Loader(
        "pixels in the cache", _cache("pixels.npy"), _file(_cached, "pixels.npy"), NUMPY, ()
    ),
    "cachemeta": Loader(
        "meta.json in the cache", _cache("meta.json"), _file(_cached, "meta.json"), some_json, ()
    ),
    "checkpoint": Loader(
        "checkpoints, weights only",
        _checkpoint,
        _file(specimens.checkpoint, "last.ckpt"),
        any_of(some_member(some_bytes), some_bytes),
    ),
}

"""Small runs of `diffeo train`, in processes forked from one that has imported everything.

To import takes longer than such a run. A forked process is one of its own: a signal ends it and
nothing else, and it reads and writes files as any other does.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffeo.cli import main

PATIENCE = 120  # seconds that no such run takes
# What may be counted, killed, stopped or starved of room: name -> where it is.
PLACES = {
    "reading the data": "diffeo.run.learning:load_data",
    "building the cache": "diffeo.data.images.building:PixelFile.append",
    "writing the settings": "yaml:safe_dump",
    "a step": "diffeo.training.loop:Training._take_step",
    "validation": "diffeo.training.loop:Training.validate",
    "the best model": "diffeo.pretrained.storage:save_file",
    "metrics.csv": "diffeo.training.observers:MetricsFile._write",
    "a figure": "matplotlib.figure:Figure.savefig",
    "TensorBoard": "diffeo.training.observers:TensorBoard.on_epoch_end",
    "a checkpoint": "torch:save",
    "a rename": "pathlib:Path.replace",
    "the evaluation": "diffeo.run.learning:evaluate",
    "the film": "PIL.Image:Image.save",
    "results.json": "json:dumps",
}
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def make_data(folder: Path) -> dict[str, list[str]]:
    """Write a table and pictures, and return the arguments of a run of each kind."""
    noise = np.random.default_rng(0)
    rows = noise.standard_normal((200, 3)) @ noise.standard_normal((3, 3))
    np.savetxt(folder / "rows.csv", rows, delimiter=",", header="a,b,c", comments="")
    photos = folder / "photos"
    photos.mkdir()
    for i in range(200):
        pixels = noise.integers(40, 215) + noise.integers(-20, 20, (8, 8))
        Image.fromarray(pixels.astype(np.uint8)).save(photos / f"{i:03d}.png")
    often = ["--trainer.device=cpu", "--out=run"]
    small = ["--model.layers=2", "--model.hidden=[8]", "--trainer.batch_size=32"]
    return {
        # It stops by itself, some epochs before the last.
        "table": [
            f"--data={folder / 'rows.csv'}",
            *small,
            "--optimizer.lr=0.1",
            "--trainer.max_epochs=12",
            "--trainer.patience=3",
            *often,
        ],
        "moons": [
            "--data.rows=300",
            *small,
            "--trainer.max_epochs=5",
            "--trainer.figure_every=3",
            *often,
        ],
        "pictures": [
            f"--data={photos}",
            "--data.cache=cache",
            "--model=Glow",
            "--model.levels=1",
            "--model.steps=2",
            "--model.hidden_channels=8",
            "--trainer.max_epochs=4",
            "--trainer.batch_size=40",
            "--trainer.figure_every=4",
            *often,
        ],
    }


def warm_up() -> None:
    """Import what a run imports, and let it compute on one thread."""
    torch.set_num_threads(1)
    for place in PLACES.values():
        importlib.import_module(place.partition(":")[0])
    for name in ("torch.utils.tensorboard", "tensorboard", "pandas"):
        importlib.import_module(name)
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(["train", "--help"])


def start(
    arguments: list[str], home: Path, *, fresh: bool = False, prepare: Callable[[], None] = int
) -> int:
    """Begin `diffeo ...` in a folder, which gets its words in a file beside; return the process.

    Args:
        arguments: after `diffeo`.
        home: the folder that the process is in.
        fresh: by a new interpreter, and not forked.
        prepare: what a forked process does first.
    """
    home.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        said = os.open(_said(home), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(home)
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", "diffeo.cli", *arguments])
        prepare()
        status = main(arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _said(home: Path) -> Path:
    """Beside the folder, which may have no room."""
    return home.with_suffix(".said")


def end(process: int) -> int:
    """Wait for a process: its exit status, or minus the signal that ended it."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return PATIENCE


def run(arguments: list[str], home: Path, **options: Any) -> tuple[int, str]:
    """The exit status of `diffeo ...` and what it said."""
    said = _said(home)
    before = said.stat().st_size if said.is_file() else 0
    status = end(start(arguments, home, **options))
    return status, said.read_bytes()[before:].decode(errors="replace")


def wrap(place: str, wrapper: Wrap) -> None:
    """Put a wrapper around what a place names, wherever in diffeo it is known by that name."""
    module, _, path = PLACES[place].partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, name, wrapper(getattr(owner, name)))


def at(place: str, nth: int, act: Callable[[], None], *, after: bool = False) -> None:
    """Do something when a place is reached for the nth time (from 0), or once it is over."""
    calls = iter(range(nth + 1))

    def wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            now = next(calls, None) == nth
            if now and not after:
                act()
            result = function(*args, **options)
            if now and after:
                act()
            return result

        return watched

    wrap(place, wrapper)


def observe(file: Path) -> None:
    """Note how often each place is reached, and how long that takes, in `file` at each call."""
    seen: dict[str, list[float]] = {}
    parent = os.getpid()

    def watch(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **options)
            seen.setdefault(place, []).append(time.perf_counter() - began)
            return result

        return watched

    for place in PLACES:
        wrap(place, functools.partial(watch, place))
    leave = os._exit

    def write_and_leave(status: int) -> None:
        if os.getpid() == parent:
            file.write_text(json.JSONEncoder().encode(seen), encoding="utf-8")
        leave(status)

    os._exit = write_and_leave  # type: ignore[assignment]


def ending(folder: Path) -> dict[str, Any]:
    """What a run has come to: metrics, results but for seconds, and the model's bytes."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    results.pop("training")
    model = {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}
    return {"metrics": (folder / "metrics.csv").read_bytes(), "results": results} | model


def differences(folder: Path, whole: dict[str, Any]) -> list[str]:
    """In what a run has come to something else than an unbroken one, or left half a file."""
    try:
        found = ending(folder)
    except (OSError, ValueError) as error:
        return [f"it has no end: {error}"]
    wrong = [f"{name} differs" for name in {*whole, *found} if found.get(name) != whole.get(name)]
    return wrong + [f"{path} is left" for path in folder.rglob("*.partial*")]


def sentence(said: str) -> str | None:
    """The one sentence of an error, by which the words end; None for anything else."""
    lines = said.rstrip().splitlines()
    told = [line for line in lines if line.startswith("diffeo: ")]
    one = len(told) == 1 and told == lines[-1:] and not re.search("Traceback|Exception", said)
    return told[0] if one else None


def go_on(
    arguments: list[str], home: Path, whole: dict[str, Any], *, fresh: bool = False
) -> tuple[bool, list[str]]:
    """What a user does after a fault: `--resume`, or the first command where that says so.

    Returns:
        Whether the run began anew, and what is wrong with what is said and with what it comes to.
    """
    folder, wrong = home / "run", []
    begun = (folder / "config.yaml").is_file()
    kept = [*folder.glob("checkpoints/last.ckpt"), *folder.glob("checkpoints/before.ckpt")]
    status, said = run(["train", "--resume", "run"], home, fresh=fresh)
    if not begun:
        if status != 2 or "holds no run to resume" not in (sentence(said) or ""):
            wrong.append(f"no sentence: {said}")
        status, said = run(["train", *arguments], home, fresh=fresh)
    elif (not kept) != ("holds no checkpoint yet: starting anew." in said):
        wrong.append(f"it does not say whether it starts anew: {said}")
    if status:
        wrong.append(f"status {status}: {said}")
    return not kept, wrong + differences(folder, whole)


def parallel() -> int:
    """How many runs at once: as many as there are cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@dataclass(frozen=True)
class Whole:
    """An unbroken run: what it takes, how often and how long it is where, and what it comes to."""

    arguments: list[str]
    seconds: float
    calls: dict[str, list[float]]
    came: dict[str, Any]


def unbroken(home: Path, arguments: list[str]) -> Whole:
    """Run once without a fault."""
    notes = home.with_suffix(".json")
    began = time.perf_counter()
    watch = functools.partial(observe, notes)
    status, said = run(["train", *arguments], home, prepare=watch)
    if status:
        raise RuntimeError(f"the unbroken run failed: {said}")
    calls = json.loads(notes.read_text(encoding="utf-8"))
    return Whole(arguments, time.perf_counter() - began, calls, ending(home / "run"))


def report(trouble: Iterable[tuple[str, list[str]]]) -> int:
    """Print what is wrong, and count it."""
    wrong = [(where, what) for where, what in trouble if what]
    for where, what in wrong:
        print(where, *what, sep="\n  ", file=sys.stderr)
    return len(wrong)


@contextlib.contextmanager
def workers() -> Iterator[Any]:
    """A pool of forked processes, one a core."""
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(parallel()) as pool:
        yield pool

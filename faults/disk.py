"""A disk that fills, an end by Ctrl-C, and files that are damaged: what was reached stays."""

from __future__ import annotations

import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from diffeo.training.checkpoints import BEFORE, LAST, load, newest
from faults import runs
from faults.outcomes import Outcome

ROOM = 64 * 2**20  # bytes of a small disk; a run takes some 3 MB of it
# Where files are written; TensorBoard holds back what it gets, and writes it at the end.
WRITERS = [
    "writing the settings",
    "building the cache",
    "the best model",
    "metrics.csv",
    "a figure",
    "TensorBoard",
    "a checkpoint",
    "a rename",
    "the film",
    "the evaluation",
    "results.json",
]
# The files of a run folder that may be damaged beside its checkpoints.
FILES = ["config.yaml", "metrics.csv", "results.json", "model/config.json"]
FILES += ["model/model.safetensors", "checkpoints/last.ckpt"]
FLIPS, CUTS = 400, 100

Came = tuple[str, list[str]]


def attempt(folder: Path, sample: bool) -> Iterator[Outcome]:
    """Fill disks, stop runs and damage files; then go on."""
    runs.warm_up()
    kinds = runs.make_data(folder)
    with runs.workers() as pool:
        tasks = [(folder / kind, arguments) for kind, arguments in kinds.items()]
        whole = dict(zip(kinds, pool.starmap(runs.unbroken, tasks), strict=True))
        yield from _filled(pool, folder, whole, sample)
        yield from _stopped(pool, folder, whole, sample)
        yield from _doubled(pool, folder, whole["table"], sample)
        yield from _damaged(pool, folder, whole["table"], sample)
    yield _flipped(folder / "table" / "run" / "checkpoints", sample)


# A disk that fills ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fill:
    """One attempt: the disk is full from the nth time on that a run comes to a place."""

    home: Path
    whole: runs.Whole
    place: str
    number: int

    def __call__(self) -> Came:
        """Where it came to an end, and what is wrong."""
        chance = random.Random(self.number)
        nth = chance.randrange(len(self.whole.calls[self.place]))
        left = chance.choice((0, 4096, 8192, 32768))
        with _small_disk(self.home) as disk:
            fill = _ballast(self.home, left) if disk else functools.partial(_limit, left)
            prepare = functools.partial(runs.at, self.place, nth, fill)
            arguments = ["train", *self.whole.arguments]
            status, said = runs.run(arguments, self.home, prepare=prepare)
            told = runs.sentence(said)
            wrong = []
            if status == 0:  # nothing more was to be written
                told = "no end"
            elif status != 2 or told is None or "cannot be written" not in told:
                wrong.append(f"status {status}: {said}")
            elif (self.home / "run" / "config.yaml").is_file() and "--resume run" not in told:
                wrong.append(f"how to go on is not said: {said}")
            wrong += [f"{path} is left" for path in self.home.rglob("*.partial*")]
            try:
                newest(self.home / "run" / "checkpoints", Console(quiet=True))
            except ValueError as error:
                wrong.append(str(error))
            (self.home / "ballast").unlink(missing_ok=True)
            wrong += runs.go_on(self.whole.arguments, self.home, self.whole.came)[1]
        return _file_of(told or ""), wrong


def _filled(
    pool: Any, folder: Path, whole: dict[str, runs.Whole], sample: bool
) -> Iterator[Outcome]:
    with _small_disk(folder / "tried") as disk:
        how = "a tmpfs filled to the last page" if disk else "no tmpfs here: a limit of file sizes"
    count = 2 if sample else 2 * len(WRITERS)
    tries = []
    for number in range(count):
        place = WRITERS[(6 if sample else 0) + number % len(WRITERS)]
        able = [kind for kind in whole if place in whole[kind].calls]
        kind = able[-1 if number >= len(WRITERS) else 0]
        tries.append(Fill(folder / f"full-{number}", whole[kind], place, number))
    came = list(pool.imap_unordered(_attempted, tries))
    yield Outcome(
        "A disk that fills, at whatever is written",
        len(came),
        runs.report(came),
        f"one sentence that names the file and the remedy, a checkpoint that loads, and after "
        f"room was made `--resume` to the numbers of an unbroken run; {how}; it ended at "
        + _counted(came),
    )


@contextmanager
def _small_disk(home: Path) -> Iterator[bool]:
    """A folder on a disk of its own; False if the system lets us have none."""
    home.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(home)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(home)], check=True)
        shutil.rmtree(home, ignore_errors=True)


def _ballast(home: Path, left: int) -> Callable[[], None]:
    """Takes all room but what is left."""

    def fill() -> None:
        free = os.statvfs(home)
        with (home / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - left))

    return fill


def _limit(left: int) -> None:
    """No file may grow over this, for want of a small disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, resource.RLIM_INFINITY))


def _file_of(told: str) -> str:
    """Which file a sentence is about."""
    name = told.removeprefix("diffeo: ").partition(" cannot be written")[0].split("/")[-1]
    return "the cache" if name.startswith("the cache") else name


# An end by a signal -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Interrupt:
    """One attempt: the signals come the nth time that a run comes to a place."""

    home: Path
    whole: runs.Whole
    place: str
    number: int

    def __call__(self) -> Came:
        """Which signal, and what is wrong."""
        chance = random.Random(self.number)
        nth = chance.randrange(len(self.whole.calls[self.place]))
        name, sent, status = (
            ("Ctrl-C", [signal.SIGINT], 130),
            ("Ctrl-C twice", [signal.SIGINT] * 2, 130),
            ("SIGTERM", [signal.SIGTERM], 143),
        )[self.number % 3]
        prepare = functools.partial(runs.at, self.place, nth, functools.partial(_send, sent))
        arguments = ["train", *self.whole.arguments]
        ended, said = runs.run(arguments, self.home, prepare=prepare)
        told, wrong = runs.sentence(said) or "", []
        begun = (self.home / "run" / "config.yaml").is_file()
        if ended != status or not told:
            wrong.append(f"status {ended}: {said}")
        if begun and "diffeo train --resume run" not in told:
            wrong.append(f"how to go on is not said: {said}")
        wrong += runs.go_on(self.whole.arguments, self.home, self.whole.came)[1]
        return name, wrong


def _send(sent: list[signal.Signals]) -> None:
    """The first at once, and the next one while that is being answered."""
    for i, number in enumerate(sent[1:]):
        timer = threading.Timer(0.03 * (i + 1), os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
    os.kill(os.getpid(), sent[0])


def _stopped(
    pool: Any, folder: Path, whole: dict[str, runs.Whole], sample: bool
) -> Iterator[Outcome]:
    tries = []
    for number in range(3 if sample else 24):
        place = [*runs.PLACES][(number + 3) % len(runs.PLACES)]
        able = [kind for kind in whole if place in whole[kind].calls]
        tries.append(Interrupt(folder / f"stop-{number}", whole[able[0]], place, number))
    came = list(pool.imap_unordered(_attempted, tries))
    yield Outcome(
        "Ctrl-C, once and twice, and SIGTERM at any moment",
        len(came),
        runs.report(came),
        f"one sentence that says which epochs are saved and the command that goes on; it ends as "
        f"an unbroken run; {_counted(came)}",
    )


# Two at once ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Double:
    """One attempt: two processes train into one folder from the same moment on."""

    home: Path
    whole: runs.Whole

    def __call__(self) -> Came:
        """What became of both, and what is wrong."""
        arguments = ["train", *self.whole.arguments]
        both = [runs.start(arguments, self.home) for _ in range(2)]
        ends = sorted(runs.end(process) for process in both)
        wrong = [] if ends == [0, 2] else [f"they ended with {ends}"]
        return "one refused", wrong + runs.differences(self.home / "run", self.whole.came)


def _doubled(pool: Any, folder: Path, whole: runs.Whole, sample: bool) -> Iterator[Outcome]:
    tries = [Double(folder / f"double-{i}", whole) for i in range(1 if sample else 6)]
    came = list(pool.imap_unordered(_attempted, tries))
    yield Outcome(
        "Two `diffeo train` into one folder at once",
        len(came),
        runs.report(came),
        "one trains to the numbers of an unbroken run, the other is refused in a sentence",
    )


# Files that are damaged -------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """One attempt: a file of a run is cut, emptied or overwritten, and a command meets it."""

    home: Path
    whole: runs.Whole
    file: str
    number: int

    def __call__(self) -> Came:
        """What came of it, and what is wrong."""
        chance = random.Random(self.number)
        run = self.home / "run"
        # Every other run was killed in its fifth epoch, so that there is something to go on with.
        prepare = functools.partial(_stop_at, 4) if self.number % 2 else int
        runs.run(["train", *self.whole.arguments], self.home, prepare=prepare)
        path = run / self.file
        if path.is_file():
            damage(path, chance)
        told, wrong = [], []
        for command in (["eval", "run"], ["train", "--resume", "run"]):
            status, said = runs.run(command, self.home)
            told.append("told in a sentence" if status else "done all the same")
            if status not in (0, 2) or (status == 2 and runs.sentence(said) is None):
                wrong.append(f"{' '.join(command)}: status {status}: {said}")
        if status == 0:
            wrong += runs.differences(run, self.whole.came)
        return f"{self.file} {told[-1]}", wrong


def _stop_at(nth: int) -> None:
    runs.at("metrics.csv", nth, functools.partial(os.kill, os.getpid(), signal.SIGKILL))


def damage(path: Path, chance: random.Random) -> None:
    """Cut a file, empty it, or overwrite its middle."""
    data = bytearray(path.read_bytes())
    kind = chance.choice(("cut", "empty", "overwrite"))
    if kind == "overwrite":
        start = chance.randrange(max(1, len(data) // 2))
        data[start : start + 64] = chance.randbytes(64)
    path.write_bytes(data[: chance.randrange(len(data))] if kind == "cut" else data)
    if kind == "empty":
        path.write_bytes(b"")


def _damaged(pool: Any, folder: Path, whole: runs.Whole, sample: bool) -> Iterator[Outcome]:
    files = FILES[-1:] * 2 if sample else FILES * 4
    tries = [Damage(folder / f"bad-{i}", whole, file, i) for i, file in enumerate(files)]
    came = list(pool.imap_unordered(_attempted, tries))
    yield Outcome(
        "A file of a run folder cut, emptied or overwritten, then `eval` and `--resume`",
        len(came),
        runs.report(came),
        f"one sentence, or the numbers of an unbroken run; {_counted(came)}",
    )


def _flipped(checkpoints: Path, sample: bool) -> Outcome:
    """Single bits and lengths of a real checkpoint, read as `--resume` reads them."""
    chance = random.Random(0)
    last, before = checkpoints / LAST, checkpoints / BEFORE
    good, true = last.read_bytes(), _load(last)
    lost = noticed = silent = 0
    flips, cuts = (FLIPS // 4, CUTS // 4) if sample else (FLIPS, CUTS)
    for number in range(flips + cuts + 2):
        data = bytearray(good)
        if number < flips:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif number < flips + cuts:
            del data[chance.randrange(len(data)) :]
        last.write_bytes(data)
        if number == flips + cuts:
            last.write_bytes(b"")
        elif number == flips + cuts + 1:
            last.unlink()
        silent += _torch_is_silent(last, true)
        found = newest(checkpoints, Console(quiet=True))
        noticed += found == before
        # A bit that stands for nothing, as those between two records, may go unnoticed.
        lost += found != before and not (found == last and _same(_load(last), true))
    last.write_bytes(good)
    return Outcome(
        "A checkpoint with a flipped bit, cut short, empty or gone",
        flips + cuts + 2,
        lost,
        f"{noticed} noticed and the one before taken, the others hold the same to the last bit; "
        f"torch.load alone takes {silent} of them for good and reads something else",
    )


def _load(path: Path) -> Any:
    return load(path)


def _torch_is_silent(path: Path, true: Any) -> bool:
    try:
        return not _same(torch.load(path, weights_only=True), true)
    except Exception:  # whatever torch makes of it
        return False


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other or (one != one and other != other))


def _counted(came: list[Came]) -> str:
    return ", ".join(f"{what} {n}" for what, n in Counter(what for what, _ in came).most_common())


def _attempted(task: Callable[[], Came]) -> Came:
    return task()

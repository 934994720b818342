"""A run that is killed, stopped, starved of room or damaged goes on to the same numbers."""

import functools
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, seed, settings

from . import specimens as sp
from .commands import Moment, Whole, after, at, run, undisturbed
from .damage import QUIET, damaged
from .promises import Observation, Promise

ROOM = 64 * 2**20  # bytes of a small disk; a run takes some 3 MB of it
SIGNALS = {  # which are sent, and the exit status
    "Ctrl-C": ([signal.SIGINT], 130),
    "Ctrl-C twice": ([signal.SIGINT] * 2, 130),
    "SIGTERM": ([signal.SIGTERM], 143),
}
SMALL = "--model.layers=2 --model.hidden=[8] --trainer.batch_size=32"
KINDS = {  # the first one stops early
    "table": f"--data=../rows.csv {SMALL} --optimizer.lr=0.1 --trainer.patience=3 "
    "--trainer.max_epochs=12",
    "moons": f"--data.rows=300 {SMALL} --trainer.max_epochs=5 --trainer.figure_every=3",
    "glow": "--data=../images --data.cache=cache --model=Glow --model.levels=1 --model.steps=2 "
    "--model.hidden_channels=8 --trainer.max_epochs=4 --trainer.batch_size=40 "
    "--trainer.figure_every=4",
}


@functools.cache
def whole(kind: str, folder: Path) -> Whole:
    if not folder.exists():
        sp.data(folder)
    return undisturbed(["train", *KINDS[kind].split(), "--out=run"], folder / kind)


class Stop(NamedTuple):
    home: Path  # an empty folder
    whole: Whole
    moment: Moment
    number: int  # of the attempt


def stops(**counts: tuple[int, int]) -> Callable[[Path, bool], Iterator[Stop]]:
    """So many attempts with each kind of run: in a sample, and in full."""

    def attempts(folder: Path, sample: bool) -> Iterator[Stop]:
        numbers, runs = itertools.count(), folder.parent / "undisturbed"
        for kind in (kind for kind in counts if counts[kind][not sample]):
            moments = whole(kind, runs).moments(random.Random(8 if sample else None))
            for moment in itertools.islice(moments, counts[kind][not sample]):
                number = next(numbers)
                yield Stop(runs / f"{folder.name}-{number}", whole(kind, runs), moment, number)

    return attempts


def run_until(moment: Moment, whole: Whole, home: Path) -> None:
    run(whole.words, home, lambda: at(moment, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def resumed(stop: Stop) -> tuple[str, list[str]]:
    """Do what a user does next: `--resume`, or the first command. What came, and what is wrong."""
    folder, wrong = stop.home / "run", []
    begun = (folder / "config.yaml").is_file()
    saved = any((folder / f"checkpoints/{name}.ckpt").is_file() for name in ("last", "before"))
    done = run(["train", "--resume", "run"], stop.home)
    if not begun:
        if done.status != 2 or not done.sentence:
            wrong.append(f"resumed without a run: {done}")
        done = run(stop.whole.words, stop.home)
    elif saved == ("no checkpoint yet" in done.text):
        wrong.append(f"it must print whether it starts again: {done}")
    wrong += [f"resumed: {done}"] if done.status else stop.whole.differences(folder)
    return "went on" if saved else "began again", wrong


def kill(stop: Stop) -> Observation:
    run_until(stop.moment, stop.whole, stop.home)
    went, wrong = resumed(stop)
    return Observation(f"{stop.moment.file}, {went}", wrong)


def fill(stop: Stop) -> Observation:
    left = random.Random(stop.number).choice((0, 4096, 8192, 32768))

    def fill_up() -> None:
        disk = os.statvfs(stop.home)
        if disk.f_blocks * disk.f_frsize > ROOM:  # no disk could be mounted: a limit instead
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (left + 4096, resource.RLIM_INFINITY))
            return
        with (stop.home / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail * disk.f_frsize - left))

    stop.home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", f"{stop.home}"]
    subprocess.run(mount, capture_output=True, check=False)
    try:
        done = run(stop.whole.words, stop.home, lambda: at(stop.moment, fill_up))
        wrong = [f"{path.name} is left" for path in stop.home.rglob("*.partial*")]
        named = "--resume run" in done.sentence or not (stop.home / "run/config.yaml").is_file()
        # With status 0 there was room enough for the rest.
        if done.status and (done.status != 2 or "be written" not in done.sentence or not named):
            wrong.append(f"full: {done}")
        (stop.home / "ballast").unlink(missing_ok=True)
        wrong += resumed(stop)[1]
    finally:
        subprocess.run(["umount", "-l", f"{stop.home}"], capture_output=True, check=False)
    place = done.sentence.partition(" cannot be written")[0].split("/")[-1].split(": ")[-1]
    return Observation(place, wrong)


def interrupt(stop: Stop) -> Observation:
    name = [*SIGNALS][stop.number % 3]
    signals, status = SIGNALS[name]

    def send() -> None:
        for number in signals[1:]:  # while the first one is being answered
            after(0.03, functools.partial(os.kill, os.getpid(), number))
        os.kill(os.getpid(), signals[0])

    done = run(stop.whole.words, stop.home, lambda: at(stop.moment, send))
    begun = (stop.home / "run/config.yaml").is_file()
    named = "diffeo train --resume run" in done.sentence or not begun
    wrong = [] if done.status == status and done.sentence and named else [f"{name}: {done}"]
    return Observation(name, wrong + resumed(stop)[1])


def damages(folder: Path, sample: bool) -> Iterator[tuple[Path, Whole, str, int]]:
    table = whole("table", folder.parent / "undisturbed")
    changes = [i for i, (file, _) in enumerate(table.events) if file == "metrics.csv"]
    killed = folder.parent / "undisturbed/killed"
    run_until(Moment(changes[len(changes) // 2], "metrics.csv"), table, killed)
    last = "checkpoints/last.ckpt"
    others = ["config.yaml", "metrics.csv", "model/config.json", "model/model.safetensors"]
    files = [last] if sample else [last] * 12 + [*others, "checkpoints/before.ckpt"] * 2
    return ((killed, table, file, number) for number, file in enumerate(files))


def damage(attempt: tuple[Path, Whole, str, int]) -> Observation:
    killed, whole, file, number = attempt
    home, seen, wrong = killed.with_name(f"damaged-{number}"), Counter[str](), list[str]()

    @seed(number)
    @settings(max_examples=4, **QUIET)
    @given(damaged((killed / "run" / file).read_bytes()))
    def attempt(content: bytes) -> None:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(killed, home)
        (home / "run" / file).write_bytes(content)
        for words in (["eval", "run"], ["train", "--resume", "run"]):
            done = run(words, home)
            wrong.extend([] if done.orderly else [f"{file}: {words}: {done}"])
        seen[f"{file} {'refused' if done.status else 'read or replaced'}"] += 1
        if done.status == 0 and file != "config.yaml":  # which may have become another run's
            wrong.extend(f"{file}: {line}" for line in whole.differences(home / "run"))

    attempt()
    return Observation(seen, wrong)


SAME = "the numbers and weights are those of an undisturbed run"
TABLE = (
    ("SIGKILL of `diffeo train` at any moment, then `--resume`",
     "it prints whether it goes on or begins again, and",
     stops(table=(3, 20), moons=(0, 20), glow=(1, 20)), kill),
    ("A disk that fills at any moment; after room was made, `--resume`",
     "one sentence names the file and the remedy, and",
     stops(table=(1, 4), moons=(0, 10), glow=(1, 14)), fill),
    ("Ctrl-C, once and twice, and SIGTERM at any moment, then `--resume`",
     "one sentence names the command to go on, and",
     stops(table=(3, 9), moons=(0, 9), glow=(0, 9)), interrupt),
    ("A file of a run damaged, then `diffeo eval` and `--resume`",
     "it is refused in one sentence, or", damages, damage),
)  # fmt: skip
PROMISES = [Promise(what, f"{holds} {SAME}", *how) for what, holds, *how in TABLE]

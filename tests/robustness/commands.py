"""Run `diffeo` in a fork of this process, stop it at a chosen moment, and read what it left.

This process has imported everything, which takes longer than most runs here.
"""

import contextlib
import gc
import importlib
import itertools
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

MOST_SECONDS, MOST_BYTES = 10, 2**31  # of a command that reads files
PATIENCE = 120.0  # seconds that no command here takes, even on a busy machine
FAILED = 70  # an exit status that no command has
NO_SENTENCE = re.compile(r"Traceback \(most recent|^\w*(Error|Exception)\b", re.M)

# Of the name of a file, what differs from run to run, or from epoch to epoch.
CHANGES = re.compile(r"(?<=.)\.partial|^\.|[-\d]+(?=\.\w+$)|^[0-9a-f]{32,}|(?<=tfevents).*")

Act = Callable[[], Any]
Words = Sequence[str] | Callable[[], int]  # after `diffeo`; or a function to call instead


class Ended(NamedTuple):
    """How a command ended."""

    status: int  # the exit status, or minus the signal
    text: str  # what it printed
    seconds: float = 0.0  # of the processor
    peak: int = 0  # bytes of memory, with those that this process had

    @property
    def sentence(self) -> str:
        """The error, if it is one sentence and the end of what was printed; else empty."""
        *before, last = self.text.rstrip().splitlines() or [""]
        first = not any(line.startswith("diffeo: ") for line in before)
        one = first and last.startswith("diffeo: ") and not NO_SENTENCE.search(self.text)
        return last if one else ""

    @property
    def orderly(self) -> bool:
        """Whether it did its work, or refused in one sentence; and printed no control character."""
        plain = all(line.replace("\t", "").isprintable() for line in self.text.splitlines())
        return plain and (self.status == 0 or (self.status == 2 and self.sentence != ""))


def run(words: Words, home: Path, prepare: Act = int) -> Ended:
    """Run a command in a folder, after `prepare`; it prints into a file next to the folder."""
    home.mkdir(parents=True, exist_ok=True)
    child, begun, done = os.fork(), time.monotonic(), 0
    if not child:
        _run(words, home, prepare)
    while not done:
        if time.monotonic() > begun + PATIENCE:
            os.kill(child, signal.SIGKILL)
        done, status, used = os.wait4(child, os.WNOHANG)
        time.sleep(0.002)
    text = Path(f"{home}.log").read_text(encoding="utf-8", errors="surrogateescape")
    seconds = used.ru_utime + used.ru_stime
    return Ended(os.waitstatus_to_exitcode(status), text, seconds, used.ru_maxrss * 1024)


def _run(words: Words, home: Path, prepare: Act) -> None:
    status = FAILED
    try:
        log = os.open(f"{home}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(home)
        # The system refuses what goes far beyond, and so leaves the machine to others.
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (4 * MOST_BYTES + mapped,) * 2)
        # As the command finds it: what lies in the folder at hand is not imported.
        sys.path[:] = [path for path in sys.path if path not in ("", str(home))]
        prepare()
        from diffeo.cli import main

        status = words() if callable(words) else main(words)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@cache
def warm_up() -> None:
    """Import all that a training imports, as a training in another process reports it."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    main = importlib.import_module("diffeo.cli").main
    words = ["train", "--data=moons", "--data.rows=60", "--trainer.max_epochs=1", "--out=run"]
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "names"
        report = lambda: main(words) or names.write_text("\n".join(sys.modules)) * 0  # noqa: E731
        if (done := run(report, Path(folder) / "home")).status:
            raise RuntimeError(f"a training failed: {done}")
        for name in names.read_text().splitlines():
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.freeze()  # a fork does not walk through what there is, and so does not copy it


class Moment(NamedTuple):
    """Some seconds after the nth change of a file in a run."""

    nth: int
    file: str
    seconds: float = 0.0


def on_event(act: Callable[[str], None]) -> None:
    """From now on call `act` with the name of a file each time that one changes in this folder."""
    home, this, busy = f"{Path.cwd()}", os.getpid(), threading.local()

    def hook(name: str, details: tuple[Any, ...]) -> None:
        if name not in ("open", "os.rename", "os.remove", "os.mkdir") or os.getpid() != this:
            return
        path = details[1] if name == "os.rename" else details[0]
        read_only = name == "open" and not (isinstance(details[2], int) and details[2] & 3)
        if read_only or not isinstance(path, str | Path) or getattr(busy, "acting", False):
            return
        if f"{Path(home, path)}".startswith(f"{home}/"):
            busy.acting = True  # what `act` writes is no event
            act(CHANGES.sub("", Path(path).name) or "a folder")
            busy.acting = False

    sys.addaudithook(hook)


def at(moment: Moment, act: Act) -> None:
    """Let this process do something at a moment."""
    count = iter(range(moment.nth + 1))

    def event(_: str) -> None:
        if next(count, None) == moment.nth:
            after(moment.seconds, act) if moment.seconds else act()

    on_event(event)


def after(seconds: float, act: Act) -> None:
    """Do something in a while, if this process still lives."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


class Whole(NamedTuple):
    """An undisturbed run: its command, its events with the seconds to the next, what it left."""

    words: Words
    events: list[tuple[str, float]]
    ending: dict[str, Any]

    def moments(self, chance: random.Random) -> Iterator[Moment]:
        """Moments of such a run without end, each file in turn, at or after its change."""
        places: dict[str, list[int]] = {}
        for i, (file, _) in enumerate(self.events):
            places.setdefault(file, []).append(i)
        names = [*places]
        chance.shuffle(names)
        while True:
            for name in names:
                nth = chance.choice(places[name])
                yield Moment(nth, name, chance.choice((0, chance.random())) * self.events[nth][1])

    def differences(self, folder: Path) -> list[str]:
        """How another run that ended differs; half a file is a difference, too."""
        try:
            found = ending(folder)
        except (OSError, ValueError) as error:
            return [f"the run has no end: {error}"]
        names = sorted({*self.ending, *found})
        wrong = [f"{name} differs" for name in names if found.get(name) != self.ending.get(name)]
        return wrong + [f"{path.name} is left" for path in folder.rglob("*.partial*")]


def undisturbed(words: Words, home: Path) -> Whole:
    """Run once, and note all events."""
    file = Path(f"{home}.events")

    def note(name: str) -> None:
        with file.open("a") as notes:
            print(time.perf_counter(), name, file=notes)

    if (done := run(words, home, lambda: on_event(note))).status:
        raise RuntimeError(f"the undisturbed run failed: {done}")
    seen = [line.split(" ", 1) for line in file.read_text().splitlines()]
    times = [float(time) for time, _ in seen]
    gaps = [after - before for before, after in itertools.pairwise([*times, times[-1]])]
    return Whole(words, [*zip((name for _, name in seen), gaps, strict=True)], ending(home / "run"))


def ending(folder: Path) -> dict[str, Any]:
    """What a run left: metrics, results without seconds, and the bytes of the model."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    results.pop("training")
    files = [folder / "metrics.csv", *sorted((folder / "model").iterdir())]
    return {"results.json": results} | {path.name: path.read_bytes() for path in files}

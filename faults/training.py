"""SIGKILL at random moments of a run, then `diffeo train --resume`: it ends as an unbroken one."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults import runs
from faults.outcomes import Outcome

KILLS, FRESH = 60, 6
SAMPLE, FRESH_IN_SAMPLE = 6, 1
START = 4.0  # seconds that a new interpreter takes to import, about


@dataclass(frozen=True)
class Kill:
    """One attempt: the kind of run, and a number from which the moment follows."""

    home: Path
    whole: runs.Whole
    number: int
    place: str | None  # None for any time of a new interpreter's life

    def __call__(self) -> tuple[str, bool, list[str]]:
        """Where the kill came, whether the run began anew, and what is wrong afterwards."""
        chance, arguments = random.Random(self.number), self.whole.arguments
        if self.place is None:
            process = runs.start(["train", *arguments], self.home, fresh=True)
            time.sleep(chance.uniform(0.2, 1) * (self.whole.seconds + START))
            os.kill(process, signal.SIGKILL)
        else:
            prepare = functools.partial(_die_at, self.place, self.whole.calls[self.place], chance)
            process = runs.start(["train", *arguments], self.home, prepare=prepare)
        killed = runs.end(process) == -signal.SIGKILL
        where = (self.place or "a new interpreter") if killed else "after the end"
        anew, wrong = runs.go_on(arguments, self.home, self.whole.came, fresh=self.place is None)
        if not wrong:
            shutil.rmtree(self.home)
        return where, anew, wrong


def _die_at(place: str, seconds: list[float], chance: random.Random) -> None:
    """Let this process be killed before, after or within a call, any one of those of a run."""
    nth = chance.randrange(len(seconds))
    when = chance.choice(("before", "within", "after"))
    act = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
    if when == "within":
        timer = threading.Timer(chance.random() * seconds[nth], act)
        timer.daemon = True
        act = timer.start
    runs.at(place, nth, act, after=when == "after")


def attempt(folder: Path, sample: bool) -> Iterator[Outcome]:
    """Kill runs, resume them, and compare."""
    runs.warm_up()
    kinds = runs.make_data(folder)
    with runs.workers() as pool:
        tasks = [(folder / kind, arguments) for kind, arguments in kinds.items()]
        whole = dict(zip(kinds, pool.starmap(runs.unbroken, tasks), strict=True))
        came = list(pool.imap_unordered(_attempted, _kills(folder, whole, sample)))
    hit = Counter(where for where, *_ in came)
    anew = sum(fresh for _, fresh, _ in came)
    places = ", ".join(f"{where} {count}" for where, count in hit.most_common())
    yield Outcome(
        "SIGKILL of `diffeo train` at a random moment, then `--resume`",
        len(came),
        runs.report((where, wrong) for where, _, wrong in came),
        f"metrics, results and weights as of an unbroken run; {anew} had no checkpoint yet and "
        f"began anew, and said so; killed in: {places}",
    )


def _kills(folder: Path, whole: dict[str, runs.Whole], sample: bool) -> list[Kill]:
    """The attempts, the places in turn; where pictures alone pass, in a run of pictures."""
    count, fresh = (SAMPLE, FRESH_IN_SAMPLE) if sample else (KILLS, FRESH)
    places = [*runs.PLACES]
    if sample:
        places = ["a step", "a checkpoint", "a rename", "building the cache", "the best model"]
    chance = random.Random(8)
    kills = []
    for number in range(count):
        place = None if number < fresh else places[(number - fresh) % len(places)]
        able = [kind for kind in whole if place is None or place in whole[kind].calls]
        # A run of a table is the quickest; that of pictures has a cache.
        kind = "table" if sample and "table" in able else chance.choice(able)
        kills.append(Kill(folder / f"{number:02d}", whole[kind], number, place))
    return kills


def _attempted(kill: Kill) -> tuple[str, bool, list[str]]:
    return kill()

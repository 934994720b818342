"""A promise of `docs/reliability.md`: attempts to break it, one check, and the row that results."""

import json
import multiprocessing
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

BEGIN, END = "<!-- robustness: begin -->", "<!-- robustness: end -->"
FORK = multiprocessing.get_context("fork")


class Observation(NamedTuple):
    """The result of an attempt."""

    seen: str | Mapping[str, int]  # a label, of which the table counts each; or several
    wrong: Sequence[str] = ()  # how the promise was broken, if it was
    seconds: float = 0.0  # of the processor
    peak: int = 0  # bytes of memory


class Row(NamedTuple):
    """A row of the table: see `Promise`; how many attempts, how many broke it, what was seen."""

    attempt: str
    holds: str
    times: int
    broken: int
    seen: str


class Promise(NamedTuple):
    """What diffeo promises, and how to try to break it."""

    attempt: str  # what is tried, in a phrase
    holds: str  # what must hold all the same
    attempts: Callable[[Path, bool], Iterable[Any]]  # of an empty folder, and if a sample is enough
    check: Callable[[Any], Observation]  # makes one attempt
    workers: int = 0  # attempts at a time; by default as many as there are cores

    def test(self, folder: Path, sample: bool) -> Row:
        folder.mkdir(parents=True)
        attempts = list(self.attempts(folder, sample))
        _current[:] = self.check, attempts
        with ProcessPoolExecutor(self.workers or len(os.sched_getaffinity(0)), FORK) as pool:
            return self._row([*pool.map(_check, range(len(attempts)))])

    def _row(self, observations: Sequence[Observation]) -> Row:
        labels = Counter[str]()
        for found in observations:
            labels.update({found.seen: 1} if isinstance(found.seen, str) else found.seen)
            for line in found.wrong:
                print(f"broken: {self.attempt}: {found.seen}: {line}", file=sys.stderr, flush=True)
        if not labels:
            return Row(self.attempt, self.holds, 1, 1, "no attempt was made")
        seen = ", ".join(f"{name} {n:,}" for name, n in labels.most_common() if name)
        if peak := max(found.peak for found in observations):
            seconds = max(found.seconds for found in observations)
            seen += f"; at most {seconds:.1f} s and {peak / 2**20:,.0f} MB"
        broken = sum(bool(found.wrong) for found in observations)
        return Row(self.attempt, self.holds, labels.total(), broken, seen)


_current: list[Any] = []  # a check and its attempts, which need not be sent to a fork


def _check(number: int) -> Observation:
    check, attempts = _current
    try:
        return check(attempts[number])
    except Exception:  # a check that fails itself shows nothing to hold
        return Observation("failed", [traceback.format_exc()])


def read(path: Path) -> dict[str, list[Row]]:
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: [Row(*row) for row in rows] for name, rows in known.items()}


def write(path: Path, results: Mapping[str, Sequence[Row]]) -> None:
    """Save the rows of each group; those of other groups stay."""
    path.write_text(json.dumps({**read(path), **results}, indent=1) + "\n", encoding="utf-8")


def table(results: Mapping[str, Sequence[Row]]) -> str:
    """All rows in Markdown."""
    lines = ["| tried | must hold | times | broken | seen | group |", "|---|---|--:|--:|---|---|"]
    lines += [
        f"| {row.attempt} | {row.holds} | {row.times:,} | {row.broken:,} | {row.seen} | `{name}` |"
        for name, rows in results.items()
        for row in rows
    ]
    return "\n".join(lines)


def put_table(page: Path, results: Mapping[str, Sequence[Row]]) -> None:
    """Replace the table between its marks in a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")

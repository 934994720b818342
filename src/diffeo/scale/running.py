"""All parts of a folder, computed here or on Ray, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffeo.scale.folder import tidy
from diffeo.scale.parts import Part
from diffeo.scale.ray import Cluster, on_ray
from diffeo.scale.work import Work, attempt


@dataclass(frozen=True)
class Outcome:
    """How many parts there are, and what was done."""

    parts: int
    before: int  # parts that were finished before
    rows: int  # written now
    deaths: int = 0  # processes that were killed at a part, which another then did

    def describe(self, folder: Path) -> str:
        """In one sentence."""
        now = self.parts - self.before
        sentence = f"{self.rows:,} rows in {now:,} part{'s' * (now != 1)} written to {folder}"
        if self.before:
            sentence += f"; {self.before:,} finished before"
        if self.deaths:
            sentence += f"; {self.deaths:,} begun again after a process was killed"
        return sentence + "."


def finish(
    work: Work,
    parts: list[Part],
    folder: Path,
    cluster: Cluster | None = None,
    console: Console | None = None,
) -> Outcome:
    """Compute the parts that are not finished yet, here or on a cluster.

    Raises:
        ValueError: at the end, if a part failed; at once, if all others would fail too.
    """
    left = [part for part in parts if not part.finished(folder)]
    before, rows = len(parts) - len(left), 0
    problems, shown = list[str](), set[str]()
    console = console or Console(quiet=True)
    results = on_ray(cluster, work, left) if cluster else (attempt(work, part) for part in left)
    try:
        with _progress(console, before, len(parts)) as advance:
            for done in results:
                if done.fatal:
                    raise ValueError(f"{done.problem}; the same command goes on from here.")
                if done.problem:
                    problems.append(done.problem)
                for note in {*done.notes} - shown:
                    shown.add(note)
                    console.print(note, highlight=False, soft_wrap=True)
                rows += done.rows
                advance(rows)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped; what is finished stays, and the same command goes on with the rest."
        ) from None
    if problems:
        more = f" (and {len(problems) - 1:,} more like it)" * (len(problems) > 1)
        raise ValueError(
            f"{problems[0].rstrip('.')}{more}; the other {len(parts) - len(problems):,} parts are "
            f"in {folder}, and the same command goes on with what is missing."
        )
    return Outcome(len(parts), before, rows, tidy(folder))


@contextmanager
def _progress(console: Console, before: int, total: int) -> Iterator[Callable[[int], None]]:
    counts = TextColumn("parts, {task.fields[rows]:,} rows")
    columns = BarColumn(), MofNCompleteColumn(), counts, TimeRemainingColumn()
    # Without a terminal, a transient bar would leave an empty line.
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=total, completed=before, rows=0)
        yield lambda rows: bar.update(task, advance=1, rows=rows)

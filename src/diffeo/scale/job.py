"""A job: parts, the work of one, and an executor that does those that are not finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffeo.scale.folder import tidy


@dataclass(frozen=True)
class Part:
    """One unit of work, which becomes one file."""

    number: int  # from 0; the seed of its noise follows from it
    name: str  # of its file inside the output folder
    source: str = ""  # the file whose rows are scored
    rows: int | None = None  # to sample; None where the source decides

    def finished(self, folder: Path) -> bool:
        """Whether its file exists and is complete: a Parquet file ends with its metadata."""
        import pyarrow.parquet

        try:
            found = pyarrow.parquet.read_metadata(folder / self.name).num_rows
        except (OSError, pyarrow.ArrowException):
            return False
        return self.rows is None or found == self.rows


@dataclass(frozen=True)
class Done:
    """The result of one part."""

    rows: int = 0  # that were written
    notes: tuple[str, ...] = ()  # sentences for the user
    problem: str = ""  # why it failed, in a sentence
    fatal: bool = False  # whether all others will fail too, as on a full disk


@dataclass(frozen=True)
class Outcome:
    """How many parts there are, and what was done."""

    parts: int
    before: int  # parts that were finished before
    rows: int  # written now
    deaths: int = 0  # processes that were killed at a part, which another then did

    def describe(self, folder: Path | str) -> str:
        """In one sentence."""
        now = self.parts - self.before
        sentence = f"{self.rows:,} rows in {now:,} part{'s' * (now != 1)} written to {folder}"
        if self.before:
            sentence += f"; {self.before:,} finished before"
        if self.deaths:
            sentence += f"; {self.deaths:,} begun again after a process was killed"
        return sentence + "."


Work = Callable[[Part], Done]  # computes a part and puts it in its place
Executor = Callable[[Work, list[Part]], Iterable[Done]]  # the results, as parts finish


def attempt(work: Work, part: Part) -> Done:
    """Compute a part by one thread: the number of threads may change the last digit of a sum."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(part)
    except (ValueError, FloatingPointError) as error:
        return Done(problem=" ".join(str(error).split()))
    except OSError as error:
        return Done(problem=f"{part.name} cannot be written: {error.strerror or error}", fatal=True)
    finally:
        torch.set_num_threads(threads)


def here(work: Work, parts: list[Part]) -> Iterator[Done]:
    """The executor that computes one part after the other in this process."""
    return (attempt(work, part) for part in parts)


def finish(
    work: Work,
    parts: list[Part],
    folder: Path,
    executor: Executor | None = None,
    console: Console | None = None,
) -> Outcome:
    """Compute the parts that are not finished yet, by default in this process.

    Raises:
        ValueError: at the end, if a part failed; at once, if all others would fail too.
    """
    left = [part for part in parts if not part.finished(folder)]
    before, rows = len(parts) - len(left), 0
    problems, shown = list[str](), set[str]()
    console = console or Console(quiet=True)
    try:
        with _progress(console, before, len(parts)) as advance:
            for done in (executor or here)(work, left):
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

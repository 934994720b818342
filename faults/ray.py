"""Scoring and sampling on Ray: workers and drivers killed, damaged parts, wrong addresses.

The commands run as a user's do, in processes of their own, two workers at a time if there are as
many cores; what they wrote is compared, byte by byte, with what this process computes alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import diffeo
from diffeo.cli import main
from diffeo.run import Run
from diffeo.scale import score_parts
from diffeo.scale.parts import Part
from diffeo.scale.sampling import Sampling
from faults.outcomes import Outcome

COLUMNS = [f"c{i}" for i in range(6)]
MB = 2**20


def attempt(folder: Path, sample: bool) -> Iterator[Outcome]:
    """10 million rows in 40 parts, or 200,000 in 8."""
    rows, parts, shares = (25_000, 8, (1,)) if sample else (250_000, 40, (1, 2))
    os.chdir(folder)
    make_rows(Path("rows"), parts, rows)
    make_model(Path("model"))
    start = time.perf_counter()
    score_parts(Run("model"), "rows", "alone")
    alone = time.perf_counter() - start
    expected = contents(Path("alone"))
    scoring = ["score", "model", "--data=rows", "--out=scores", "--ray"]
    before, killed = 0, None
    if not sample:
        killed = Watched(scoring, Path("scores"))
        killed.run({parts // 4: killed.kill_driver})
        before = len(contents(Path("scores")))
    watched = Watched(scoring, Path("scores"))
    watched.run({before + (parts - before) * share // 4: watched.kill_workers for share in shares})
    wrong = differing(expected, contents(Path("scores")))
    yield Outcome(
        f"Workers killed amid parts of {rows * parts:,} rows that are scored on Ray",
        len(watched.killed),
        len(watched.killed) if wrong or watched.status or not watched.begun_again else 0,
        f"{watched.begun_again} parts begun again, {wrong} of {parts} differ by a byte from those "
        f"of one process, which took {alone:.0f} s, and Ray {watched.seconds:.0f} s",
    )
    if killed is not None:
        yield Outcome(
            "The command on Ray killed, and given again",
            1,
            int(bool(wrong) or f"{before} finished before" not in watched.said),
            f"{before} of {parts} parts were finished and not done again; Ray's own processes were "
            f"gone after {killed.gone:.0f} s",
        )
    yield watched.memory()
    yield watched.listening()
    yield from refusals(parts)
    if not sample:
        yield samples(10_000_000)


def samples(n: int) -> Outcome:
    """So many rows drawn, while workers are killed, and some parts drawn again by this process."""
    drawing = ["sample", "model", f"-n={n}", "--seed=1", "--out=drawn", "--ray"]
    watched = Watched(drawing, Path("drawn"))
    watched.run({2: watched.kill_workers})
    found = contents(Path("drawn"))
    again = [Part(i, f"part-{i:05d}.parquet", rows=n // 10) for i in (0, 4, 9)]
    for part in again:
        Sampling(Run("model"), Path("again"), 1.0, 1, None)(part)
    alone = contents(Path("again"))
    wrong = differing(alone, {name: found.get(name, b"") for name in alone})
    total = sum(rows_of(Path("drawn") / name) for name in found)
    lost = bool(wrong) or total != n or bool(watched.status)
    return Outcome(
        f"Workers killed amid {n:,} samples",
        len(watched.killed),
        len(watched.killed) * lost,
        f"{total:,} rows in {len(found)} parts, {watched.begun_again} begun again; {wrong} of "
        f"{len(again)} that one process drew too differ by a byte; {watched.seconds:.0f} s",
    )


def refusals(parts: int) -> Iterator[Outcome]:
    """One damaged part among all, and an address where nobody answers."""
    part = Path("rows/part-00001.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    scoring = ["score", "model", "--data=rows", "--out=others"]
    status, said = command(scoring)
    others = len(contents(Path("others")))
    part.write_bytes(whole)
    again, _ = command(scoring)
    well = one_sentence(status, said, str(part)) and others == parts - 1 and again == 0
    well = well and not differing(contents(Path("alone")), contents(Path("others")))
    yield Outcome(
        "A part that is cut short, and then mended",
        1,
        int(not well),
        f"one sentence that names it; the other {others} parts were done, and it alone afterwards",
    )
    start = time.perf_counter()
    status, said = command([*scoring[:-1], "--out=x", "--ray-address=127.0.0.1:9"])
    yield Outcome(
        "An address where no Ray answers",
        1,
        int(not one_sentence(status, said, "127.0.0.1:9")),
        f"one sentence after {time.perf_counter() - start:.1f} s",
    )


# What is scored -----------------------------------------------------------------------------------


def make_rows(folder: Path, parts: int, rows: int) -> None:
    """Parquet files of correlated columns that are bent."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    mix = np.random.default_rng(99).normal(size=(len(COLUMNS),) * 2)
    for i in range(parts):
        noise = np.random.default_rng(i).normal(size=(rows, len(COLUMNS)))
        x = (np.tanh(noise) @ mix + np.arange(len(COLUMNS))).astype(np.float32)
        table = pyarrow.table(list(x.T), names=COLUMNS)
        pyarrow.parquet.write_table(table, folder / f"part-{i:05d}.parquet")


def make_model(folder: Path) -> None:
    """The default model of a table, trained for a moment."""
    import pandas

    torch.manual_seed(0)
    x = torch.from_numpy(pandas.read_parquet("rows/part-00000.parquet").to_numpy()[:20_000].copy())
    flow = diffeo.RealNVP(len(COLUMNS)).initialize(x)
    flow.metadata["columns"] = COLUMNS
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-3)
    for batch in x.split(1_000):
        optimizer.zero_grad()
        (-flow.log_prob(batch).mean()).backward()
        optimizer.step()
    flow.save_pretrained(folder)


# Commands and what they wrote ---------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each part that is finished."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> int:
    """How many parts are not in both, or not the same."""
    return sum(one.get(name) != other.get(name) for name in one.keys() | other.keys())


def rows_of(path: Path) -> int:
    """How many rows a file has, counted by reading them."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).num_rows


def command(arguments: list[str]) -> tuple[int, str]:
    """A command of diffeo in this process: its exit status, and what it says on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    return status, said.getvalue()


def one_sentence(status: int, said: str, word: str) -> bool:
    """Whether a command failed by one sentence that has this word."""
    return status == 2 and said.count("\n") == 1 and word in said


@dataclass
class Watched:
    """A command on Ray, whose processes are looked at as it goes, and killed.

    Args:
        arguments: of the command.
        out: the folder that it fills.
    """

    arguments: list[str]
    out: Path
    status: int = 0
    seconds: float = 0.0
    said: str = ""
    gone: float = 0.0
    killed: list[int] = field(default_factory=list)
    left: set[Path] = field(default_factory=set)
    drivers: list[int] = field(default_factory=list)  # resident sets, bytes
    workers: list[int] = field(default_factory=list)
    addresses: set[str] = field(default_factory=set)

    def run(self, plan: dict[int, Callable[[], bool]]) -> None:
        """Do each thing of the plan when so many parts are finished."""
        start = time.perf_counter()
        whole = [sys.executable, "-m", "diffeo.cli", *self.arguments]
        with subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            self.pid = process.pid
            family: set[int] = set()
            waiting, looked = sorted(plan), 0.0
            while process.poll() is None:
                finished = len(list(self.out.glob("*.parquet")))
                if time.perf_counter() - looked > 0.5:
                    family |= set(self.look())
                    looked = time.perf_counter()
                if waiting and finished >= waiting[0] and plan[waiting[0]]():
                    waiting.pop(0)
                time.sleep(0.05)
            self.seconds = time.perf_counter() - start
            assert process.stdout is not None
            # Ray's processes have the same standard output, and live a little longer.
            self.said = os.read(process.stdout.fileno(), 100_000).decode(errors="replace")
            self.status = process.returncode
        while any(Path(f"/proc/{pid}").exists() for pid in family) and self.gone < 120:
            time.sleep(0.5)
            self.gone = time.perf_counter() - start - self.seconds

    def kill_driver(self) -> bool:
        """SIGKILL to the command itself."""
        os.kill(self.pid, signal.SIGKILL)
        return True

    def kill_workers(self) -> bool:
        """SIGKILL to each worker, if one of them is amid a part."""
        # Those who were killed leave what they had begun.
        begun = {path.parent for path in (self.out / ".partial").glob("*/*")} - self.left
        if not begun:
            return False
        self.left |= begun
        found = [pid for pid, title in descendants(self.pid).items() if at_work(title)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.killed += found
        return bool(found)

    @property
    def begun_again(self) -> int:
        """How many parts the command says that it began again."""
        found = re.search(r"(\d+) begun again", self.said)
        return int(found[1]) if found else 0

    def look(self) -> list[int]:
        """Note the memory of all processes, and at what addresses they listen."""
        family = descendants(self.pid)
        sizes = [resident(pid) for pid, title in family.items() if at_work(title)]
        if sizes:
            self.drivers.append(resident(self.pid))
            self.workers.append(max(sizes))
            self.addresses |= listening(list(family))
        return list(family)

    def memory(self) -> Outcome:
        """That of the driver and of the largest worker: the last third against the middle one."""
        third = len(self.workers) // 3
        grown = 0.0
        for sizes in (self.drivers, self.workers):
            grown = max(grown, max(sizes[2 * third :]) / max(sizes[third : 2 * third]) - 1)
        return Outcome(
            "Memory while it scores, looked at over and over",
            len(self.workers),
            int(grown > 0.1),
            f"driver {max(self.drivers) / MB:.0f} MB, largest worker {max(self.workers) / MB:.0f} "
            f"MB at most; {100 * grown:+.0f} % from the middle third to the last",
        )

    def listening(self) -> Outcome:
        """Whether others than this machine were listened to, and anything was left behind."""
        open_to_all = {a for a in self.addresses if a != "127.0.0.1"}
        return Outcome(
            "Ports and processes of Ray",
            len(self.addresses),
            len(open_to_all) + int(self.gone > 60),
            f"listened at {', '.join(sorted(self.addresses))}; all ended within {self.gone:.0f} s",
        )


# Processes ----------------------------------------------------------------------------------------


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, and what they call themselves."""
    found: dict[int, str] = {}
    todo = [pid]
    while todo:
        here = todo.pop()
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{here}/task").iterdir():
                children = [int(child) for child in (task / "children").read_text().split()]
                todo += children
                for child in children:
                    title = Path(f"/proc/{child}/cmdline").read_bytes()
                    found[child] = title.decode(errors="replace")
    return found


def at_work(title: str) -> bool:
    """Whether it is a worker of Ray with a part in hand."""
    return title.startswith("ray::") and "Map(" in title


def resident(pid: int) -> int:
    """The resident set of a process in bytes, 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def listening(family: list[int]) -> set[str]:
    """The addresses at which processes listen: 127.0.0.1, and others as the kernel writes them."""
    sockets = set()
    for pid in family:
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets |= set(re.findall(r"socket:\[(\d+)\]", str(file.readlink())))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                found.add(words[1].partition(":")[0])
    # 127.0.0.1, alone and within IPv6.
    ours = {"0100007F", "0000000000000000FFFF00000100007F"}
    return {"127.0.0.1" if address in ours else address for address in found}

"""The command `python -m faults [NAME ...] [--sample]`: try to break it, count what is lost.

Each fault runs in a process of its own, in a folder of its own, and prints its outcomes. The exit
status is 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from faults.outcomes import Outcome, put_table, read, write

RESULTS = Path(__file__).parent / "results.json"
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
# In the order of the table. A fault is a module with `attempt(folder: Path, sample: bool)`, which
# yields outcomes; what it writes goes into that folder, which is empty.
NAMES = ("training", "disk", "numbers", "files", "fuzz", "visitors", "processes", "ray")
# These keep one core busy: two of them go on at a time, and the others alone; of a sample any two.
ONE_CORE = ("disk", "numbers", "files", "fuzz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what is named, or all."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--sample", action="store_true", help="a little of each: two minutes")
    parser.add_argument("--keep", action="store_true", help=f"write what came into {PAGE.name}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = {*options.names} - {*NAMES}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: name some of {', '.join(NAMES)}")
    if options.one:
        return _attempt(options.one, options.sample)
    # A shell lets those it starts in the background ignore Ctrl-C, and so would those we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = options.names or NAMES
    console = Console(width=max(120, Console().width))
    found: dict[str, list[Outcome]] = {}

    def attempt(name: str) -> None:
        start = time.perf_counter()
        found[name] = _apart(name, options.sample)
        console.print(f"[bold]{name}[/] {time.perf_counter() - start:.0f} s", highlight=False)
        for row in found[name]:
            line = f"  {row.lost} lost of {row.tries:,}: {row.what}: {row.seen}"
            console.print(line, highlight=False, markup=False)

    pairs = [name for name in names if options.sample or name in ONE_CORE]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, pairs))
    for name in names:
        if name not in pairs:
            attempt(name)
    results = {name: found[name] for name in NAMES if name in found}
    if options.keep:
        write(RESULTS, results)
        put_table(PAGE, read(RESULTS))
    return int(any(row.lost for rows in results.values() for row in rows))


def _apart(name: str, sample: bool) -> list[Outcome]:
    """The outcomes of a fault, tried in another process."""
    command = [sys.executable, "-m", "faults", "--one", name, *(["--sample"] if sample else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    outcomes = [Outcome(**row) for row in rows]
    if done.returncode or not outcomes:
        outcomes.append(Outcome("The attempt itself", 1, 1, f"exit status {done.returncode}"))
    return outcomes


def _attempt(name: str, sample: bool) -> int:
    module = importlib.import_module(f"faults.{name}")
    with tempfile.TemporaryDirectory(prefix=f"diffeo-{name}-") as folder:
        for outcome in module.attempt(Path(folder), sample):
            print(json.dumps(asdict(outcome)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

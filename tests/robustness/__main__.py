"""Try to break diffeo: `python -m tests.robustness [GROUP ...] [--sample] [--write]`.

Each group of promises runs in a process and a folder of its own. The exit status is 1 if a promise
was broken, or if a group did not come to its end.
"""

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .commands import warm_up
from .promises import FORK, Row, put_table, read, write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
RESULTS = PAGE.with_suffix(".json")
# A group is a module with a list `PROMISES`.
GROUPS = ("stops", "numbers", "attacks", "damage", "visitors", "processes")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], metavar="GROUP")
    parser.add_argument("--sample", action="store_true", help="a few attempts of each, in a minute")
    parser.add_argument("--write", action="store_true", help=f"write the table of {PAGE.name}")
    options = parser.parse_args(arguments)
    # A shell lets what it starts in the background ignore Ctrl-C, and so would our processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = [name for name in GROUPS if not options.groups or name in options.groups]
    warm_up()
    results = {name: run_group(name, options.sample) for name in names}
    if options.write:
        write(RESULTS, results)
        put_table(PAGE, read(RESULTS))
    return int(any(row.broken for rows in results.values() for row in rows))


def run_group(name: str, sample: bool) -> list[Row]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"diffeo-{name}-", ignore_cleanup_errors=True) as own:
        try:
            with ProcessPoolExecutor(1, FORK) as pool:
                rows = pool.submit(test_group, name, Path(own), sample).result()
        except Exception as error:
            rows = [Row(f"The group {name} itself", "comes to its end", 1, 1, repr(error))]
    print(f"{name}: {time.perf_counter() - start:.0f} s")
    for row in rows:
        print(f"  {row.broken} broken of {row.times:,}: {row.attempt}: {row.seen}", flush=True)
    return rows


def test_group(name: str, folder: Path, sample: bool) -> list[Row]:
    os.environ["DIFFEO_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    promises = importlib.import_module(f"{__package__}.{name}").PROMISES
    return [promise.test(folder / f"{i}", sample) for i, promise in enumerate(promises)]


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # to take down all that was imported would take seconds

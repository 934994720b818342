"""Something tried in a process of its own, that may crash, hang, or take all memory."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 2**31
MOST_SECONDS = 10
# Of waiting, after which it is ended: a machine that others use may take longer for ten seconds.
PATIENCE = 40.0
UNCAUGHT = 70  # an exit status that no command has


@dataclass(frozen=True)
class Ended:
    """How it ended.

    Args:
        status: the exit status, or less the number of the signal.
        said: what it wrote, to either stream.
        seconds: of the processor; of the clock if it was ended.
        peak: bytes that it held at most, with what it began with.
    """

    status: int
    said: str
    seconds: float
    peak: int

    @property
    def bounded(self) -> bool:
        """Whether it neither crashed nor hung, nor took more than it may."""
        ended = 0 <= self.status != UNCAUGHT
        return ended and self.seconds <= MOST_SECONDS and self.peak <= MOST_BYTES


def apart(work: Callable[[], int], notes: Path) -> Ended:
    """Do some work in a copy of this process, which has imported what it needs.

    Args:
        work: returns the exit status.
        notes: a file for what it says.
    """
    gc.freeze()  # what there is, is not walked through, and so not copied
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(work, notes)
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - start > PATIENCE:
            os.kill(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
            break
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    seconds = used.ru_utime + used.ru_stime
    if code < 0:
        seconds = max(seconds, time.monotonic() - start)
    said = notes.read_text(encoding="utf-8", errors="surrogateescape")
    return Ended(code, said, seconds, used.ru_maxrss * 1024)


def _child(work: Callable[[], int], notes: Path) -> None:
    """Never returns."""
    try:
        # What goes far beyond is refused by the system, and leaves the machine to others.
        limit = 4 * MOST_BYTES + _mapped()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        said = os.open(notes, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        status = work()
    except BaseException:
        traceback.print_exc()
        status = UNCAUGHT
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

"""Ctrl-C, and the SIGTERM of a cluster that takes its machine back, end a command."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack
from types import FrameType

ONE_STOP = 2.0  # seconds in which several signals count as one


class Interrupts(ExitStack):
    """A context in which SIGINT and SIGTERM raise KeyboardInterrupt, at most once in two seconds.

    A second press of Ctrl-C would otherwise interrupt the sentence about how to resume.

    Attributes:
        status: the exit code, 128 plus the number of the signal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.status, self.last = 128 + signal.SIGINT, -ONE_STOP
        # Only the main thread may set handlers; an ignored signal, as under nohup, stays ignored.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.callback(signal.signal, number, signal.signal(number, self._interrupt))

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self.last >= ONE_STOP:
            self.last, self.status = now, 128 + number
            raise KeyboardInterrupt

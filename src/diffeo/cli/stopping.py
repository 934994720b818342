"""An end that was asked for: by Ctrl-C, or by a cluster that takes its machine back (SIGTERM)."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

ONE_STOP = 2.0  # seconds in which several signals are one


class Stop:
    """While it lasts, SIGINT and SIGTERM raise KeyboardInterrupt, once in two seconds.

    A key pressed twice would else break off what the first press had begun: to say how to go on.

    Attributes:
        status: what the process is to return, 128 and the number of the signal.
    """

    status = 128 + signal.SIGINT

    def __enter__(self) -> Self:
        self.heard = -ONE_STOP
        self.before: dict[signal.Signals, Any] = {}
        # No other thread may say what happens at a signal. One that is ignored, as under nohup,
        # stays so.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self.heard < ONE_STOP:
            return
        self.heard, self.status = now, 128 + number
        raise KeyboardInterrupt

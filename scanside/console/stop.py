"""Ctrl-C and SIGTERM: stop cleanly, leave nothing half-written, exit with 128 + the signal's number."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from scanside.errors import Cancelled


class Stop:
    """A context in which the first Ctrl-C or SIGTERM stops the work and a second one ends the process outright.

    The signal sets `event`, which the worker threads poll, and raises `KeyboardInterrupt` in the main thread, which
    unwinds whatever polls nothing: an `Exception` would be taken for a failure of the code that it lands in (the
    starting of a thread, say). The context turns it into `Cancelled`. On leaving, the earlier handlers are back.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._signal: int | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._earlier[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        if self._signal is None or error is None:
            return
        stopped = Cancelled("interrupted; nothing half-written is left")
        stopped.exit_code = 128 + self._signal
        raise stopped from error

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number
        self.event.set()
        for caught in self._earlier:
            signal.signal(caught, signal.SIG_DFL)
        raise KeyboardInterrupt

"""Stages in threads, joined by bounded channels. Errors, cancellation, time and progress are handled here, once.

The first error wins: it stops every stage, every thread is joined, and only then is it raised to the caller.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from scanside.errors import Cancelled

STAGES = ("decode", "reformat", "segment", "components", "link", "crop", "classify")
_POLL_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one stage is. Callbacks get these from the stages' threads, one call at a time."""

    stage: str
    done: int
    total: int


class Stopped(Exception):  # noqa: N818 - a signal between threads, never an error the caller sees
    """Another stage failed, or the caller asked for a stop."""


class Trace:
    """Chrome trace events (ph X, microseconds, one tid a stage) and busy time, from any thread."""

    def __init__(self) -> None:
        self._begun_ns = time.perf_counter_ns()
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []

    @contextmanager
    def span(self, stage: str, **args: Any) -> Iterator[None]:
        """Count the time inside as work of `stage`; `args` go into the trace event."""
        begun = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(stage, begun, time.perf_counter_ns(), **args)

    def add(self, stage: str, begun_ns: int, ended_ns: int, **args: Any) -> None:
        """Count a time, as `time.perf_counter_ns` gives it, as work of `stage`."""
        event = {
            "name": stage,
            "cat": "scanside",
            "ph": "X",
            "ts": (begun_ns - self._begun_ns) / 1e3,
            "dur": (ended_ns - begun_ns) / 1e3,
            "pid": 1,
            "tid": STAGES.index(stage) + 1,
            "args": args,
        }
        with self._lock:
            self._events.append(event)

    @property
    def total_ms(self) -> float:
        """Wall milliseconds since the trace was made."""
        return (time.perf_counter_ns() - self._begun_ns) / 1e6

    def busy_ms(self) -> dict[str, float]:
        """Milliseconds each stage worked, waiting not counted."""
        with self._lock:
            events = list(self._events)
        return {s: sum(e["dur"] for e in events if e["name"] == s) / 1e3 for s in STAGES}

    def events(self) -> tuple[Mapping[str, Any], ...]:
        """All events by time, after one metadata event that names each stage's row."""
        names = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": i + 1, "args": {"name": stage}}
            for i, stage in enumerate(STAGES)
        ]
        with self._lock:
            return (*names, *sorted(self._events, key=lambda event: event["ts"]))


class Channel(Generic[T]):
    """A bounded queue between two stages. Iterating takes items until the channel is closed; stopping wakes all."""

    def __init__(self, flow: Flow, size: int) -> None:
        self._flow = flow
        self._size = size
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Add `item`, waiting while the channel is full."""
        with self._changed:
            self._changed.wait_for(lambda: self._flow.stopping.is_set() or len(self._items) < self._size)
            self._flow.check()
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T | None:
        """The next item, waiting for one; None once the channel is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._flow.stopping.is_set() or bool(self._items) or self._closed)
            return self._pop()

    def poll(self) -> T | None:
        """The next item if there is one now."""
        with self._changed:
            return self._pop()

    def close(self) -> None:
        """Say that no more items come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while (item := self.get()) is not None:
            yield item

    def _pop(self) -> T | None:
        self._flow.check()
        if not self._items:
            return None
        item = self._items.popleft()
        self._changed.notify_all()
        return item


class Flow:
    """One run of stages.

    Parameters
    ----------
    progress : callable, optional
        Called with `Progress`. What it raises stops the run like any stage's error.
    cancel : threading.Event, optional
        Set by the caller to stop the run; `join` then raises `Cancelled`.
    """

    def __init__(
        self, progress: Callable[[Progress], object] | None = None, cancel: threading.Event | None = None
    ) -> None:
        self.trace = Trace()
        self.stopping = threading.Event()
        self._progress = progress
        self._cancel = cancel
        self._lock = threading.Lock()
        self._progress_lock = threading.Lock()
        self._error: BaseException | None = None
        self._wakers: list[Callable[[], None]] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Semaphore(0)

    def channel(self, size: int) -> Channel[Any]:
        """A bounded queue that a stop of this flow wakes."""
        channel: Channel[Any] = Channel(self, size)
        self.on_stop(channel.wake)
        return channel

    def on_stop(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the run stops, so that whoever waits looks at `stopping`. Before anybody waits."""
        self._wakers.append(wake)

    def stage(self, name: str, work: Callable[[], None], closes: Channel[Any] | None = None) -> None:
        """Run `work` in a thread of its own; `closes` is closed when it returns."""

        def body() -> None:
            try:
                self.check()  # a thread whose start was interrupted may come here after the stop
                work()
            except Stopped:
                pass
            except BaseException as error:  # handed to join(), which raises it in the caller's thread
                self.fail(error)
            finally:
                if closes is not None:
                    closes.close()
                self._ended.release()

        self._threads.append(threading.Thread(target=body, name=f"scanside-{name}", daemon=True))

    def fail(self, error: BaseException) -> None:
        """Stop all stages because of `error`; of several errors the first is kept."""
        with self._lock:
            if self._error is None:
                self._error = error
        self.stopping.set()
        for wake in tuple(self._wakers):
            wake()

    def check(self) -> None:
        """Leave the stage when the run is stopping."""
        if self.stopping.is_set():
            raise Stopped

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell the caller's callback."""
        if self._progress is not None:
            with self._progress_lock:
                self._progress(Progress(stage, done, total))

    def run(self) -> None:
        """Start the stages and wait for all of them.

        Raises
        ------
        Cancelled
            `cancel` was set.
        BaseException
            The first error of any stage, once every thread has ended.
        """
        try:
            self._heed_cancel()
            for thread in self._threads:
                thread.start()
            # Not join(timeout): in Python 3.11 a Ctrl-C inside it marks a thread that still runs as ended.
            for _ in self._threads:
                while not self._ended.acquire(timeout=_POLL_S):
                    self._heed_cancel()
            self._heed_cancel()  # a stop asked for during the last step counts
        except BaseException as interrupt:  # Ctrl-C arrives here, in the caller's thread
            self.fail(interrupt)
        for thread in self._threads:
            with suppress(RuntimeError):  # not started, or its start interrupted: then it does not begin
                thread.join()
        if self._error is not None:
            raise self._error

    def _heed_cancel(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            self.fail(Cancelled("stopped by the caller"))

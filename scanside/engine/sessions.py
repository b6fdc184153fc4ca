"""Sessions by section size: made when first wanted, kept for the next exam, the least recently used closed.

Exams of ever other geometries would otherwise leave a session a size behind, on a GPU with device memory of its own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scanside.engine.runtime import Pending, Runtime

MOST_SIZES = 8
"""One exam wants seven at most: a section size a plane, and under `confirm` two window sizes in each of two planes."""

Size = tuple[int, int]


class Sessions:
    """At most `most` sessions, and those in use. Safe to use from several threads.

    Parameters
    ----------
    make : callable
        The session for sections of a height and width.
    most : int
    """

    def __init__(self, make: Callable[[int, int], Runtime], most: int = MOST_SIZES) -> None:
        self._make, self._most = make, most
        self._kept: dict[Size, Runtime] = {}  # the least recently used first
        self._users: Counter[Size] = Counter()
        self._lock = threading.Lock()

    @property
    def all(self) -> tuple[Runtime, ...]:
        """Those that are there, in the order of their sizes."""
        with self._lock:
            return tuple(self._kept[size] for size in sorted(self._kept))

    def get(self, height: int, width: int) -> Runtime:
        """The session of this size. Others may push it out; runs go through `run`."""
        with self._lock:
            return self._get((height, width))

    def run(self, height: int, width: int, start: Callable[[Runtime], Pending]) -> Pending:
        """What `start` starts on the session of this size, which stays until that is over."""
        size = (height, width)
        with self._lock:
            session = self._get(size)
            self._users[size] += 1
        try:
            return Using(start(session), lambda: self._leave(size))
        except BaseException:
            self._leave(size)
            raise

    def close(self) -> None:
        """Free all of them."""
        with self._lock:
            kept, self._kept = self._kept, {}
        for session in kept.values():
            session.close()

    def _get(self, size: Size) -> Runtime:
        session = self._kept.pop(size, None)
        if session is None:
            self._close_unused(self._most - 1)  # first: the new one may want the room
            session = self._make(*size)
        self._kept[size] = session
        return session

    def _leave(self, size: Size) -> None:
        with self._lock:
            self._users[size] -= 1
            self._close_unused(self._most)

    def _close_unused(self, most: int) -> None:
        unused = [size for size in self._kept if not self._users[size]]
        for size in unused[: max(0, len(self._kept) - most)]:
            self._kept.pop(size).close()


@dataclass
class Using:
    """A run that holds its session until it has been waited for."""

    pending: Pending
    leave: Callable[[], None]
    _held: bool = True

    def wait(self) -> None:
        """See `Pending.wait`."""
        try:
            self.pending.wait()
        finally:
            held, self._held = self._held, False
            if held:
                self.leave()

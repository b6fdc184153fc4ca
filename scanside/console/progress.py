"""Progress on stderr: bars on a terminal, elsewhere a line a finished stage and one a minute, nothing when quiet."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Protocol

_LINE_EVERY_S = 60.0


class Step(Protocol):
    """What a progress callback is called with."""

    @property
    def stage(self) -> str: ...

    @property
    def done(self) -> int: ...

    @property
    def total(self) -> int: ...


class StageProgress:
    """Shows each stage of a run as it advances; called from any thread with the pipeline's `Progress`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._tasks: dict[str, object] = {}
        self._furthest: dict[str, int] = {}
        self._finished: set[str] = set()
        self._first: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}
        self._bars = _bars() if not quiet and sys.stderr.isatty() else None

    def __enter__(self) -> StageProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, step: Step) -> None:
        self.advance(step.stage, step.done, step.total)

    def advance(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` items of `stage` are finished."""
        if self._quiet:
            return
        with self._lock:
            done = self._furthest[stage] = max(done, self._furthest.get(stage, 0))  # workers may report out of order
            if self._bars is not None:
                if stage not in self._tasks:
                    self._tasks[stage] = self._bars.add_task(stage, total=total)
                self._bars.update(self._tasks[stage], completed=done, total=total)
                return
            now = time.monotonic()
            begun, already = self._first.setdefault(stage, (now, done))
            if done >= total and stage not in self._finished:
                self._finished.add(stage)
                self._print(f"{stage}  {done}/{total}")
            elif done < total and now - self._said.setdefault(stage, now) >= _LINE_EVERY_S:
                self._said[stage] = now
                left_s = (now - begun) * (total - done) / (done - already) if done > already else None
                about = "" if left_s is None else f", about {_duration(left_s)} left"
                self._print(f"{stage}  {done}/{total}{about}")

    def _print(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:7.1f} s  {text}", file=sys.stderr, flush=True)

    def next_volume(self, number: int, count: int, source: str) -> None:
        """The next volume of a study begins: its stages start again."""
        self.say(f"volume {number} of {count}: {source}")
        with self._lock:
            self._finished.clear()
            self._first.clear()
            self._said.clear()
            self._furthest.clear()
            if self._bars is not None:
                for task in self._tasks.values():
                    self._bars.remove_task(task)
            self._tasks.clear()

    def say(self, text: str) -> None:
        """One line of text between the bars."""
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """Seconds as `50 s`, `12 min` or `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _bars():  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=False,
    )

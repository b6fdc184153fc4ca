"""The timing loop: warm up, repeat, check the answers of some repetitions outside the timed part."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from scanside.bench.statistics import Percentile, percentile

T = TypeVar("T")
CHECKED_SHARE = 10
"""One repetition in so many has its answer checked, the first and the last always."""


@dataclass(frozen=True)
class Clock:
    """What time is read from, in seconds: the wall, and the processor time of all threads of this process."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class Samples:
    """Wall and processor seconds of each timed repetition, in order, and how many answers were checked."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    checked: int

    def percentiles_ms(self, percents: tuple[float, ...]) -> tuple[Percentile, ...]:
        """Percentiles of the wall time in milliseconds.

        Raises
        ------
        UsageError
            Too few repetitions for one of them.
        """
        return tuple(percentile([s * 1e3 for s in self.wall_s], percent) for percent in percents)

    def overlap(self, cores: int) -> float:
        """Wall time over the time `cores` would need for the same processor time: 1 is perfect, more is waiting."""
        return sum(self.wall_s) * cores / sum(self.cpu_s)

    @property
    def median_run(self) -> int:
        """Which repetition took the median time (the lower of two)."""
        order = sorted(range(len(self.wall_s)), key=self.wall_s.__getitem__)
        return order[(len(order) - 1) // 2]


def measure(
    work: Callable[[int], T],
    *,
    repetitions: int,
    warm_up: int,
    check: Callable[[int, T], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
    clock: Clock | None = None,
) -> Samples:
    """Time `work(i)` for each repetition i after `warm_up` untimed calls.

    Parameters
    ----------
    work : callable
        Called with the number of the repetition, below zero while warming up.
    check : callable, optional
        Called with (repetition, answer) for every answer of the warm-up and one in `CHECKED_SHARE` of the timed ones,
        outside the timed part. What it raises ends the measurement.
    progress : callable, optional
        Called with (done, repetitions), outside the timed part.
    """
    clock = clock or Clock()
    for i in range(-warm_up, 0):
        answer = work(i)
        if check is not None:
            check(i, answer)
    wall_s, cpu_s, checked = [], [], 0
    for i in range(repetitions):
        cpu, wall = clock.cpu(), clock.wall()
        answer = work(i)
        wall_s.append(clock.wall() - wall)
        cpu_s.append(clock.cpu() - cpu)
        if check is not None and (i % CHECKED_SHARE == 0 or i == repetitions - 1):
            check(i, answer)
            checked += 1
        if progress is not None:
            progress(i + 1, repetitions)
    return Samples(tuple(wall_s), tuple(cpu_s), checked)

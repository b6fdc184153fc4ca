"""The timing loop against a clock that advances only when the work says so."""

from __future__ import annotations

import pytest

from scanside.bench.timing import Clock, Samples, measure


class FakeTime:
    """Wall and processor time in seconds, moved by hand."""

    def __init__(self) -> None:
        self.wall = self.cpu = 100.0

    def pass_by(self, wall: float, cpu: float) -> None:
        self.wall += wall
        self.cpu += cpu

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.cpu)


def test_only_the_work_is_timed() -> None:
    time, calls, checked, progress = FakeTime(), [], [], []

    def work(i: int) -> str:
        calls.append(i)
        time.pass_by(0.5 if i < 0 else 0.01 * (i + 1), 0.02)
        return f"answer {i}"

    def check(i: int, answer: str) -> None:
        time.pass_by(7.0, 7.0)  # must be in no sample
        checked.append((i, answer))

    def report(done: int, total: int) -> None:
        time.pass_by(3.0, 3.0)
        progress.append((done, total))

    samples = measure(work, repetitions=12, warm_up=2, check=check, progress=report, clock=time.clock)
    assert calls == [-2, -1, *range(12)]
    assert samples.wall_s == pytest.approx([0.01 * (i + 1) for i in range(12)])
    assert samples.cpu_s == pytest.approx([0.02] * 12)
    assert checked == [(i, f"answer {i}") for i in (-2, -1, 0, 10, 11)]  # one in ten, the first and the last
    assert samples.checked == 3
    assert progress == [(i, 12) for i in range(1, 13)]


def test_a_wrong_answer_ends_the_measurement() -> None:
    def check(i: int, answer: int) -> None:
        if i == 10:
            raise ZeroDivisionError("wrong")

    calls: list[int] = []
    with pytest.raises(ZeroDivisionError, match="wrong"):
        measure(calls.append, repetitions=50, warm_up=1, check=check)  # type: ignore[arg-type]
    assert calls[-1] == 10


def test_overlap_is_one_when_all_cores_work_all_the_time() -> None:
    assert Samples((1.0, 3.0), (2.0, 6.0), 0).overlap(cores=2) == pytest.approx(1.0)
    assert Samples((1.5,), (1.0,), 0).overlap(cores=2) == pytest.approx(3.0)  # a third of what two cores could do


def test_the_median_run() -> None:
    assert Samples((0.3, 0.1, 0.2), (1.0, 1.0, 1.0), 0).median_run == 2
    assert Samples((0.3, 0.1, 0.2, 0.4), (1.0,) * 4, 0).median_run == 2

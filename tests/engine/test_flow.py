"""Channels, the first error, cancellation, progress and the trace."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from scanside.engine.flow import STAGES, Flow, Progress, Trace
from scanside.errors import Cancelled


def scanside_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("scanside-")]


def test_a_bounded_channel_keeps_order_and_bound() -> None:
    flow = Flow()
    channel = flow.channel(2)
    ahead, received = [], []

    def produce() -> None:
        for i in range(50):
            channel.put(i)
            ahead.append(i + 1 - len(received))

    def consume() -> None:
        for item in channel:
            time.sleep(0.0005)
            received.append(item)

    flow.stage("produce", produce, closes=channel)
    flow.stage("consume", consume)
    flow.run()
    assert received == list(range(50))
    assert max(ahead) <= 3  # two waiting, one in hand
    assert scanside_threads() == []


def test_the_first_error_wins_and_every_thread_ends() -> None:
    flow = Flow()
    never = flow.channel(1)
    full = flow.channel(1)

    def wait_for_items() -> None:
        for _ in never:
            raise AssertionError("nothing was put")

    def overfill() -> None:
        while True:
            full.put(0)

    def fail() -> None:
        time.sleep(0.05)
        raise KeyError("first")

    def fail_later() -> None:
        flow.stopping.wait()
        raise ValueError("second")

    for work in (wait_for_items, overfill, fail, fail_later):
        flow.stage(work.__name__, work)
    with pytest.raises(KeyError, match="first"):
        flow.run()
    assert scanside_threads() == []


@pytest.mark.parametrize("delay_s", [0.0, 0.1])
def test_cancelling_stops_waiting_stages(delay_s: float) -> None:
    cancel = threading.Event()
    flow = Flow(cancel=cancel)
    channel = flow.channel(1)
    flow.stage("wait", lambda: list(channel) and None)
    if delay_s:
        threading.Timer(delay_s, cancel.set).start()
    else:
        cancel.set()
    with pytest.raises(Cancelled) as stopped:
        flow.run()
    assert stopped.value.exit_code == 130
    assert scanside_threads() == []


def test_a_stop_asked_for_during_the_last_step_counts() -> None:
    cancel = threading.Event()
    flow = Flow(cancel=cancel)
    flow.stage("last", cancel.set)
    with pytest.raises(Cancelled):
        flow.run()


def test_a_stage_that_starts_after_the_stop_does_not_begin() -> None:
    flow, begun = Flow(), threading.Event()
    flow.stage("late", begun.set)
    flow.fail(Cancelled("stopped"))
    with pytest.raises(Cancelled):
        flow.run()
    assert not begun.is_set()


def test_progress_is_one_call_at_a_time() -> None:
    inside, worst, calls = [], [], []

    def progress(step: Progress) -> None:
        inside.append(1)
        worst.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        calls.append(step)

    flow = Flow(progress)
    for name in ("decode", "segment", "classify"):
        flow.stage(name, lambda name=name: [flow.report(name, i, 5) for i in range(5)] and None)
    flow.run()
    assert max(worst) == 1
    assert len(calls) == 15


def test_an_error_in_the_callback_stops_the_run() -> None:
    def progress(step: Progress) -> None:
        raise RuntimeError("the caller's own")

    flow = Flow(progress)
    flow.stage("decode", lambda: flow.report("decode", 1, 1))
    with pytest.raises(RuntimeError, match="the caller's own"):
        flow.run()


def test_the_trace_is_chrome_trace_events() -> None:
    trace = Trace()
    with trace.span("segment", plane="coronal"):
        time.sleep(0.002)
    with pytest.raises(ZeroDivisionError), trace.span("link"):
        raise ZeroDivisionError
    events = trace.events()
    names = [e["args"]["name"] for e in events if e["ph"] == "M"]
    assert tuple(names) == STAGES
    spans = [e for e in events if e["ph"] == "X"]
    assert [e["name"] for e in spans] == ["segment", "link"]
    assert spans[0]["args"] == {"plane": "coronal"}
    assert spans[0]["dur"] >= 2000
    assert spans[0]["tid"] == STAGES.index("segment") + 1
    busy = trace.busy_ms()
    assert busy["segment"] == pytest.approx(spans[0]["dur"] / 1e3)
    assert busy["decode"] == 0
    assert trace.total_ms >= busy["segment"]


def test_ctrl_c_ends_all_threads_first() -> None:
    flow = Flow()
    channel = flow.channel(1)
    flow.stage("wait", lambda: list(channel) and None)
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    timer.join()
    assert scanside_threads() == []

"""The scheduler by itself, on a device that only pretends: order, back-pressure, reuse, errors, cancellation."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

import pytest

from scanside.engine.flow import Channel, Flow
from scanside.engine.slots import Ring, Slot, SlotState, drive
from scanside.errors import Cancelled, EngineError


@dataclass(frozen=True)
class Item:
    number: int
    slot: Slot[list[int]]


class FakeDevice:
    """Doubles numbers; answers of submitted items come by themselves, in any order, like streams of a GPU."""

    def __init__(self, depth: int, *, fail_submit: int = -1, fail_wait: int = -1, seed: int = 0) -> None:
        self.depth = depth
        self.log: list[tuple[str, int]] = []
        self.flying = self.most = 0
        self._fail_submit, self._fail_wait = fail_submit, fail_wait
        self._rng = random.Random(seed)
        self._timers: list[threading.Timer] = []

    def submit(self, work: Item) -> Answer:
        if work.number == self._fail_submit:
            raise EngineError("the device refused")
        assert work.slot.state is SlotState.RUNNING
        self.log.append(("submit", work.number))
        self.flying += 1
        self.most = max(self.most, self.flying)
        answered = threading.Event()

        def answer() -> None:
            work.slot.buffers[0] *= 2
            answered.set()

        timer = threading.Timer(self._rng.random() * 0.004, answer)
        self._timers.append(timer)
        timer.start()
        return Answer(self, work.number, answered)

    def fetch(self, number: int, answered: threading.Event) -> None:
        assert answered.wait(10)
        self.flying -= 1
        if number == self._fail_wait:
            raise EngineError("the device died")
        self.log.append(("wait", number))

    def join(self) -> None:
        for timer in self._timers:
            timer.join()


@dataclass(frozen=True)
class Answer:
    device: FakeDevice
    number: int
    answered: threading.Event

    def wait(self) -> None:
        self.device.fetch(self.number, self.answered)


def run(device: FakeDevice, items: int, *, slots: int = 3, flow: Flow | None = None, stop_after: int = -1) -> list[int]:
    """What the reader sees of `items` numbers sent round `slots` slots."""
    flow = flow or Flow()
    ring = Ring(flow, slots, lambda: [0])
    ready: Channel[Item] = flow.channel(2)
    done: Channel[Item] = flow.channel(2)
    seen: list[int] = []

    def fill() -> None:
        for number in range(items):
            slot = ring.take()
            assert slot.state is SlotState.FILLING
            slot.buffers[0] = number
            ready.put(Item(number, slot))

    def read() -> None:
        for item in done:
            assert item.slot.state is SlotState.DONE
            seen.append(item.slot.buffers[0])
            if len(seen) == stop_after:
                raise EngineError("the reader died")
            item.slot.free()

    flow.stage("fill", fill, closes=ready)
    flow.stage("drive", lambda: drive(ready, device, done.put), closes=done)
    flow.stage("read", read)
    try:
        flow.run()
    finally:
        device.join()
    assert all(slot.state is SlotState.FREE for slot in ring.slots)
    return seen


@pytest.mark.parametrize(("depth", "slots"), [(1, 1), (1, 3), (2, 3), (3, 3), (4, 8), (5, 2)])
def test_answers_come_in_order_and_never_more_than_depth_fly(depth: int, slots: int) -> None:
    device = FakeDevice(depth, seed=depth)
    assert run(device, 40, slots=slots) == [2 * n for n in range(40)]
    assert [n for what, n in device.log if what == "submit"] == list(range(40))
    assert [n for what, n in device.log if what == "wait"] == list(range(40))
    assert 1 <= device.most <= min(depth, slots)


def test_a_deep_device_is_kept_fed() -> None:
    flow = Flow()
    ring = Ring(flow, 4, lambda: [0])
    ready: Channel[Item] = flow.channel(4)
    for number in range(4):
        ready.put(Item(number, ring.take()))
    ready.close()
    device = FakeDevice(3)
    drive(ready, device, lambda work: None)
    device.join()
    assert device.log[:4] == [("submit", 0), ("submit", 1), ("submit", 2), ("wait", 0)]


def test_an_answer_is_fetched_when_nothing_else_is_ready() -> None:
    flow = Flow()
    ring = Ring(flow, 4, lambda: [7])
    ready: Channel[Item] = flow.channel(4)
    ready.put(Item(0, ring.take()))
    fetched = threading.Event()
    device = FakeDevice(3)
    driver = threading.Thread(target=drive, args=(ready, device, lambda work: fetched.set()))
    driver.start()
    assert fetched.wait(10)  # although the device has room and the channel is open
    ready.close()
    driver.join()
    device.join()


@pytest.mark.parametrize("how", [{"fail_submit": 5}, {"fail_wait": 5}])
def test_a_device_that_fails_ends_the_run(how: dict[str, int]) -> None:
    device = FakeDevice(2, **how)
    with pytest.raises(EngineError, match="the device"):
        run(device, 20)
    assert device.flying == 0  # what was under way has been waited for
    assert not [t for t in threading.enumerate() if t.name.startswith("scanside")]


def test_a_reader_that_dies_frees_whoever_waits_for_a_slot() -> None:
    with pytest.raises(EngineError, match="the reader died"):
        run(FakeDevice(2), 50, slots=2, stop_after=3)
    assert not [t for t in threading.enumerate() if t.name.startswith("scanside")]


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.02])
def test_cancelling_leaves_nobody_waiting(delay_s: float) -> None:
    cancel = threading.Event()
    timer = threading.Timer(delay_s, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        run(FakeDevice(2), 100_000, slots=2, flow=Flow(cancel=cancel))
    timer.join()
    assert not [t for t in threading.enumerate() if t.name.startswith("scanside")]


def test_a_slot_goes_its_round_only() -> None:
    ring = Ring(Flow(), 1, lambda: [0])
    slot = ring.take()
    for wrong in (SlotState.DONE, SlotState.FREE, SlotState.FILLING):
        with pytest.raises(EngineError, match=r"slot 0: a slot is used out of turn; expected running, found"):
            slot.enter(wrong)
    slot.enter(SlotState.RUNNING)
    with pytest.raises(EngineError, match="out of turn"):
        slot.free()
    slot.enter(SlotState.DONE)
    slot.free()
    assert ring.take() is slot

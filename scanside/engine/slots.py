"""Slots: buffers that go round between a filling stage, a device and a reading stage, in order, one user at a time.

One piece of scheduling for every device. A slot is taken when it is free (waiting for one is the back-pressure),
filled, submitted, awaited in the order of submission, read and freed. A device that runs at once has depth 1; one that
queues work on streams says how many slots may be on their way together. Errors and cancellation come from the `Flow`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from scanside.engine.flow import Channel, Flow
from scanside.engine.runtime import Pending
from scanside.errors import EngineError


class SlotState(StrEnum):
    """Where a slot is on its round."""

    FREE = "free"
    FILLING = "filling"
    RUNNING = "running"
    DONE = "done"


_NEXT = {
    SlotState.FREE: SlotState.FILLING,
    SlotState.FILLING: SlotState.RUNNING,
    SlotState.RUNNING: SlotState.DONE,
    SlotState.DONE: SlotState.FREE,
}

B = TypeVar("B")


class Slot(Generic[B]):
    """Buffers and their state. `ring.take` gives one, `drive` runs it, `free` ends its round."""

    def __init__(self, ring: Ring[B], number: int, buffers: B) -> None:
        self._ring = ring
        self.number = number
        self.buffers = buffers
        self.state = SlotState.FREE

    def enter(self, state: SlotState) -> None:
        """Go on to `state`.

        Raises
        ------
        EngineError
            It is not the next one: somebody else still uses the buffers.
        """
        if _NEXT[self.state] is not state:
            raise EngineError(
                "a slot is used out of turn", where=f"slot {self.number}", expected=_NEXT[self.state], found=state
            )
        self.state = state

    def free(self) -> None:
        """The buffers have been read; whoever waits in `take` gets them."""
        self.enter(SlotState.FREE)
        self._ring.give(self)


class Ring(Generic[B]):
    """A fixed number of slots, made once.

    Parameters
    ----------
    flow : Flow
        The run they belong to: when it stops, nobody waits for a slot any more.
    count : int
        How many slots.
    make : callable
        Makes the buffers of one.
    """

    def __init__(self, flow: Flow, count: int, make: Callable[[], B]) -> None:
        self.slots = tuple(Slot(self, number, make()) for number in range(count))
        self._free: Channel[Slot[B]] = flow.channel(count)
        for slot in self.slots:
            self._free.put(slot)

    def take(self) -> Slot[B]:
        """A free slot, waiting for one; it is then being filled."""
        slot = self._free.get()
        assert slot is not None  # a ring is never closed
        slot.enter(SlotState.FILLING)
        return slot

    def give(self, slot: Slot[B]) -> None:
        """Take a freed slot back."""
        self._free.put(slot)


class Work(Protocol):
    """What lies in a slot and waits for the device."""

    @property
    def slot(self) -> Slot[Any]: ...


W = TypeVar("W", bound=Work)
W_contra = TypeVar("W_contra", bound=Work, contravariant=True)


class Device(Protocol[W_contra]):
    """Something that works on filled slots: a network on a processor's cores, or on streams of a GPU."""

    @property
    def depth(self) -> int:
        """How many slots may be submitted and not yet awaited, at least 1."""

    def submit(self, work: W_contra) -> Pending:
        """Begin; return at once where the device runs by itself. The answer is in the slot's buffers after `wait`."""


def drive(ready: Channel[W], device: Device[W], done: Callable[[W], None]) -> None:
    """Run everything that comes through `ready` on `device`, and hand it to `done` in the same order.

    The device is kept fed while work is ready, and its oldest answer is fetched as soon as nothing is. The loop ends
    when the channel is closed and everything submitted has been handed on. However it ends, nothing is under way then:
    buffers that a device still writes to must not be freed.
    """
    running: deque[tuple[W, Pending]] = deque()
    try:
        while True:
            while len(running) < device.depth:
                work = ready.poll() if running else ready.get()
                if work is None:
                    break
                work.slot.enter(SlotState.RUNNING)
                running.append((work, device.submit(work)))
            if not running:
                return
            work, pending = running.popleft()
            pending.wait()
            work.slot.enter(SlotState.DONE)
            done(work)
    finally:
        for _, pending in running:
            with suppress(Exception):  # another error is on its way
                pending.wait()

"""A GPU in ordinary memory, for tests: the protocol of `cuda`, with streams whose work is done late and out of order.

Work given to a stream is queued, not done. What runs when is decided by a `Schedule`: as late as anything waits for it,
or in a random order, always keeping each stream's own order and its waits for events. A copy reads host memory when it
runs, as a GPU's does. So a forgotten wait, or a buffer used again too early, gives wrong data here and not only there.
No device option reaches this module.
"""

from __future__ import annotations

import contextlib
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scanside.engine.cuda import Buffer, Event, OutOfDeviceMemory, Stream
from scanside.errors import EngineError

Work = Callable[[], None]
_ALIGNMENT = 256


@dataclass
class _Mark:
    """One recording of an event."""

    done: bool = False


@dataclass
class _Step:
    """Queued work; `after` must be done first, `mark` is reached by it."""

    work: Work | None = None
    after: _Mark | None = None
    mark: _Mark | None = None


@dataclass(eq=False)
class StandInStream:
    """See `cuda.Stream`."""

    device: StandInDevice
    handle: int
    steps: deque[_Step] = field(default_factory=deque)
    recording: list[Work] | None = None

    def wait(self, event: Event) -> None:
        assert isinstance(event, StandInEvent)
        if event.mark is not None:
            self.device.give(self, _Step(after=event.mark))

    def synchronize(self) -> None:
        self.device.finish(self, len(self.steps))

    def free(self) -> None:
        self.device.streams.pop(self.handle, None)

    def ready(self) -> bool:
        """Whether the first step could run now."""
        return bool(self.steps) and (self.steps[0].after is None or self.steps[0].after.done)


@dataclass(eq=False)
class StandInEvent:
    """See `cuda.Event`."""

    device: StandInDevice
    mark: _Mark | None = None

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, StandInStream)
        self.mark = _Mark()
        self.device.give(stream, _Step(mark=self.mark))

    def synchronize(self) -> None:
        if self.mark is not None:
            self.device.reach(self.mark)


@dataclass(eq=False)
class StandInBuffer:
    """See `cuda.Buffer`. `content` is the memory itself."""

    device: StandInDevice
    content: NDArray[np.uint8]
    nbytes: int
    freed: bool = False

    @property
    def address(self) -> int:
        return self.content.ctypes.data

    def free(self) -> None:
        if not self.freed:
            self.freed = True
            self.device.used -= self.nbytes
            del self.device.buffers[self.address]


@dataclass(eq=False)
class StandInGraph:
    """See `cuda.Graph`."""

    device: StandInDevice
    work: list[Work]

    def launch(self, stream: Stream) -> None:
        assert isinstance(stream, StandInStream)
        self.device.launches += 1
        for work in self.work:
            self.device.give(stream, _Step(work=work))

    def free(self) -> None:
        self.work = []


@dataclass
class StandInCapture:
    """See `cuda.Capture`."""

    graph: StandInGraph | None = None


class StandInDevice:
    """See `cuda.Device`.

    Parameters
    ----------
    seed : int, optional
        Work runs in an order drawn from it. None: as late as possible, and only what is waited for.
    memory : int
        Bytes of device memory.
    """

    name = "stand-in"
    compute_capability = (8, 6)
    driver = "13.0"

    def __init__(self, seed: int | None = None, memory: int = 1 << 30) -> None:
        self.memory = memory
        self.used = 0
        self.launches = 0
        self.freed_late = 0  # pinned arrays and events that went while no GPU was current: PyCUDA would leak them
        self.buffers: dict[int, StandInBuffer] = {}
        self.streams: dict[int, StandInStream] = {}
        self._random = None if seed is None else random.Random(seed)
        self._made = 0
        self._fault: BaseException | None = None
        self._lock = threading.RLock()
        self._current = threading.local()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._current.depth = getattr(self._current, "depth", 0) + 1
        try:
            yield
        finally:
            self._current.depth -= 1

    def free_bytes(self) -> int:
        self._need_current()
        return self.memory - self.used

    def allocate(self, nbytes: int) -> StandInBuffer:
        self._need_current()
        with self._lock:
            if self.used + nbytes > self.memory:
                raise OutOfDeviceMemory("device memory cannot be had", found=f"{self.memory - self.used} bytes free")
            self.used += nbytes
            whole = np.full(nbytes + _ALIGNMENT, 0xCD, np.uint8)
            start = -whole.ctypes.data % _ALIGNMENT
            buffer = StandInBuffer(self, whole[start : start + nbytes], nbytes)
            self.buffers[buffer.address] = buffer
            return buffer

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        self._need_current()
        array = np.empty(shape, dtype)
        array.view(np.uint8)[...] = 0xCD
        weakref.finalize(array, self._count_late)
        return array

    def stream(self) -> StandInStream:
        self._need_current()
        with self._lock:
            self._made += 1
            stream = StandInStream(self, 0x1000 + self._made)
            self.streams[stream.handle] = stream
            return stream

    def event(self) -> StandInEvent:
        self._need_current()
        event = StandInEvent(self)
        weakref.finalize(event, self._count_late)
        return event

    def copy_in(self, buffer: Buffer, array: NDArray, stream: Stream) -> None:
        assert array.flags.c_contiguous
        target = self.memory_at(buffer.address, array.nbytes)
        self.submit(stream.handle, lambda: np.copyto(target(), array.reshape(-1).view(np.uint8)))

    def copy_out(self, array: NDArray, buffer: Buffer, stream: Stream) -> None:
        assert array.flags.c_contiguous
        source = self.memory_at(buffer.address, array.nbytes)
        self.submit(stream.handle, lambda: np.copyto(array.reshape(-1).view(np.uint8), source()))

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        target = self.memory_at(buffer.address, buffer.nbytes)
        self.submit(stream.handle, lambda: target().fill(value))

    @contextlib.contextmanager
    def capture(self, stream: Stream) -> Iterator[StandInCapture]:
        assert isinstance(stream, StandInStream)
        assert stream.recording is None, "a stream is captured twice"
        stream.recording = []
        capture = StandInCapture()
        try:
            yield capture
        finally:
            work, stream.recording = stream.recording, None
        capture.graph = StandInGraph(self, work)

    def memory_at(self, address: int, nbytes: int) -> Callable[[], NDArray[np.uint8]]:
        """A function that gives `nbytes` of device memory when the work runs, and fails if it was freed by then."""

        def content() -> NDArray[np.uint8]:
            buffer = self.buffers.get(address)
            if buffer is None or buffer.nbytes < nbytes:
                raise EngineError("an illegal memory access", where=self.name, found=f"{nbytes} bytes at {address:#x}")
            return buffer.content[:nbytes]

        return content

    def submit(self, handle: int, work: Work) -> None:
        """Queue `work` in the stream of this handle, as a kernel."""
        self.give(self.streams[handle], _Step(work=work))

    def give(self, stream: StandInStream, step: _Step) -> None:
        """Queue a step, and perhaps run some of what is queued."""
        self._need_current()
        with self._lock:
            if stream.recording is not None:
                if step.work is not None:
                    stream.recording.append(step.work)
                return
            stream.steps.append(step)
            if self._random is not None:
                for _ in range(self._random.randrange(4)):
                    self._run_any()

    def reach(self, mark: _Mark) -> None:
        """Run what `mark` needs, or in random order until it is reached; raise the GPU's fault if there is one."""
        self._need_current()
        with self._lock:
            while not mark.done and self._fault is None:
                if self._random is not None:
                    if not self._run_any():
                        raise EngineError("streams wait for each other for ever", where=self.name)
                else:
                    holder = next(s for s in self.streams.values() if any(step.mark is mark for step in s.steps))
                    self._run_needed(holder)
            self._raise_fault()

    def finish(self, stream: StandInStream, count: int) -> None:
        """Run the first `count` steps of `stream`, and what they wait for."""
        self._need_current()
        with self._lock:
            last = len(stream.steps) - count
            while len(stream.steps) > last and self._fault is None:
                self._run_needed(stream)
            self._raise_fault()

    def read(self, address: int, dtype: np.dtype, shape: tuple[int, ...]) -> NDArray:
        """Device memory as an array, now."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return self.memory_at(address, nbytes)().view(dtype).reshape(shape)

    def _run_any(self) -> bool:
        """Run a step of some stream; whether one was ready."""
        assert self._random is not None
        ready = [stream for stream in self.streams.values() if stream.ready()]
        if ready:
            self._run(self._random.choice(ready))
        return bool(ready)

    def _run_needed(self, stream: StandInStream) -> None:
        """The first step of `stream`, after whatever it waits for."""
        after = stream.steps[0].after
        if after is not None and not after.done:
            self.reach(after)
        if self._fault is None:
            self._run(stream)

    def _run(self, stream: StandInStream) -> None:
        step = stream.steps.popleft()
        try:
            if step.work is not None:
                step.work()
        except BaseException as error:  # a fault stays: every later wait reports it, as on a GPU
            self._fault = self._fault or error
            return
        if step.mark is not None:
            step.mark.done = True

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise EngineError("work on the GPU failed", where=self.name, found=str(self._fault)) from self._fault

    def _count_late(self) -> None:
        if getattr(self._current, "depth", 0) < 1:
            self.freed_late += 1

    def _need_current(self) -> None:
        if getattr(self._current, "depth", 0) < 1:
            raise EngineError("no GPU is current in this thread", where=self.name, expected="a call inside active()")

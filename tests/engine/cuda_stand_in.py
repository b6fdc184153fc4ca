"""A GPU in ordinary memory: the protocol of `cuda`, with streams whose work is done late and out of order.

Work given to a stream is queued, not done. What runs when is decided by a `Schedule`: as late as anything waits for it,
or in a random order, always keeping each stream's own order and its waits for events. A copy reads host memory when it
runs, as a GPU's does. So a forgotten wait, or a buffer used again too early, gives wrong data here and not only there.
"""

from __future__ import annotations

import contextlib
import random
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scanside.engine.cuda import Argument, Buffer, Event, OutOfDeviceMemory, Stream
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
        self.device.finish(self)

    def free(self) -> None:
        if self.device.streams.pop(self.handle, None) is not None:
            self.device.gone("stream")

    def ready(self) -> bool:
        """Whether the first step could run now."""
        return bool(self.steps) and (self.steps[0].after is None or self.steps[0].after.done)


@dataclass(eq=False)
class StandInEvent:
    """See `cuda.Event`."""

    device: StandInDevice
    mark: _Mark | None = None
    freed: bool = False

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, StandInStream)
        self.device.count("record")
        mark = _Mark()
        self.device.give(stream, _Step(mark=mark))
        self.mark = mark  # only now: another thread may wait for it, and finds it queued

    def synchronize(self) -> None:
        if self.mark is not None:
            self.device.reach(self.mark)

    def free(self) -> None:
        if not self.freed:
            self.freed = True
            self.device.gone("event")


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
            self.device.gone("buffer")


@dataclass(eq=False)
class StandInGraph:
    """See `cuda.Graph`."""

    device: StandInDevice
    work: list[Work]
    freed: bool = False

    def launch(self, stream: Stream) -> None:
        assert isinstance(stream, StandInStream)
        self.device.count("launch")
        self.device.launches += 1
        for work in self.work:
            self.device.give(stream, _Step(work=work))

    def free(self) -> None:
        if not self.freed:
            self.freed = True
            self.work = []
            self.device.gone("graph")


@dataclass(eq=False)
class StandInKernel:
    """See `cuda.Kernel`: the same arithmetic in NumPy, on the memory that its arguments point to."""

    device: StandInDevice
    name: str
    freed: bool = False

    def launch(
        self, stream: Stream, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Argument]
    ) -> None:
        self.device.count("launch")
        values = [argument.value or 0 for argument in arguments]
        threads = tuple(n * size for n, size in zip(grid, block, strict=True))
        self.device.submit(stream.handle, lambda: _KERNELS[self.name](self.device, threads, *values))

    def free(self) -> None:
        if not self.freed:
            self.freed = True
            self.device.gone("kernel")


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
    fail_at : int, optional
        The call of this number, from 0, fails: of those that allocate, launch, copy or record. `calls` counts them.
    fault : exception
        What it fails with.
    """

    name = "stand-in"
    compute_capability = (8, 6)
    driver = "13.0"

    def __init__(
        self,
        seed: int | None = None,
        memory: int = 1 << 30,
        fail_at: int | None = None,
        fault: type[EngineError] = EngineError,
    ) -> None:
        self.memory = memory
        self.fail_at, self.fault = fail_at, fault
        self.calls: Counter[str] = Counter()
        self.alive: Counter[str] = Counter()
        """What has been made and not been given back, by kind."""
        self.freed: list[str] = []
        """Kinds of what `outlive` counts, in the order of being freed."""
        self.used = 0
        self.launches = 0
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

    @property
    def made(self) -> int:
        """How many buffers, pinned arrays, streams, events, graphs and kernels have been made so far."""
        return sum(self.calls[kind] for kind in ("allocate", "pinned", "stream", "event", "capture", "kernel"))

    def count(self, kind: str) -> None:
        """Count a call; it fails if it is the one that is to fail."""
        self._need_current()
        with self._lock:
            number = self.calls.total()
            self.calls[kind] += 1
        if number == self.fail_at:
            raise self.fault(f"call {number} failed", where=kind, found="a fault that a test asked for")

    def outlive(self, thing: object, kind: str) -> None:
        """Count an object of a library that is freed with its last reference; without a current GPU it is not freed."""
        self.alive[kind] += 1
        weakref.finalize(thing, self._collected, kind).atexit = False

    def _collected(self, kind: str) -> None:
        if getattr(self._current, "depth", 0):
            self.freed.append(kind)
            self.gone(kind)

    def gone(self, kind: str) -> None:
        """Something has been given back."""
        self._need_current()
        with self._lock:
            self.alive[kind] -= 1
            if not self.alive[kind]:
                del self.alive[kind]

    def free_bytes(self) -> int:
        self._need_current()
        return self.memory - self.used

    def kernel(self, ptx: bytes, name: str) -> StandInKernel:
        assert f".entry {name}(".encode() in ptx
        self.count("kernel")
        with self._lock:
            self.alive["kernel"] += 1
        return StandInKernel(self, name)

    def allocate(self, nbytes: int) -> StandInBuffer:
        self.count("allocate")
        with self._lock:
            if self.used + nbytes > self.memory:
                raise OutOfDeviceMemory("device memory cannot be had", found=f"{self.memory - self.used} bytes free")
            self.used += nbytes
            whole = np.full(nbytes + _ALIGNMENT, 0xCD, np.uint8)
            start = -whole.ctypes.data % _ALIGNMENT
            buffer = StandInBuffer(self, whole[start : start + nbytes], nbytes)
            self.buffers[buffer.address] = buffer
            self.alive["buffer"] += 1
            return buffer

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        self.count("pinned")
        array = np.empty(shape, dtype)
        array.view(np.uint8)[...] = 0xCD
        with self._lock:
            self.alive["pinned"] += 1
        return array

    def unpin(self, array: NDArray) -> None:
        self.gone("pinned")
        array.view(np.uint8)[...] = 0xDD

    def stream(self) -> StandInStream:
        self.count("stream")
        with self._lock:
            self._made += 1
            stream = StandInStream(self, 0x1000 + self._made)
            self.streams[stream.handle] = stream
            self.alive["stream"] += 1
            return stream

    def event(self) -> StandInEvent:
        self.count("event")
        with self._lock:
            self.alive["event"] += 1
        return StandInEvent(self)

    def copy_in(self, buffer: Buffer, array: NDArray, stream: Stream, *, offset: int = 0) -> None:
        assert array.flags.c_contiguous
        self.count("copy_in")
        target = self.memory_at(buffer.address + offset, array.nbytes)
        self.submit(stream.handle, lambda: np.copyto(target(), array.reshape(-1).view(np.uint8)))

    def copy_out(self, array: NDArray, buffer: Buffer, stream: Stream) -> None:
        assert array.flags.c_contiguous
        self.count("copy_out")
        source = self.memory_at(buffer.address, array.nbytes)
        self.submit(stream.handle, lambda: np.copyto(array.reshape(-1).view(np.uint8), source()))

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        self.count("fill")
        target = self.memory_at(buffer.address, buffer.nbytes)
        self.submit(stream.handle, lambda: target().fill(value))

    @contextlib.contextmanager
    def capture(self, stream: Stream) -> Iterator[StandInCapture]:
        assert isinstance(stream, StandInStream)
        assert stream.recording is None, "a stream is captured twice"
        self.count("capture")
        stream.recording = []
        capture = StandInCapture()
        try:
            yield capture
        finally:
            work, stream.recording = stream.recording, None
        capture.graph = StandInGraph(self, work)
        self.alive["graph"] += 1

    def memory_at(self, address: int, nbytes: int) -> Callable[[], NDArray[np.uint8]]:
        """A function that gives `nbytes` of device memory when the work runs, and fails if it was freed by then."""

        def content() -> NDArray[np.uint8]:
            for start, buffer in tuple(self.buffers.items()):
                if start <= address and address + nbytes <= start + buffer.nbytes:
                    return buffer.content[address - start : address - start + nbytes]
            raise EngineError("an illegal memory access", where=self.name, found=f"{nbytes} bytes at {address:#x}")

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

    def finish(self, stream: StandInStream) -> None:
        """Run what is queued in `stream` now, and what that waits for."""
        self._need_current()
        with self._lock:
            last = stream.steps[-1] if stream.steps else None
            while self._fault is None and any(step is last for step in stream.steps):
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
        step = stream.steps[0]
        if step.after is not None and not step.after.done:
            self.reach(step.after)
        if self._fault is None and stream.steps and stream.steps[0] is step:  # else it ran on the way
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

    def _need_current(self) -> None:
        if getattr(self._current, "depth", 0) < 1:
            raise EngineError("no GPU is current in this thread", where=self.name, expected="a call inside active()")


def _cut_section(
    device: StandInDevice,
    threads: tuple[int, int],
    volume: int,
    section: int,
    *arguments: int,
) -> None:
    """`section_kernel.cu` for all threads at once, its sums in the same order."""
    inner_first, inner_weights, inner_taps, inner_last, inner_stride = arguments[:5]
    outer_first, outer_weights, outer_taps, outer_last, outer_stride = arguments[5:10]
    top, left, rows, columns, height, width, rounded, inner_grows, outer_grows = arguments[10:]
    assert threads[0] >= width, "columns without a thread"
    assert threads[1] >= height, "rows without a thread"
    native = np.lib.stride_tricks.as_strided(
        device.read(volume, np.dtype(np.uint8), (outer_last * outer_stride + inner_last * inner_stride + 1,)),
        (outer_last + 1, inner_last + 1),
        (outer_stride, inner_stride),
    )

    def table(first: int, weights: int, taps: int, begin: int, count: int) -> tuple[NDArray, NDArray]:
        pixels = device.read(first, np.dtype(np.int32), (begin + count,))
        return pixels[begin:], device.read(weights, np.dtype(np.float32), (begin + count, taps))[begin:]

    across, down = (left, columns), (top, rows)
    inner, inner_part = table(inner_first, inner_weights, inner_taps, *(down if rounded else across))
    outer, outer_part = table(outer_first, outer_weights, outer_taps, *(across if rounded else down))
    total = np.zeros((len(outer), len(inner)), np.float32)
    for j in range(outer_taps):
        lines = native[np.minimum(outer + j, outer_last)].astype(np.float32)
        part = np.zeros_like(total)
        for i in range(inner_taps):
            product = inner_part[:, i] * lines[:, np.minimum(inner + i, inner_last)]
            part += np.floor(4 * product) if inner_grows else product
        if rounded:
            part = _rounded_quarters(part) if inner_grows else np.rint(part)
        total += outer_part[:, j, None] * part
    total = _rounded_quarters(np.floor(4 * total)) if outer_grows else np.rint(total)
    out = device.read(section, np.dtype(np.uint8), (height, width))
    out[...] = 0
    out[:rows, :columns] = np.clip(total.T if rounded else total, 0, 255)


def _rounded_quarters(quarters: NDArray) -> NDArray:
    return np.floor((quarters + 2) / 4)


_KERNELS: dict[str, Callable[..., None]] = {"cut_section": _cut_section}

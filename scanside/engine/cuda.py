"""The CUDA layer: one GPU's streams, events, pinned and device memory, and graphs. The only module that uses PyCUDA.

The protocols say what the engine needs of a GPU; `open_device` gives the real one, the tests have one in ordinary
memory. Only the device's primary context is used, the one that TensorRT and every other library share, and every
thread makes it current for the length of its work. PyCUDA gives the context and memory; it knows neither the
priority of a stream nor graph capture, so what happens in streams goes to the driver, in one place.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from scanside.errors import EngineError

_STREAM_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1
_EVENT_BLOCKING_SYNC = 1
"""Whoever waits sleeps. By default the driver may spin, on a core that decoding and linking want."""
_EVENT_NO_TIMING = 2
_OUT_OF_MEMORY = 2

Argument = ctypes.c_void_p | ctypes.c_int | ctypes.c_longlong


class OutOfDeviceMemory(EngineError):  # noqa: N818 - named as the driver names it
    """The GPU has no room for an allocation (exit code 4)."""


NO_ROOM_REMEDY = "close other programs on the GPU, or build with a smaller --batch"
_SAYS_NO_ROOM = re.compile("out.?of.?memory|failed to allocate memory|alloc_failed", re.IGNORECASE)


def says_no_room(found: str) -> bool:
    """Whether these are the words of a library that found no room on the GPU."""
    return _SAYS_NO_ROOM.search(found) is not None


class Buffer(Protocol):
    """Device memory."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def free(self) -> None:
        """Give the memory back. Safe to call twice."""


class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """Reached once all work given to `stream` so far is done."""

    def synchronize(self) -> None:
        """Wait for it.

        Raises
        ------
        EngineError
            Work given to the GPU failed.
        """

    def free(self) -> None:
        """Give it back. Safe to call twice."""


class Graph(Protocol):
    """Captured work."""

    def launch(self, stream: Stream) -> None:
        """Do the captured work again, in `stream`."""

    def free(self) -> None:
        """Give it back. Safe to call twice."""


class Kernel(Protocol):
    """A function that runs on the GPU."""

    def launch(
        self, stream: Stream, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Argument]
    ) -> None:
        """Run `grid` blocks of `block` threads, in `stream`."""

    def free(self) -> None:
        """Give it back. Safe to call twice."""


class Stream(Protocol):
    """Work in order, of the lowest priority that the GPU has: whatever draws the scanner's display goes first."""

    @property
    def handle(self) -> int: ...

    def wait(self, event: Event) -> None:
        """Work given from now on starts after `event`."""

    def synchronize(self) -> None:
        """Wait for everything given so far.

        Raises
        ------
        EngineError
            Work given to the GPU failed.
        """

    def free(self) -> None:
        """Give it back. Safe to call twice."""


class Capture(Protocol):
    """Gives the captured `graph` once its block has ended."""

    graph: Graph | None


class Device(Protocol):
    """One GPU. All calls but `active` need `active` around them, and so does giving back what they gave."""

    @property
    def name(self) -> str: ...

    @property
    def compute_capability(self) -> tuple[int, int]: ...

    @property
    def driver(self) -> str:
        """The driver's version."""

    def active(self) -> AbstractContextManager[None]:
        """Make this GPU current in the calling thread, for the length of the block."""

    def free_bytes(self) -> int:
        """Device memory not in use."""

    def allocate(self, nbytes: int) -> Buffer:
        """Device memory, aligned to 256 bytes.

        Raises
        ------
        OutOfDeviceMemory
        """

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        """An array in page-locked host memory, its content undefined."""

    def unpin(self, array: NDArray) -> None:
        """Give the memory of an array of `pinned` back; neither it nor a view of it may be used any more."""

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def kernel(self, ptx: bytes, name: str) -> Kernel:
        """The function `name` of a PTX module."""

    def copy_in(self, buffer: Buffer, array: NDArray, stream: Stream, *, offset: int = 0) -> None:
        """Copy a pinned C-contiguous `array` into `buffer`, from byte `offset` on, in `stream`."""

    def copy_out(self, array: NDArray, buffer: Buffer, stream: Stream) -> None:
        """Copy `buffer` into a pinned C-contiguous `array`, in `stream`."""

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        """Set every byte of `buffer`, in `stream`."""

    def capture(self, stream: Stream) -> AbstractContextManager[Capture]:
        """Capture what the block gives to `stream` instead of doing it. An exception ends the capture and passes."""


class Freeable(Protocol):
    """What a GPU gave and takes back."""

    def free(self) -> None: ...


F = TypeVar("F", bound=Freeable)


class Owned:
    """Everything of a GPU that somebody holds, given back together, the last first. Nothing is left to the collector:
    an error on its way keeps names alive in threads where no GPU is current.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stack = contextlib.ExitStack()

    def push(self, thing: F) -> F:
        """Hold it."""
        self._stack.callback(thing.free)
        return thing

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        """Hold an array of `Device.pinned`."""
        array = self._device.pinned(shape, dtype)
        self._stack.callback(self._device.unpin, array)
        return array

    def free(self) -> None:
        """Give all of it back. Safe to call twice."""
        self._stack.close()


@functools.cache
def shared_device() -> Device:
    """The process's first GPU. Its primary context is kept until the process ends.

    Raises
    ------
    EngineError
        As `open_device`.
    """
    return open_device()


def open_device(index: int = 0) -> Device:
    """The GPU number `index`.

    Raises
    ------
    EngineError
        PyCUDA is not installed, or no driver or no such GPU answers.
    """
    try:
        import pycuda.driver as driver
    except ImportError as error:
        missing = (error.name or "").startswith("pycuda") and "libcuda" not in str(error)
        raise EngineError(
            "PyCUDA is not installed" if missing else "PyCUDA does not load",
            expected="pycuda and an NVIDIA driver",
            found=str(error).splitlines()[0][:200],
            remedy='pip install "scanside[rtx]", or run with device cpu'
            if missing
            else "install the NVIDIA driver, or run with device cpu",
        ) from None
    with _told("no GPU answers", "check the driver with `scanside doctor`, or run with device cpu"):
        driver.init()
        return _PyCudaDevice(driver, index)


class _PyCudaDevice:
    def __init__(self, driver: Any, index: int) -> None:
        self._driver = driver
        device = driver.Device(index)
        self.name = str(device.name())
        major, minor = device.compute_capability()
        self.compute_capability = (int(major), int(minor))
        version = int(driver.get_driver_version())
        self.driver = f"{version // 1000}.{version % 1000 // 10}"
        self._context = device.retain_primary_context()
        # Left to its destructor, PyCUDA would detach the primary context as if it were one of its own.
        atexit.register(self._context.detach)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        with _told("the GPU cannot be made current"):
            self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def free_bytes(self) -> int:
        with _told("the GPU does not answer"):
            return int(self._driver.mem_get_info()[0])

    def allocate(self, nbytes: int) -> Buffer:
        with _told("device memory cannot be had"):
            return _PyCudaBuffer(self._driver.mem_alloc(max(1, nbytes)), nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        with _told("page-locked memory cannot be had"):
            return self._driver.pagelocked_empty(shape, dtype)

    def unpin(self, array: NDArray) -> None:
        with contextlib.suppress(Exception):  # after a fault of the GPU nothing can be freed any more
            array.base.free()  # type: ignore[union-attr]  # PyCUDA's allocation

    def stream(self) -> Stream:
        return _DriverStream()

    def event(self) -> Event:
        return _DriverEvent()

    def kernel(self, ptx: bytes, name: str) -> Kernel:
        return _DriverKernel(ptx, name)

    def copy_in(self, buffer: Buffer, array: NDArray, stream: Stream, *, offset: int = 0) -> None:
        _call(
            "a copy to the GPU failed",
            _libcuda().cuMemcpyHtoDAsync_v2,
            ctypes.c_uint64(buffer.address + offset),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream.handle),
        )

    def copy_out(self, array: NDArray, buffer: Buffer, stream: Stream) -> None:
        _call(
            "a copy from the GPU failed",
            _libcuda().cuMemcpyDtoHAsync_v2,
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(buffer.address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream.handle),
        )

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        _call(
            "device memory cannot be set",
            _libcuda().cuMemsetD8Async,
            ctypes.c_uint64(buffer.address),
            ctypes.c_ubyte(value),
            ctypes.c_size_t(buffer.nbytes),
            ctypes.c_void_p(stream.handle),
        )

    @contextlib.contextmanager
    def capture(self, stream: Stream) -> Iterator[_DriverCapture]:
        library, what = _libcuda(), "a CUDA graph failed"
        begin, mode = library.cuStreamBeginCapture_v2, ctypes.c_int(_CAPTURE_THREAD_LOCAL)
        _call(what, begin, ctypes.c_void_p(stream.handle), mode)
        captured = _DriverCapture()
        raw = ctypes.c_void_p()
        try:
            yield captured
        except BaseException:
            # A stream left capturing would refuse all further work; the graph of a failed block is thrown away.
            if library.cuStreamEndCapture(ctypes.c_void_p(stream.handle), ctypes.byref(raw)) == 0 and raw:
                library.cuGraphDestroy(raw)
            raise
        _call(what, library.cuStreamEndCapture, ctypes.c_void_p(stream.handle), ctypes.byref(raw))
        executable = ctypes.c_void_p()
        try:
            flags = ctypes.c_ulonglong(0)
            _call(what, library.cuGraphInstantiateWithFlags, ctypes.byref(executable), raw, flags)
        finally:
            library.cuGraphDestroy(raw)
        captured.graph = _DriverGraph(executable)


class _PyCudaBuffer:
    def __init__(self, raw: Any, nbytes: int) -> None:
        self._raw: Any | None = raw
        self.address = int(raw)
        self.nbytes = nbytes

    def free(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(Exception):  # after a fault of the GPU nothing can be freed any more
                raw.free()


class _DriverStream:
    def __init__(self) -> None:
        library, what = _libcuda(), "a stream cannot be made"
        lowest, highest, raw = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        _call(what, library.cuCtxGetStreamPriorityRange, ctypes.byref(lowest), ctypes.byref(highest))
        flags = ctypes.c_uint(_STREAM_NON_BLOCKING)
        _call(what, library.cuStreamCreateWithPriority, ctypes.byref(raw), flags, lowest)
        self._raw: ctypes.c_void_p | None = raw
        self.handle = int(raw.value or 0)

    def free(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            _libcuda().cuStreamDestroy_v2(raw)

    def wait(self, event: Event) -> None:
        raw = event.raw  # type: ignore[attr-defined]
        _call("a stream cannot wait for an event", _libcuda().cuStreamWaitEvent, self._raw, raw, ctypes.c_uint(0))

    def synchronize(self) -> None:
        _call("work on the GPU failed", _libcuda().cuStreamSynchronize, self._raw)


class _DriverEvent:
    def __init__(self) -> None:
        self.raw: ctypes.c_void_p | None = ctypes.c_void_p()
        create, flags = _libcuda().cuEventCreate, ctypes.c_uint(_EVENT_BLOCKING_SYNC | _EVENT_NO_TIMING)
        _call("an event cannot be made", create, ctypes.byref(self.raw), flags)

    def free(self) -> None:
        raw, self.raw = self.raw, None
        if raw is not None:
            _libcuda().cuEventDestroy_v2(raw)

    def record(self, stream: Stream) -> None:
        _call("an event cannot be recorded", _libcuda().cuEventRecord, self.raw, ctypes.c_void_p(stream.handle))

    def synchronize(self) -> None:
        _call("work on the GPU failed", _libcuda().cuEventSynchronize, self.raw)


class _DriverKernel:
    def __init__(self, ptx: bytes, name: str) -> None:
        library, what = _libcuda(), "a kernel does not load"
        module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        _call(what, library.cuModuleLoadData, ctypes.byref(module), ctypes.c_char_p(ptx))
        self._module: ctypes.c_void_p | None = module
        try:
            _call(what, library.cuModuleGetFunction, ctypes.byref(self._function), module, name.encode())
        except EngineError:
            self.free()
            raise

    def launch(
        self, stream: Stream, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Argument]
    ) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        sizes = (ctypes.c_uint(n) for n in (*grid, 1, *block, 1, 0))
        launch, handle = _libcuda().cuLaunchKernel, ctypes.c_void_p(stream.handle)
        _call("a kernel does not start", launch, self._function, *sizes, handle, pointers, None)

    def free(self) -> None:
        module, self._module = self._module, None
        if module is not None:
            _libcuda().cuModuleUnload(module)


class _DriverCapture:
    graph: Graph | None = None


class _DriverGraph:
    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable: ctypes.c_void_p | None = executable

    def launch(self, stream: Stream) -> None:
        _call("a CUDA graph failed", _libcuda().cuGraphLaunch, self._executable, ctypes.c_void_p(stream.handle))

    def free(self) -> None:
        executable, self._executable = self._executable, None
        if executable is not None:
            _libcuda().cuGraphExecDestroy(executable)


@functools.cache
def _libcuda() -> Any:
    """The driver's library, which PyCUDA has loaded already."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _call(what: str, function: Any, *arguments: Any) -> None:
    code = function(*arguments)
    if code == 0:
        return
    text = ctypes.c_char_p()
    _libcuda().cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
    found = f"{function.__name__}: {(text.value or b'').decode() or 'no description'} (code {code})"
    raise (_no_room(what, found) if code == _OUT_OF_MEMORY else EngineError(what, found=found, remedy=_REMEDY))


_REMEDY = "check the GPU with `scanside doctor`, or run with device cpu"


def _no_room(what: str, found: str) -> OutOfDeviceMemory:
    return OutOfDeviceMemory(what, found=found, remedy=NO_ROOM_REMEDY)


@contextlib.contextmanager
def _told(what: str, remedy: str = _REMEDY) -> Iterator[None]:
    """PyCUDA's errors as one EngineError; a failed allocation as `OutOfDeviceMemory`."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # PyCUDA's errors and Boost's share no base class but this
        found = (str(error) or type(error).__name__).splitlines()[0][:200]
        if type(error).__name__ == "MemoryError":  # PyCUDA's own, no relative of Python's
            raise _no_room(what, found) from error
        raise EngineError(what, found=found, remedy=remedy) from error

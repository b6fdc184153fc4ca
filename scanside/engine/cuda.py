"""The CUDA layer: one GPU's streams, events, pinned and device memory, and graphs. The only module that uses PyCUDA.

The protocols say what the engine needs of a GPU; `open_device` gives the real one, and `cuda_stand_in` one in ordinary
memory for tests. Only the device's primary context is used, the one that TensorRT and every other library share, and
every thread makes it current for the length of its work. PyCUDA has no graph capture: those calls go to the driver.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.errors import EngineError

_STREAM_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1


class OutOfDeviceMemory(EngineError):  # noqa: N818 - named as the driver names it
    """The GPU has no room for an allocation (exit code 4)."""


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


class Graph(Protocol):
    """Captured work."""

    def launch(self, stream: Stream) -> None:
        """Do the captured work again, in `stream`."""

    def free(self) -> None:
        """Give it back. Safe to call twice."""


class Stream(Protocol):
    """Work in order."""

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
    """One GPU. All calls but `active` need `active` around them; what is freed or forgotten, too."""

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

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def copy_in(self, buffer: Buffer, array: NDArray, stream: Stream) -> None:
        """Copy a pinned C-contiguous `array` into `buffer`, in `stream`."""

    def copy_out(self, array: NDArray, buffer: Buffer, stream: Stream) -> None:
        """Copy `buffer` into a pinned C-contiguous `array`, in `stream`."""

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        """Set every byte of `buffer`, in `stream`."""

    def capture(self, stream: Stream) -> AbstractContextManager[Capture]:
        """Capture what the block gives to `stream` instead of doing it. An exception ends the capture and passes."""


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

    def stream(self) -> Stream:
        with _told("a stream cannot be made"):
            return _PyCudaStream(self._driver.Stream(_STREAM_NON_BLOCKING))

    def event(self) -> Event:
        with _told("an event cannot be made"):
            return _PyCudaEvent(self._driver.Event(self._driver.event_flags.DISABLE_TIMING))

    def copy_in(self, buffer: Buffer, array: NDArray, stream: Stream) -> None:
        with _told("a copy to the GPU failed"):
            self._driver.memcpy_htod_async(buffer.address, array, stream.raw)  # type: ignore[attr-defined]

    def copy_out(self, array: NDArray, buffer: Buffer, stream: Stream) -> None:
        with _told("a copy from the GPU failed"):
            self._driver.memcpy_dtoh_async(array, buffer.address, stream.raw)  # type: ignore[attr-defined]

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        with _told("device memory cannot be set"):
            self._driver.memset_d8_async(buffer.address, value, buffer.nbytes, stream.raw)  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def capture(self, stream: Stream) -> Iterator[_DriverCapture]:
        library = _libcuda()
        _call(library.cuStreamBeginCapture_v2, ctypes.c_void_p(stream.handle), ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        captured = _DriverCapture()
        raw = ctypes.c_void_p()
        try:
            yield captured
        except BaseException:
            # A stream left capturing would refuse all further work; the graph of a failed block is thrown away.
            if library.cuStreamEndCapture(ctypes.c_void_p(stream.handle), ctypes.byref(raw)) == 0 and raw:
                library.cuGraphDestroy(raw)
            raise
        _call(library.cuStreamEndCapture, ctypes.c_void_p(stream.handle), ctypes.byref(raw))
        executable = ctypes.c_void_p()
        try:
            flags = ctypes.c_ulonglong(0)
            _call(library.cuGraphInstantiateWithFlags, ctypes.byref(executable), raw, flags)
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


class _PyCudaStream:
    def __init__(self, raw: Any) -> None:
        self.raw: Any | None = raw
        self.handle = int(raw.handle)

    def free(self) -> None:
        self.raw = None  # PyCUDA destroys it here, where its context is current

    def wait(self, event: Event) -> None:
        with _told("a stream cannot wait for an event"):
            self.raw.wait_for_event(event.raw)  # type: ignore[union-attr, attr-defined]

    def synchronize(self) -> None:
        with _told("work on the GPU failed"):
            self.raw.synchronize()  # type: ignore[union-attr]


class _PyCudaEvent:
    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def record(self, stream: Stream) -> None:
        with _told("an event cannot be recorded"):
            self.raw.record(stream.raw)  # type: ignore[attr-defined]

    def synchronize(self) -> None:
        with _told("work on the GPU failed"):
            self.raw.synchronize()


class _DriverCapture:
    graph: Graph | None = None


class _DriverGraph:
    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable: ctypes.c_void_p | None = executable

    def launch(self, stream: Stream) -> None:
        _call(_libcuda().cuGraphLaunch, self._executable, ctypes.c_void_p(stream.handle))

    def free(self) -> None:
        executable, self._executable = self._executable, None
        if executable is not None:
            _libcuda().cuGraphExecDestroy(executable)


def _libcuda() -> Any:
    """The driver's library, which PyCUDA has loaded already."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _call(function: Any, *arguments: Any) -> None:
    code = function(*arguments)
    if code != 0:
        raise EngineError("a CUDA graph failed", where=function.__name__, expected="CUDA_SUCCESS", found=f"code {code}")


@contextlib.contextmanager
def _told(what: str, remedy: str = "check the GPU with `scanside doctor`, or run with device cpu") -> Iterator[None]:
    """PyCUDA's errors as one EngineError; a failed allocation as `OutOfDeviceMemory`."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # PyCUDA's errors and Boost's share no base class but this
        found = (str(error) or type(error).__name__).splitlines()[0][:200]
        if type(error).__name__ == "MemoryError":  # PyCUDA's own, no relative of Python's
            raise OutOfDeviceMemory(
                what, found=found, remedy="close other programs on the GPU, or build with a smaller --batch"
            ) from error
        raise EngineError(what, found=found, remedy=remedy) from error

"""One contract for every device of the CUDA layer: the stand-in, late and in random orders, and a GPU, if any."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from scanside.engine.cuda import Device, OutOfDeviceMemory, open_device
from scanside.engine.kernels import ptx
from scanside.errors import EngineError
from tests.engine.cuda_stand_in import StandInDevice

TYPE = np.dtype(np.float32)


P, N, U = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
Q, Z, B = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_ubyte


class FakeDriver:
    """libcuda, as far as it is called: does the work at once, on this computer's memory, and checks every argument."""

    SIGNATURES: ClassVar = {
        "cuCtxGetStreamPriorityRange": (N, N),
        "cuStreamCreateWithPriority": (P, U, N),
        "cuStreamDestroy_v2": (P,),
        "cuStreamWaitEvent": (P, P, U),
        "cuStreamSynchronize": (P,),
        "cuEventCreate": (P, U),
        "cuEventDestroy_v2": (P,),
        "cuEventRecord": (P, P),
        "cuEventSynchronize": (P,),
        "cuMemcpyHtoDAsync_v2": (Q, P, Z, P),
        "cuMemcpyDtoHAsync_v2": (P, Q, Z, P),
        "cuMemsetD8Async": (Q, B, Z, P),
        "cuModuleLoadData": (P, ctypes.c_char_p),
        "cuModuleGetFunction": (P, P, bytes),
        "cuModuleUnload": (P,),
        "cuLaunchKernel": (P, *(U,) * 7, P, ctypes.Array, type(None)),
        "cuStreamBeginCapture_v2": (P, N),
        "cuStreamEndCapture": (P, P),
        "cuGraphInstantiateWithFlags": (P, P, ctypes.c_ulonglong),
        "cuGraphDestroy": (P,),
        "cuGraphLaunch": (P, P),
        "cuGraphExecDestroy": (P,),
        "cuGetErrorString": (N, ctypes.c_char_p),
    }

    def __init__(self) -> None:
        self.answer = 0
        self.alive: dict[int, str] = {}
        self.priorities: list[int] = []
        self.launched: list[tuple] = []
        self._capturing: dict[int, list] = {}
        self._graphs: dict[int, list] = {}

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        if name not in self.SIGNATURES:
            raise AttributeError(name)

        def call(*given: object) -> int:
            values = [getattr(one, "_obj", one) for one in given]
            assert len(values) == len(self.SIGNATURES[name])
            assert all(isinstance(v, kind) for v, kind in zip(values, self.SIGNATURES[name], strict=True)), name
            if name == "cuGetErrorString":
                values[1].value = b"out of memory" if values[0].value == 2 else b"unknown error"
                return 0
            if self.answer:
                return self.answer
            getattr(self, f"do_{name.removeprefix('cu').split('_')[0]}", lambda *_: None)(*values)
            return 0

        call.__name__ = name
        return call

    def new(self, raw: ctypes.c_void_p, kind: str) -> None:
        raw.value = 1 + max(self.alive, default=0) + len(self.launched)
        self.alive[raw.value] = kind

    def give(self, stream: ctypes.c_void_p, work) -> None:  # type: ignore[no-untyped-def]
        assert self.alive[stream.value] == "stream"
        self._capturing[stream.value].append(work) if stream.value in self._capturing else work()

    def do_CtxGetStreamPriorityRange(self, lowest, highest) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        lowest.value, highest.value = 0, -5

    def do_StreamCreateWithPriority(self, raw, flags, priority) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        assert flags.value == 1
        self.priorities.append(priority.value)
        self.new(raw, "stream")

    def do_EventCreate(self, raw, flags) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        assert flags.value == 1 | 2  # whoever waits sleeps; no timing
        self.new(raw, "event")

    def do_ModuleLoadData(self, raw, ptx) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        assert ptx.value.startswith(b".version")
        self.new(raw, "module")

    def gone(self, raw: ctypes.c_void_p) -> None:
        del self.alive[raw.value]

    do_StreamDestroy = do_EventDestroy = do_ModuleUnload = do_GraphDestroy = do_GraphExecDestroy = gone  # noqa: N815

    def do_MemcpyHtoDAsync(self, to, source, size, stream) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self.give(stream, lambda: ctypes.memmove(to.value, source.value, size.value))

    def do_MemcpyDtoHAsync(self, to, source, size, stream) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self.give(stream, lambda: ctypes.memmove(to.value, source.value, size.value))

    def do_MemsetD8Async(self, to, value, size, stream) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self.give(stream, lambda: ctypes.memset(to.value, value.value, size.value))

    def do_LaunchKernel(self, function, *given) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        *sizes, stream, pointers, _ = given
        values = [ctypes.c_int.from_address(pointer).value for pointer in pointers]
        self.give(stream, lambda: self.launched.append((*(size.value for size in sizes), values)))

    def do_StreamBeginCapture(self, stream, mode) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        assert mode.value == 1
        self._capturing[stream.value] = []

    def do_StreamEndCapture(self, stream, raw) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self.new(raw, "graph")
        self._graphs[raw.value] = self._capturing.pop(stream.value)

    def do_GraphInstantiateWithFlags(self, raw, graph, flags) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self.new(raw, "executable")
        self._graphs[raw.value] = self._graphs[graph.value]

    def do_GraphLaunch(self, raw, stream) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        for work in self._graphs[raw.value]:
            self.give(stream, work)


class FakeMemory:
    """What PyCUDA's `mem_alloc` gives, in this computer's memory."""

    def __init__(self, nbytes: int) -> None:
        if nbytes > 1 << 29:
            raise DriverMemoryError("cuMemAlloc failed: out of memory")
        self._whole = np.zeros(nbytes + 256, np.uint8)

    def __int__(self) -> int:
        return -(-self._whole.ctypes.data // 256) * 256

    def free(self) -> None:
        del self._whole


def adapter(driver: FakeDriver) -> Device:
    """The real adapter over a PyCUDA and a driver that only pretend."""
    context = SimpleNamespace(push=lambda: None, detach=lambda: None)
    made = SimpleNamespace(
        name=lambda: "a GPU", compute_capability=lambda: (8, 9), retain_primary_context=lambda: context
    )
    patch = pytest.MonkeyPatch()
    patch.setattr("scanside.engine.cuda._libcuda", lambda: driver)
    a_driver(
        patch,
        Device=lambda index: made,
        Context=SimpleNamespace(pop=lambda: None),
        mem_alloc=FakeMemory,
        mem_get_info=lambda: (1 << 29, 1 << 30),
        pagelocked_empty=lambda shape, dtype: np.empty(shape, dtype),
    )
    opened = open_device()
    opened.undo = patch.undo  # type: ignore[attr-defined]
    return opened


def gpu() -> Device:
    try:
        return open_device()
    except EngineError as error:
        pytest.skip(f"no GPU: {error.what}")


@pytest.fixture(
    params=[
        pytest.param(lambda: StandInDevice(), id="late"),
        *(pytest.param(lambda seed=seed: StandInDevice(seed), id=f"order {seed}") for seed in range(4)),
        pytest.param(lambda: adapter(FakeDriver()), id="adapter over a fake driver"),
        pytest.param(gpu, id="gpu", marks=pytest.mark.gpu),
    ]
)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    opened = request.param()
    with opened.active():
        yield opened
    getattr(opened, "undo", lambda: None)()


def test_a_copy_goes_in_and_comes_out(device: Device) -> None:
    stream = device.stream()
    sent, got = device.pinned((4, 5), TYPE), device.pinned((4, 5), TYPE)
    sent[...] = np.arange(20).reshape(4, 5)
    got[...] = 0
    buffer = device.allocate(sent.nbytes)
    assert buffer.address % 256 == 0
    device.copy_in(buffer, sent, stream)
    device.copy_out(got, buffer, stream)
    stream.synchronize()
    assert np.array_equal(got, sent)
    device.fill(buffer, 0, stream)
    device.copy_out(got[:2], buffer, stream)
    stream.synchronize()
    assert np.array_equal(got[:2], np.zeros((2, 5)))
    assert np.array_equal(got[2:], sent[2:])
    buffer.free()
    buffer.free()


def test_a_copy_goes_in_at_an_offset(device: Device) -> None:
    stream, bytes_ = device.stream(), np.dtype(np.uint8)
    sent, got = device.pinned((8,), bytes_), device.pinned((64,), bytes_)
    sent[...] = 5
    buffer = device.allocate(64)
    device.fill(buffer, 0, stream)
    device.copy_in(buffer, sent, stream, offset=16)
    device.copy_out(got, buffer, stream)
    stream.synchronize()
    assert np.flatnonzero(got).tolist() == list(range(16, 24))
    for array in (sent, got):
        device.unpin(array)


def test_an_event_orders_two_streams(device: Device) -> None:
    first, second, event = device.stream(), device.stream(), device.event()
    buffer = device.allocate(64)
    host = device.pinned((64,), np.dtype(np.uint8))
    for value in range(8):
        device.fill(buffer, value, first)
        event.record(first)
        second.wait(event)
        device.copy_out(host, buffer, second)
        second.synchronize()
        assert (host == value).all()


def test_an_event_waits_for_what_came_before_it_only(device: Device) -> None:
    stream, event = device.stream(), device.event()
    host = device.pinned((64,), np.dtype(np.uint8))
    buffer = device.allocate(64)
    device.fill(buffer, 3, stream)
    device.copy_out(host, buffer, stream)
    event.record(stream)
    event.synchronize()
    assert (host == 3).all()


def test_captured_work_is_done_when_launched(device: Device) -> None:
    stream = device.stream()
    buffer = device.allocate(64)
    host = device.pinned((64,), np.dtype(np.uint8))
    device.fill(buffer, 1, stream)
    with device.capture(stream) as capture:
        device.fill(buffer, 9, stream)
    device.copy_out(host, buffer, stream)
    stream.synchronize()
    assert (host == 1).all()
    assert capture.graph is not None
    capture.graph.launch(stream)
    device.copy_out(host, buffer, stream)
    stream.synchronize()
    assert (host == 9).all()
    capture.graph.free()
    capture.graph.free()


def test_a_capture_that_fails_leaves_the_stream_usable(device: Device) -> None:
    stream = device.stream()
    buffer = device.allocate(64)
    host = device.pinned((64,), np.dtype(np.uint8))
    with pytest.raises(ZeroDivisionError), device.capture(stream):
        raise ZeroDivisionError
    device.fill(buffer, 5, stream)
    device.copy_out(host, buffer, stream)
    stream.synchronize()
    assert (host == 5).all()


def test_no_room_is_an_error_of_its_own(device: Device) -> None:
    with pytest.raises(OutOfDeviceMemory):
        device.allocate(device.free_bytes() + (1 << 30))


def test_a_device_says_what_it_is(device: Device) -> None:
    assert device.name
    major, minor = device.compute_capability
    assert major >= 5
    assert minor >= 0
    assert device.driver.count(".") == 1


def test_a_thread_without_the_device_is_refused() -> None:
    device = StandInDevice()
    with pytest.raises(EngineError, match="no GPU is current"):
        device.stream()


def test_late_work_is_done_only_when_waited_for() -> None:
    device = StandInDevice()
    with device.active():
        stream = device.stream()
        host = np.ones(4, np.uint8)
        buffer = device.allocate(4)
        device.copy_in(buffer, host, stream)
        host[...] = 7  # as on a GPU: what the copy finds when it runs
        device.copy_out(host, buffer, stream)
        stream.synchronize()
    assert (host == 7).all()


def test_freed_memory_is_a_fault_that_stays() -> None:
    device = StandInDevice()
    with device.active():
        stream, other = device.stream(), device.stream()
        buffer = device.allocate(4)
        device.fill(buffer, 1, stream)
        buffer.free()
        with pytest.raises(EngineError, match="an illegal memory access"):
            stream.synchronize()
        device.fill(device.allocate(4), 1, other)
        with pytest.raises(EngineError, match="work on the GPU failed"):
            other.synchronize()


def test_without_pycuda_the_remedy_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
    with pytest.raises(EngineError, match="PyCUDA is not installed") as caught:
        open_device()
    assert "scanside[rtx]" in str(caught.value)


class DriverMemoryError(Exception):
    """Stands for PyCUDA's class of the name, which is no relative of Python's."""


DriverMemoryError.__name__ = "MemoryError"


def a_driver(monkeypatch: pytest.MonkeyPatch, **parts: object) -> None:
    """`pycuda.driver` with these parts only."""
    package, driver = ModuleType("pycuda"), ModuleType("pycuda.driver")
    driver.__dict__.update(init=lambda: None, get_driver_version=lambda: 13010, **parts)
    package.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)


def test_a_driver_without_a_gpu_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_device(index: int) -> None:
        raise RuntimeError("cuDeviceGet failed: no CUDA-capable device is detected")

    a_driver(monkeypatch, Device=no_device)
    with pytest.raises(EngineError, match=r"no GPU answers.*no CUDA-capable device"):
        open_device()


def test_only_the_primary_context_is_used_and_its_memory_errors_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    context = SimpleNamespace(push=lambda: calls.append("push"), detach=lambda: None)

    def full(nbytes: int) -> None:
        raise DriverMemoryError("cuMemAlloc failed: out of memory")

    made = SimpleNamespace(
        name=lambda: "a GPU", compute_capability=lambda: (8, 9), retain_primary_context=lambda: context
    )
    popping = SimpleNamespace(pop=lambda: calls.append("pop"))
    a_driver(monkeypatch, Device=lambda index: made, Context=popping, mem_alloc=full)
    device = open_device()
    assert (device.name, device.compute_capability, device.driver) == ("a GPU", (8, 9), "13.1")
    with device.active(), pytest.raises(OutOfDeviceMemory, match=r"out of memory.*smaller --batch"):
        device.allocate(8)
    assert calls == ["push", "pop"]


def test_streams_have_the_lowest_priority_and_kernels_their_arguments() -> None:
    driver = FakeDriver()
    device = adapter(driver)
    stream, event = device.stream(), device.event()
    kernel = device.kernel(ptx("section_kernel"), "cut_section")
    arguments = [*(ctypes.c_int(n) for n in range(3)), ctypes.c_longlong(7), ctypes.c_void_p(11)]
    kernel.launch(stream, (2, 3), (32, 8), arguments)
    assert driver.priorities == [0]
    assert driver.launched == [(2, 3, 1, 32, 8, 1, 0, [0, 1, 2, 7, 11])]
    for thing in (stream, event, kernel):
        thing.free()
        thing.free()
    assert driver.alive == {}
    device.undo()  # type: ignore[attr-defined]


def test_what_the_driver_answers_is_an_error_with_its_words() -> None:
    driver = FakeDriver()
    device = adapter(driver)
    stream = device.stream()
    driver.answer = 700
    with pytest.raises(EngineError, match=r"work on the GPU failed.*cuStreamSynchronize: unknown error \(code 700\)"):
        stream.synchronize()
    driver.answer = 2
    with pytest.raises(OutOfDeviceMemory, match=r"a stream cannot be made.*out of memory"):
        device.stream()
    device.undo()  # type: ignore[attr-defined]

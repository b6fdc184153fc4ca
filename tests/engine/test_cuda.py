"""One contract for every device of the CUDA layer: the stand-in, late and in random orders, and a GPU, if any."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from scanside.engine.cuda import Device, OutOfDeviceMemory, open_device
from scanside.engine.cuda_stand_in import StandInDevice
from scanside.errors import EngineError

TYPE = np.dtype(np.float32)


def gpu() -> Device:
    try:
        return open_device()
    except EngineError as error:
        pytest.skip(f"no GPU: {error.what}")


@pytest.fixture(
    params=[
        pytest.param(lambda: StandInDevice(), id="late"),
        *(pytest.param(lambda seed=seed: StandInDevice(seed), id=f"order {seed}") for seed in range(4)),
        pytest.param(gpu, id="gpu", marks=pytest.mark.gpu),
    ]
)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    opened = request.param()
    with opened.active():
        yield opened


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

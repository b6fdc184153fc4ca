"""One execution context at work: pinned slots in a ring, and copies in, computing and copies out in three streams.

A slot holds one batch from end to end. Its copy in runs in the first stream, its computing in the second after an event
says that the copy is there, its copy out in the third after an event says that the answer is. So while slot 0 computes,
slot 1 is filled and slot 2 emptied. A slot is used again only after its copy out has been waited for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scanside.engine.cuda import Buffer, Event, Graph
from scanside.engine.runtime import Input
from scanside.engine.tensorrt.profiles import Shape
from scanside.engine.tensorrt.session import Engine
from scanside.errors import EngineError

Tensors = Mapping[str, NDArray]


@dataclass
class _Slot:
    """Room for one batch on both sides, and the events of its way."""

    host: dict[str, NDArray]
    device: dict[str, Buffer]
    copied_in: Event
    computed: Event
    copied_out: Event
    graph: Graph | None = None
    job: Job | None = None
    outputs: Tensors = field(default_factory=dict)
    """Where the answer goes: views of the caller's arrays."""


class Job:
    """A run in progress. `wait` ends it; the caller's arrays must live until then."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.slots_left = 0
        self.error: BaseException | None = None

    def wait(self) -> None:
        """Wait until the outputs are filled.

        Raises
        ------
        EngineError
            The run failed.
        """
        self._worker.finish(self)
        if self.error is not None:
            raise self.error


class Worker:
    """One execution context with its memory. One thread at a time is inside; others wait.

    Parameters
    ----------
    engine : Engine
    profile : int
    shapes : mapping
        The shape of each input for a full batch. Shorter batches compute a full one and drop the rest, so every run
        has the same shapes, and an answer does not depend on what else is in its batch.
    slots : int

    Raises
    ------
    OutOfDeviceMemory
        The GPU has no room.
    EngineError
        TensorRT refuses a step.
    """

    def __init__(self, engine: Engine, profile: int, shapes: Mapping[str, Shape], slots: int) -> None:
        self._engine = engine
        self._device = device = engine.device
        self.batch = next(iter(shapes.values()))[0]
        self._lock = threading.RLock()
        self._next = 0
        self._slots: list[_Slot] = []
        self._memory: Buffer | None = None
        with device.active():
            self._in, self._compute, self._out = device.stream(), device.stream(), device.stream()
            self._context = engine.context(profile, shapes, self._compute.handle)
            self._compute.synchronize()  # choosing a profile may copy
            try:
                what = "the context's memory cannot be set"
                size = engine.call(what, self._context.update_device_memory_size_for_shapes)
                self._memory = device.allocate(max(1, int(size)))
                engine.call(what, self._context.set_device_memory, self._memory.address, self._memory.nbytes)
                for _ in range(slots):
                    self._slots.append(self._slot(shapes))
            except BaseException:
                self.close()
                raise

    @property
    def uses_graphs(self) -> bool:
        """Whether runs replay CUDA graphs."""
        return all(slot.graph is not None for slot in self._slots)

    def submit(self, inputs: Mapping[str, Input], outputs: Tensors) -> Job:
        """Start a run of any number of items; waits only while every slot is taken.

        Raises
        ------
        EngineError
            A call of CUDA or TensorRT failed.
        """
        job = Job(self)
        total = len(next(iter(inputs.values())))
        with self._lock, self._device.active():
            for first in range(0, total, self.batch):
                slot = self._slots[self._next]
                self._next = (self._next + 1) % len(self._slots)
                self._empty(slot)
                last = min(total, first + self.batch)
                try:
                    self._start(
                        slot,
                        {name: array[first:last] for name, array in inputs.items()},
                        {name: array[first:last] for name, array in outputs.items()},
                    )
                except BaseException:
                    self._settle()
                    raise
                slot.job = job
                job.slots_left += 1
        return job

    def finish(self, job: Job) -> None:
        """Empty the slots that `job` still holds, the oldest first."""
        with self._lock:
            if job.slots_left:
                with self._device.active():
                    for slot in self._slots[self._next :] + self._slots[: self._next]:
                        if slot.job is job:
                            self._empty(slot)

    def warm(self) -> str:
        """Run once plainly, capture a CUDA graph a slot, and compare the two once. Returns why there are no graphs.

        Raises
        ------
        EngineError
            The plain run failed.
        """
        rng = np.random.default_rng(0)
        with self._lock, self._device.active():
            for slot in self._slots:
                for spec in self._engine.inputs:
                    array = slot.host[spec.name]
                    array[...] = rng.integers(0, 256, array.shape).astype(array.dtype)
            plain = [self._trial(slot) for slot in self._slots]
            capturable = getattr(self._context, "is_stream_capturable", None)
            if capturable is not None and not capturable(self._compute.handle):
                return "no CUDA graph: TensorRT says the plan cannot be captured"
            try:
                for slot in self._slots:
                    with self._device.capture(self._compute) as capture:
                        self._enqueue(slot)
                    slot.graph = capture.graph
                replayed = [self._trial(slot) for slot in self._slots]
            except EngineError as error:
                self._forget_graphs()
                return f"no CUDA graph: {error.what}: {error.found}"
            if plain != replayed:
                self._forget_graphs()
                return "no CUDA graph: its answer was not the plain run's"
        return ""

    def close(self) -> None:
        """Wait for what runs and free everything. Safe to call twice."""
        with self._lock, self._device.active():
            self._free()

    def _free(self) -> None:
        # A method of its own: pinned memory and events go with the last name that holds them, and PyCUDA can give them
        # back only while the GPU is current in this thread.
        for slot in self._slots:
            self._empty(slot)
        self._forget_graphs()
        self._context = None
        for slot in self._slots:
            for buffer in slot.device.values():
                buffer.free()
        self._slots = []
        if self._memory is not None:
            self._memory.free()
        for stream in (self._in, self._compute, self._out):
            stream.free()

    def _slot(self, shapes: Mapping[str, Shape]) -> _Slot:
        device = self._device
        sizes = dict(shapes)
        for spec in self._engine.outputs:
            sizes[spec.name] = tuple(int(size) for size in self._context.get_tensor_shape(spec.name))
        dtypes = {spec.name: spec.dtype for spec in (*self._engine.inputs, *self._engine.outputs)}
        slot = _Slot({}, {}, device.event(), device.event(), device.event())
        try:
            for name, shape in sizes.items():
                slot.host[name] = device.pinned(shape, dtypes[name])
                slot.host[name][...] = 0
                slot.device[name] = device.allocate(slot.host[name].nbytes)
                device.fill(slot.device[name], 0, self._in)
        except BaseException:
            for buffer in slot.device.values():
                buffer.free()
            raise
        return slot

    def _start(self, slot: _Slot, inputs: Mapping[str, Input], outputs: Tensors) -> None:
        slot.outputs = outputs
        for name, given in inputs.items():
            if isinstance(given, np.ndarray):
                pinned = slot.host[name][: len(given)]
                np.copyto(pinned, given)
                self._device.copy_in(slot.device[name], pinned, self._in)
            else:
                given.make(slot.device[name], self._in)
        slot.copied_in.record(self._in)
        self._compute.wait(slot.copied_in)
        if slot.graph is None:
            self._enqueue(slot)
        else:
            slot.graph.launch(self._compute)
        slot.computed.record(self._compute)
        self._out.wait(slot.computed)
        for name, array in outputs.items():
            self._device.copy_out(slot.host[name][: len(array)], slot.device[name], self._out)
        slot.copied_out.record(self._out)

    def _enqueue(self, slot: _Slot) -> None:
        for name, buffer in slot.device.items():
            self._engine.call(
                f"the address of {name} is refused", self._context.set_tensor_address, name, buffer.address
            )
        self._engine.call("the run was refused", self._context.execute_async_v3, self._compute.handle)

    def _empty(self, slot: _Slot) -> None:
        """Wait for the slot's batch and hand the answer to the job it belongs to."""
        job, outputs = slot.job, slot.outputs
        if job is None:
            return
        slot.job, slot.outputs = None, {}
        job.slots_left -= 1
        try:
            slot.copied_out.synchronize()
            for name, array in outputs.items():
                np.copyto(array, slot.host[name][: len(array)])
        except BaseException as error:  # belongs to the job's caller, who may be another thread
            job.error = job.error or error

    def _trial(self, slot: _Slot) -> list[bytes]:
        """The answer to what lies in the slot's pinned inputs."""
        names = {spec.name: slot.host[spec.name] for spec in self._engine.inputs}
        answer = {spec.name: np.empty_like(slot.host[spec.name]) for spec in self._engine.outputs}
        job = Job(self)
        self._start(slot, names, answer)
        slot.job, job.slots_left = job, 1
        self._empty(slot)
        if job.error is not None:
            raise job.error
        return [array.tobytes() for array in answer.values()]

    def _settle(self) -> None:
        """Wait for whatever a failed run has started: its slots are free afterwards."""
        for slot in self._slots:
            self._empty(slot)
        for stream in (self._in, self._compute, self._out):
            with contextlib.suppress(EngineError):
                stream.synchronize()

    def _forget_graphs(self) -> None:
        for slot in self._slots:
            if slot.graph is not None:
                slot.graph.free()
                slot.graph = None

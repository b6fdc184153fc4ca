"""One network at work on a GPU: pinned slots in a ring, and copies in, computing and copies out in three streams.

What computes is a `Program`: TensorRT's execution context, or a session of ONNX Runtime. A slot holds one batch from
end to end. Its copy in runs in the first stream, its computing in the second after an event says that the copy is
there, its copy out in the third after an event says that the answer is. So while slot 0 computes, slot 1 is filled and
slot 2 emptied. A slot is used again only after its copy out has been waited for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.engine.cuda import Buffer, Device, Event, Graph, Owned, Stream
from scanside.engine.runtime import Input, TensorSpec
from scanside.engine.tensorrt.profiles import Profile, Shape
from scanside.errors import EngineError

Tensors = Mapping[str, NDArray]


class Program(Protocol):
    """A network made ready to compute batches of one shape in one stream."""

    @property
    def memory(self) -> int:
        """Bytes of device memory it works in; 0 if it has its own."""

    def use(self, memory: Buffer) -> None:
        """Work in `memory`."""

    def shape(self, output: str) -> Shape:
        """The shape of an output for a full batch."""

    def bind(self, buffers: Mapping[str, Buffer]) -> Callable[[], None]:
        """What gives one run to the stream, from and into these buffers."""

    def refusal(self) -> str:
        """Why its runs cannot be captured in a CUDA graph; empty if they can."""

    def free(self) -> None:
        """Give back what it holds on the GPU, at once. Safe to call twice."""


class Network(Protocol):
    """A network on a GPU, of which programs are made."""

    @property
    def name(self) -> str:
        """Runtime and device, as it appears in the report."""

    @property
    def where(self) -> str:
        """What errors call it."""

    @property
    def device(self) -> Device: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def profiles(self) -> tuple[Profile, ...]: ...

    def profile_for(self, shapes: Mapping[str, Shape]) -> int:
        """The profile that takes inputs of these shapes.

        Raises
        ------
        EngineError
            None does.
        """

    def program(self, profile: int, shapes: Mapping[str, Shape], stream: Stream) -> Program:
        """One that computes full batches of `shapes` in `stream`.

        Raises
        ------
        EngineError
            The runtime refuses a step.
        """

    def close(self) -> None:
        """Whoever has it needs it no more; its programs are freed. What all share goes with the last one."""


@dataclass
class _Slot:
    """Room for one batch on both sides, and the events of its way."""

    host: dict[str, NDArray]
    device: dict[str, Buffer]
    copied_in: Event
    computed: Event
    copied_out: Event
    enqueue: Callable[[], None] = lambda: None
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
    """One program with its memory. One thread at a time is inside; others wait.

    Parameters
    ----------
    network : Network
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
        The runtime refuses a step.
    """

    def __init__(self, network: Network, profile: int, shapes: Mapping[str, Shape], slots: int) -> None:
        self._network = network
        self._device = device = network.device
        self.batch = next(iter(shapes.values()))[0]
        self._lock = threading.RLock()
        self._next = 0
        self._slots: list[_Slot] = []
        self._owned = Owned(device)
        self._streams: list[Stream] = []
        self._program: Program | None = None
        with device.active():
            try:
                for _ in range(3):
                    self._streams.append(self._owned.push(device.stream()))
                self._in, self._compute, self._out = self._streams
                self._program = program = network.program(profile, shapes, self._compute)
                self._compute.synchronize()  # making it may copy
                if program.memory:
                    program.use(self._owned.push(device.allocate(program.memory)))
                for _ in range(slots):
                    self._slots.append(self._slot(program, shapes))
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
            It is closed, or a call of CUDA or of the runtime failed.
        """
        job = Job(self)
        total = len(next(iter(inputs.values())))
        with self._lock, self._device.active():
            if self._program is None:
                raise EngineError("the runtime is closed", where=self._network.where)
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
                for spec in self._network.inputs:
                    array = slot.host[spec.name]
                    array[...] = rng.integers(0, 256, array.shape).astype(array.dtype)
            plain = [self._trial(slot) for slot in self._slots]
            refusal = self._program.refusal() if self._program is not None else ""
            if refusal:
                return f"no CUDA graph: {refusal}"
            try:
                for slot in self._slots:
                    with self._device.capture(self._compute) as capture:
                        slot.enqueue()
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
        """Hand out the answers of what runs, then free everything. Safe to call twice."""
        with self._lock, self._device.active():
            self._settle()
            self._forget_graphs()
            if self._program is not None:
                self._program.free()
            self._slots, self._streams, self._program = [], [], None
            self._owned.free()

    def _slot(self, program: Program, shapes: Mapping[str, Shape]) -> _Slot:
        device, own = self._device, self._owned.push
        sizes = {**shapes, **{spec.name: program.shape(spec.name) for spec in self._network.outputs}}
        dtypes = {spec.name: spec.dtype for spec in (*self._network.inputs, *self._network.outputs)}
        slot = _Slot({}, {}, own(device.event()), own(device.event()), own(device.event()))
        for name, shape in sizes.items():
            # Inputs too, though sections are made on the device: trial runs, golden cases and black sections come from
            # here, and memory pinned later would be pinned in the middle of an exam.
            slot.host[name] = self._owned.pinned(shape, dtypes[name])
            slot.host[name][...] = 0
            slot.device[name] = own(device.allocate(slot.host[name].nbytes))
            device.fill(slot.device[name], 0, self._in)
        slot.enqueue = program.bind(slot.device)
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
            slot.enqueue()
        else:
            slot.graph.launch(self._compute)
        slot.computed.record(self._compute)
        self._out.wait(slot.computed)
        for name, array in outputs.items():
            self._device.copy_out(slot.host[name][: len(array)], slot.device[name], self._out)
        slot.copied_out.record(self._out)

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
        names = {spec.name: slot.host[spec.name] for spec in self._network.inputs}
        answer = {spec.name: np.empty_like(slot.host[spec.name]) for spec in self._network.outputs}
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
        for stream in self._streams:
            with contextlib.suppress(EngineError):
                stream.synchronize()

    def _forget_graphs(self) -> None:
        for slot in self._slots:
            if slot.graph is not None:
                slot.graph.free()
                slot.graph = None

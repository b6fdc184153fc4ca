"""A network on a GPU as a runtime: workers that take turns."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from contextlib import ExitStack

from scanside.engine.cuda import Device, OutOfDeviceMemory
from scanside.engine.cuda_worker import Network, Tensors, Worker
from scanside.engine.runtime import Input, Pending, Runtime, TensorSpec, require_tensors
from scanside.engine.tensorrt.profiles import Shape
from scanside.errors import EngineError
from scanside.pack import ClassifierSpec, SegmenterSpec

WORKERS = 2
SLOTS = 2


def in_flight_of(spec: SegmenterSpec | ClassifierSpec) -> dict[str, int]:
    """Workers and slots of a network: sections are kept under way, triplets come one batch at a time."""
    many = isinstance(spec, SegmenterSpec)
    return {"workers": WORKERS if many else 1, "slots": SLOTS if many else 1}


class CudaRuntime(Runtime):
    """One network at one size on one GPU.

    Parameters
    ----------
    network : Network
        It is closed with the runtime, and also if that cannot be made.
    precision : str
        What its graph computes in.
    dims : mapping
        Sizes of the free axes after the batch, in the order of the axes: {"height": 96, "width": 256}.
    remarks : tuple of str
        What the report should say besides.
    workers, slots : int
        Programs (TensorRT: execution contexts), and batches in flight on each.

    Raises
    ------
    EngineError
        No profile takes this size, the runtime refuses a step, or the GPU has no room for a single smallest batch.
    """

    def __init__(
        self,
        network: Network,
        precision: str,
        dims: Mapping[str, int],
        *,
        remarks: tuple[str, ...] = (),
        workers: int = WORKERS,
        slots: int = SLOTS,
    ) -> None:
        self._network = network
        self._precision = precision
        self._in_flight = workers * slots
        self._lock = threading.Lock()
        with ExitStack() as held:
            held.callback(network.close)
            self._sizes = {spec.name: _sized(spec, tuple(dims.values()), network.where) for spec in network.inputs}
            self._profile = network.profile_for(self._sizes)
            self._workers, self.batch, found = self._made(workers, slots)
            for worker in self._workers:
                held.callback(worker.close)
            self._held = held.pop_all()
        self._turn = itertools.cycle(self._workers)
        most = network.profiles[self._profile].most
        if self.batch < most:
            found.append(f"batch {self.batch} instead of {most}: the GPU has no more room")
        self.fallbacks = (*remarks, *dict.fromkeys(filter(None, found)))

    @property
    def name(self) -> str:
        return self._network.name

    @property
    def precision(self) -> str:
        return self._precision

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def uses_graphs(self) -> bool:
        """Whether its runs replay CUDA graphs."""
        return all(worker.uses_graphs for worker in self._workers)

    @property
    def gpu(self) -> Device:
        return self._network.device

    @property
    def device_name(self) -> str:
        return self._network.device.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._specs(self._network.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._specs(self._network.outputs)

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        self.submit(inputs, outputs).wait()

    def submit(self, inputs: Mapping[str, Input], outputs: Tensors) -> Pending:
        require_tensors(self._network.where, self.inputs, inputs, self.outputs, outputs)
        with self._lock:
            worker = next(self._turn)
        return worker.submit(inputs, outputs)

    def close(self) -> None:
        """Free it. Runs that were started still get their answers."""
        with self._lock:
            held = self._held.pop_all()
        held.close()

    def _made(self, workers: int, slots: int) -> tuple[list[Worker], int, list[str]]:
        """The workers, warm, and their remarks.

        They run the profile's largest batch or, where the GPU has no room, one half as large, and so on.
        """
        profile = self._network.profiles[self._profile]
        batch = profile.most
        while True:
            made: list[Worker] = []
            shapes = {name: (batch, *size[1:]) for name, size in self._sizes.items()}
            try:
                for _ in range(workers):
                    made.append(Worker(self._network, self._profile, shapes, slots))
                return made, batch, [worker.warm() for worker in made]
            except BaseException as error:
                for worker in made:
                    worker.close()
                if not isinstance(error, OutOfDeviceMemory):
                    raise
                if batch <= profile.fewest:
                    raise EngineError(
                        "the GPU has no room for a single batch",
                        where=f"{self._network.where}: batch {batch} on {self._network.device.name}",
                        found=error.found,
                        remedy="close other programs on the GPU, or run with device cpu",
                    ) from error
                batch = max(profile.fewest, batch // 2)

    def _specs(self, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """The network's tensors at this runtime's size."""
        return tuple(
            TensorSpec(s.name, s.dtype, (None, *self._sizes[s.name][1:])) if s.name in self._sizes else s for s in specs
        )


def _sized(spec: TensorSpec, free: tuple[int, ...], where: str) -> Shape:
    """The input's shape with its free axes after the batch filled in; the batch is -1."""
    wanted = sum(size is None for size in spec.shape[1:])
    if wanted != len(free):
        raise EngineError(
            "the plan has other free axes than the graph's",
            where=f"{where}: {spec.name}",
            expected=len(free),
            found=wanted,
        )
    sizes = iter(free)
    return (-1, *(next(sizes) if size is None else size for size in spec.shape[1:]))

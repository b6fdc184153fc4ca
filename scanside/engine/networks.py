"""The pack's two networks on a runtime: the segmenter with one session a section size, and the classifier."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.engine.device_volume import DeviceVolumes
from scanside.engine.onnxruntime import load_runtime
from scanside.engine.runtime import Input, Pending, Runtime
from scanside.engine.sections import HostVolume, Source, padded_shape
from scanside.engine.sessions import Sessions
from scanside.engine.triplets import CropRule
from scanside.errors import EngineError, PackError
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.volume import Voxels
from scanside.pack import ClassifierSpec, SegmenterSpec


class Segmenter:
    """Sections in, probabilities out. Safe to use from several threads.

    Parameters
    ----------
    graph : bytes
        The segmenter's ONNX graph, height and width free.
    spec : SegmenterSpec
        From the pack's manifest.
    **how
        `device`, `precision` and `threads` of `load_runtime`.
    """

    def __init__(self, graph: bytes, spec: SegmenterSpec, **how: Any) -> None:
        self.spec = spec
        self.planes = tuple(plane for plane in Plane if plane.value in spec.planes)
        self._graph = graph
        self._how = how
        self._sessions = Sessions(self._session)
        self._blank: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._volumes: DeviceVolumes | None = None
        self._lock = threading.Lock()

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """The sessions that are there (see `Sessions`)."""
        return self._sessions.all

    def runtime(self, height: int, width: int) -> Runtime:
        """The session for sections of this size, made at the first call.

        Raises
        ------
        EngineError
            The graph does not load, or breaks the graph contract.
        """
        return self._sessions.get(height, width)

    def run(self, pixels: NDArray[np.uint8], probability: NDArray[np.uint8]) -> None:
        """Probabilities of `pixels` into `probability`, both uint8 [n, 1, height, width].

        Raises
        ------
        EngineError
            The runtime failed.
        """
        self.submit(pixels, probability).wait()

    def blank(self, height: int, width: int) -> NDArray[np.uint8]:
        """The probabilities of a section of which every pixel is zero, uint8 [height, width]. Computed once."""
        answer = self._blank.get((height, width))
        if answer is None:
            answer = np.empty((1, 1, height, width), np.uint8)
            self.run(np.zeros_like(answer), answer)
            self._blank[height, width] = answer = answer[0, 0]
        return answer

    @contextmanager
    def source(self, grids: Mapping[Plane, SectionGrid], voxels: Voxels) -> Iterator[Source]:
        """Where the sections of `voxels` are cut, for the length of the block: on the GPU, if the networks run there.

        A GPU that cannot hold the volume is no error: sections are cut here, and the source's `remark` says why.
        """
        sizes = [padded_shape(grid.shape, self.spec.size_multiple) for grid in grids.values()]
        gpu = self.runtime(*sizes[0]).gpu
        if gpu is None:
            yield HostVolume(voxels)
            return
        with self._lock:
            self._volumes = volumes = self._volumes or DeviceVolumes(gpu)
        try:
            volume = volumes.take(grids)
        except EngineError as error:
            yield HostVolume(voxels, f"sections are cut on the processor: {error.what}: {error.found}")
            return
        try:
            volume.begin(voxels)
            yield volume
        finally:
            volumes.give_back(volume)

    def in_flight(self, height: int, width: int) -> int:
        """How many batches of this size are worth having under way at once; see `Runtime.in_flight`."""
        return self.runtime(height, width).in_flight

    def submit(self, pixels: Input, probability: NDArray[np.uint8]) -> Pending:
        """Start what `run` does; see `Runtime.submit`."""
        height, width = pixels.shape[-2:]
        inputs, outputs = {self.spec.input: pixels}, {self.spec.output: probability}
        return self._sessions.run(height, width, lambda session: session.submit(inputs, outputs))

    def close(self) -> None:
        """Free all sessions."""
        with self._lock:
            if self._volumes is not None:
                self._volumes.close()
                self._volumes = None
        self._sessions.close()

    def _session(self, height: int, width: int) -> Runtime:
        dims = {"height": height, "width": width}
        session = load_runtime(self._graph, dims=dims, name=self.spec.graph, spec=self.spec, **self._how)
        _obey(session, self.spec.graph, {self.spec.input: np.uint8}, {self.spec.output: np.uint8})
        return session


class Classifier:
    """Triplets in, P(malignant) out. Safe to use from several threads."""

    def __init__(self, graph: bytes, spec: ClassifierSpec, **how: Any) -> None:
        self.spec = spec
        self.rule = CropRule(spec.frames, spec.margin, spec.size, tuple(p for p in Plane if p.value in spec.inputs))
        self._tensors = {plane: spec.inputs[plane.value] for plane in self.rule.planes}
        self.runtime = load_runtime(graph, network="classifier", name=spec.graph, spec=spec, **how)
        outputs = [spec.output] if spec.heatmaps is None else [spec.output, spec.heatmaps]
        _obey(
            self.runtime,
            spec.graph,
            dict.fromkeys(self._tensors.values(), np.uint8),
            dict.fromkeys(outputs, np.float32),
        )

    def run(self, crops: Mapping[Plane, NDArray[np.uint8]]) -> NDArray[np.float32]:
        """P(malignant) of each triplet, float32 [n].

        Raises
        ------
        EngineError
            The runtime failed, or answered what is no probability (NaN, infinite, outside 0 to 1).
        """
        return self._run(crops, {})

    def run_explained(
        self, crops: Mapping[Plane, NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `run`, and the heatmaps of the predicted class, float32 [n, planes, h, w].

        Raises
        ------
        EngineError
            As `run`; or a heatmap is not finite.
        PackError
            The graph draws no heatmaps.
        """
        require_heatmaps(self.spec)
        (shape,) = (out.shape[1:] for out in self.runtime.outputs if out.name == self.spec.heatmaps)
        fixed = tuple(n for n in shape if n is not None)
        if len(shape) != 3 or len(fixed) != 3 or fixed[0] != len(self._tensors):
            raise EngineError(
                "the graph's heatmaps are not what the contract says",
                where=f"{self.spec.graph}: {self.spec.heatmaps}",
                expected=f"[batch, {len(self._tensors)}, h, w]",
                found=str(list(shape)),
                remedy="make the pack again with `scanside pack create`",
            )
        heatmaps = np.empty((len(next(iter(crops.values()))), *fixed), np.float32)
        probability = self._run(crops, {self.spec.heatmaps: heatmaps})
        if not np.isfinite(heatmaps).all():
            raise EngineError(
                "a heatmap is not finite", where=f"{self.spec.graph}: {self.spec.heatmaps}", found="NaN or infinity"
            )
        return probability, heatmaps

    def _run(self, crops: Mapping[Plane, NDArray[np.uint8]], more: Mapping[Any, NDArray]) -> NDArray[np.float32]:
        inputs = {tensor: crops[plane] for plane, tensor in self._tensors.items()}
        probability = np.empty(len(next(iter(inputs.values()))), np.float32)
        self.runtime.run(inputs, {self.spec.output: probability, **more})
        bad = ~((probability >= 0) & (probability <= 1))
        if bad.any():
            raise EngineError(
                "the classifier's answer is no probability",
                where=f"{self.spec.graph}: {self.spec.output}",
                expected="0 to 1",
                found=str(probability[bad][0]),
                remedy="verify the pack with `scanside pack verify`, or run with precision fp32",
            )
        return probability

    def close(self) -> None:
        """Free the session."""
        self.runtime.close()


def require_heatmaps(spec: ClassifierSpec) -> None:
    """Raise unless the classifier's graph draws heatmaps.

    Raises
    ------
    PackError
        It does not.
    """
    if spec.heatmaps is None:
        raise PackError(
            "this pack's classifier draws no heatmaps",
            where=spec.graph,
            expected="a graph with a heatmaps output",
            found=f"{spec.output} alone",
            remedy="make the pack again with `scanside pack create` of this version, or run without --heatmaps",
        )


def _obey(session: Runtime, graph: str, inputs: Mapping[str, type], outputs: Mapping[str, type]) -> None:
    """Raise unless the session has these tensors; it is closed then."""
    for kind, specs, wanted in (("inputs", session.inputs, inputs), ("outputs", session.outputs, outputs)):
        found = {spec.name: spec.dtype for spec in specs}
        if found != {name: np.dtype(dtype) for name, dtype in wanted.items()}:
            session.close()
            raise EngineError(
                f"the graph's {kind} are not what the manifest says",
                where=graph,
                expected=", ".join(f"{name} {np.dtype(dtype)}" for name, dtype in wanted.items()),
                found=", ".join(f"{name} {dtype}" for name, dtype in found.items()),
                remedy="the pack is damaged or of another version: install it again",
            )

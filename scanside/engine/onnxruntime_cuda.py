"""ONNX Runtime's CUDA provider on the engine's own buffers and streams, so that any NVIDIA GPU streams.

A program is a session that computes in the worker's stream. Its inputs and outputs are bound to the slots' device
memory once, so a run copies nothing and, after the first ones, allocates nothing of ours. **No GPU has confirmed it.**
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from traceback import clear_frames
from typing import Any

from scanside.engine.cuda import Buffer, Device, OutOfDeviceMemory, Stream, says_no_room
from scanside.engine.onnxruntime import CUDA, Choice, message_of, require_cuda, session_options, tensor_spec
from scanside.engine.runtime import TensorSpec
from scanside.engine.tensorrt.profiles import Profile, Shape, classifier_profiles, segmenter_profile
from scanside.errors import EngineError
from scanside.pack import ClassifierSpec, SegmenterSpec

_CHOICE = Choice(CUDA, "fp32", "streams on a GPU")


class CudaGraph:
    """A graph at one size; a `cuda_worker.Network`.

    Parameters
    ----------
    graph : bytes
    spec : SegmenterSpec or ClassifierSpec
        Says the largest batch.
    dims : mapping
        The segmenter's height and width.
    device : Device
        The GPU number 0.
    where : str
        What errors call it.
    onnxruntime : module, optional
        The installed one if None.

    Raises
    ------
    EngineError
        The graph does not load.
    """

    name = CUDA

    def __init__(
        self,
        graph: bytes,
        spec: SegmenterSpec | ClassifierSpec,
        dims: Mapping[str, int],
        device: Device,
        where: str,
        onnxruntime: Any = None,
    ) -> None:
        if onnxruntime is None:
            import onnxruntime  # type: ignore[no-redef]
        self.device, self.where = device, where
        self._api, self._graph, self._dims = onnxruntime, graph, dims
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")  # it is only asked for its tensors
        for key, size in dims.items():
            options.add_free_dimension_override_by_name(key, size)
        session = self._session(options, {"providers": ["CPUExecutionProvider"]})
        self.inputs: tuple[TensorSpec, ...] = tuple(tensor_spec(node, where) for node in session.get_inputs())
        self.outputs: tuple[TensorSpec, ...] = tuple(tensor_spec(node, where) for node in session.get_outputs())
        self.profiles: tuple[Profile, ...] = (
            (segmenter_profile(spec, *dims.values()),) if isinstance(spec, SegmenterSpec) else classifier_profiles(spec)
        )

    def profile_for(self, shapes: Mapping[str, Shape]) -> int:
        """The only one: it was made for this size."""
        return 0

    def program(self, profile: int, shapes: Mapping[str, Shape], stream: Stream) -> BoundSession:
        """A session that computes in `stream`. Its weights are its own.

        Raises
        ------
        EngineError
            The graph does not load, or no GPU answers.
        """
        wanted = {"user_compute_stream": str(stream.handle), "arena_extend_strategy": "kSameAsRequested"}
        session = self._session(*session_options(self._api, _CHOICE, self._dims, 1, **wanted))
        require_cuda(session, self.where)
        return BoundSession(self, session, self._api, shapes)

    def close(self) -> None:
        """Its programs hold what lies on the GPU."""

    def _session(self, options: Any, providers: Mapping[str, Any]) -> Any:
        try:
            return self._api.InferenceSession(self._graph, options, **providers)
        except Exception as error:  # ONNX Runtime's errors share no base class
            clear_frames(error.__traceback__)  # they hold the session, and it what it has on the GPU
            raise EngineError(
                "the graph does not load",
                where=self.where,
                found=f"{CUDA}: {message_of(error)}",
                remedy="check the GPU with `scanside doctor`, or run with device cpu",
            ) from error


class BoundSession:
    """A session whose inputs and outputs lie in device memory; a `cuda_worker.Program`."""

    memory = 0

    def __init__(self, network: CudaGraph, session: Any, onnxruntime: Any, shapes: Mapping[str, Shape]) -> None:
        self._network, self._inputs = network, shapes
        self._session: Any = session
        self._bindings: list[Any] = []
        self._batch = next(iter(shapes.values()))[0]
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def use(self, memory: Buffer) -> None:
        """It has its own."""

    def shape(self, output: str) -> Shape:
        (spec,) = (spec for spec in self._network.outputs if spec.name == output)
        fixed = tuple(size for size in spec.shape[1:] if size is not None)
        if len(fixed) != len(spec.shape) - 1:
            raise EngineError(
                "an output's size is not known before a run",
                where=f"{self._network.where}: {output}",
                found=str(list(spec.shape)),
                remedy="make the pack again with `scanside pack create`",
            )
        return (self._batch, *fixed)

    def bind(self, buffers: Mapping[str, Buffer]) -> Callable[[], None]:
        number, where = len(self._bindings), self._network.where
        binding = self._session.io_binding()
        self._bindings.append(binding)
        for spec in self._network.inputs:
            shape, address = self._inputs[spec.name], buffers[spec.name].address
            binding.bind_input(spec.name, "cuda", 0, spec.dtype.type, shape, address)
        for spec in self._network.outputs:
            shape, address = self.shape(spec.name), buffers[spec.name].address
            binding.bind_output(spec.name, "cuda", 0, spec.dtype.type, shape, address)

        def enqueue() -> None:
            try:
                self._session.run_with_iobinding(self._bindings[number], self._options)
            except Exception as error:  # ONNX Runtime's errors share no base class
                clear_frames(error.__traceback__)
                found = message_of(error)
                kind = OutOfDeviceMemory if says_no_room(found) else EngineError
                raise kind("the graph failed", where=where, found=found) from error

        return enqueue

    def free(self) -> None:
        self._bindings.clear()
        self._session = None

    def refusal(self) -> str:
        return "ONNX Runtime gives its kernels to the GPU one by one"

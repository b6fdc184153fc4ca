"""ONNX Runtime as a runtime: the CPU provider, the OpenVINO plug-in provider, or CUDA, by one written rule.

The rule also names OpenVINO by itself (`engine/openvino.py`), for processors that the plug-in does not offer.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from scanside.engine.capabilities import (
    Capabilities,
    capabilities,
    openvino_device,
    processor_name,
)
from scanside.engine.runtime import DONE, Input, Pending, Runtime, TensorSpec, require_tensors
from scanside.errors import EngineError, NotBuiltError, ScansideError, UsageError
from scanside.pack import ClassifierSpec, SegmenterSpec

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")

CPU = "onnxruntime/cpu"
OPENVINO = "onnxruntime/openvino-cpu"
OPENVINO_API = "openvino/cpu"
CUDA = "onnxruntime/cuda"

_OPENVINO_HINT = {"fp32": "f32", "bf16": "bf16"}
_NUMPY_OF = {
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class Choice:
    """Which provider will run, in which arithmetic, and why; `fallbacks` says what was wanted and not possible."""

    runtime: str
    precision: str
    reason: str
    fallbacks: tuple[str, ...] = ()
    rest: str = ""
    """What an 8-bit graph computes in where it does not round."""
    products: str = ""
    """How a processor multiplies 8-bit numbers that has no instruction for their dot product."""

    @property
    def arithmetic(self) -> str:
        """The precision, and of int8 how it multiplies and the rest's: "int8, rest bf16"."""
        parts = (self.precision, self.products, f"rest {self.rest}" if self.rest else "")
        return ", ".join(part for part in parts if part)


def choose(machine: Capabilities, device: str = "auto", precision: str = "auto", network: str = "segmenter") -> Choice:
    """The rule. `precision` auto means fp32 here: what is certified is the predictor's knowledge.

    * ``cuda``: TensorRT where it and a GPU are there, else ONNX Runtime's CUDA provider, or an error. ``auto`` takes
      CUDA where ONNX Runtime was built with it.
    * ``bf16`` on a CPU: the OpenVINO plug-in, and only where the processor multiplies bf16 (AMX, AVX512-BF16): three
      times fp32 there; anywhere else it would be emulated.
    * ``fp32`` on a CPU: the OpenVINO plug-in for the segmenter on processors with AVX-512, where it measured 1.07 x the
      CPU provider; on AVX2 it measured 0.9 to 1.05 x, that is nothing, so the CPU provider runs. The classifier always
      runs on the CPU provider: the plug-in measured 0.94 x with it, and keeps its weights twice (370 MB more).
    * ``int8`` on a CPU: the OpenVINO plug-in, what is not rounded in bf16 where the processor has it (measured with
      AMX: 1.3 x as fast as with the rest in fp32). The CPU provider runs 8-bit graphs slower than fp32 ones.
    * ``bf16`` and ``int8`` where the plug-in offers no device (processors of other makers than Intel): OpenVINO itself
      where it is installed.

    Raises
    ------
    UsageError
        An unknown device or precision.
    NotBuiltError
        bf16 on CUDA.
    EngineError
        What was asked for by name cannot run here.
    """
    _known("device", device, DEVICES)
    _known("precision", precision, PRECISIONS)
    wanted = "fp32" if precision == "auto" else precision
    if device == "cuda" and machine.tensorrt:
        if wanted == "bf16":
            raise NotBuiltError("precision bf16 on CUDA is not built yet", expected="fp32, fp16 or int8", found=wanted)
        rest = "fp16" if wanted == "int8" else ""
        return Choice(machine.tensorrt, wanted, "TensorRT and a GPU are here", rest=rest)
    if wanted == "int8" and device != "cuda":
        return _choose_int8(machine)
    if wanted in ("fp16", "int8"):
        raise EngineError(
            f"precision {wanted} needs TensorRT and a GPU",
            where=f"device {device}",
            found=machine.tensorrt_remark or "no device cuda asked for",
            remedy="run with --device cuda where TensorRT and a GPU are, or with precision fp32",
        )
    if device == "cuda" or (device == "auto" and machine.cuda and wanted == "fp32"):
        return _choose_cuda(machine, wanted)
    if wanted == "bf16":
        return _choose_bf16(machine)
    if network == "classifier":
        return Choice(CPU, "fp32", "the OpenVINO plug-in gains the classifier nothing and keeps its weights twice")
    if not machine.avx512:
        return Choice(CPU, "fp32", "without AVX-512 the OpenVINO plug-in gains nothing")
    if machine.openvino:
        return Choice(OPENVINO, "fp32", "OpenVINO runs the segmenter faster on AVX-512")
    return Choice(CPU, "fp32", "the only provider here", (f"{CPU} instead of {OPENVINO}: {machine.openvino_remark}",))


def _choose_cuda(machine: Capabilities, precision: str) -> Choice:
    if not machine.cuda:
        raise EngineError(
            "no usable CUDA provider",
            where="device cuda",
            expected="TensorRT and PyCUDA, or an ONNX Runtime built with CUDA",
            found=f"{machine.tensorrt_remark or 'no TensorRT'}; providers {', '.join(machine.providers)}",
            remedy="install scanside[rtx], or onnxruntime-gpu in place of onnxruntime, or run with device cpu",
        )
    if precision != "fp32":
        raise NotBuiltError(f"precision {precision} on CUDA is not built yet", expected="fp32", found=precision)
    fallbacks = (f"{CUDA} instead of TensorRT: {machine.tensorrt_remark}",) if machine.tensorrt_remark else ()
    return Choice(CUDA, "fp32", "a CUDA provider is installed", fallbacks)


def _choose_bf16(machine: Capabilities) -> Choice:
    if not machine.bf16:
        raise EngineError(
            "this processor has no bf16 arithmetic",
            where="precision bf16",
            expected="amx_bf16 or avx512_bf16 among its instructions",
            found=machine.processor,
            remedy="run with precision fp32",
        )
    return Choice(_openvino_for(machine, "bf16"), "bf16", "the processor multiplies bf16")


def _choose_int8(machine: Capabilities) -> Choice:
    rest = "bf16" if machine.bf16 else "fp32"
    products = "" if machine.dot_products else "16-bit sums"
    runtime = _openvino_for(machine, "int8")
    return Choice(runtime, "int8", f"8-bit kernels, the rest in {rest}", rest=rest, products=products)


def _openvino_for(machine: Capabilities, precision: str) -> str:
    """The plug-in where it offers this processor, else OpenVINO itself.

    Raises
    ------
    EngineError
        Neither is here.
    """
    if machine.openvino:
        return OPENVINO
    if machine.openvino_api:
        return OPENVINO_API
    raise EngineError(
        f"{precision} needs OpenVINO",
        where=f"precision {precision}",
        found=machine.openvino_remark,
        remedy=f"pip install {machine.missing_openvino}, or run with precision fp32",
    )


def load_runtime(
    graph: bytes,
    *,
    device: str = "auto",
    precision: str = "auto",
    network: str = "segmenter",
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    name: str = "graph",
    spec: SegmenterSpec | ClassifierSpec | None = None,
) -> Runtime:
    """Load a self-contained ONNX graph.

    Parameters
    ----------
    graph : bytes
        The ONNX model. Weights in 8 bits with DequantizeLinear are unfolded once, at load.
    device, precision, network : str
        See `choose`. With device ``auto`` a provider that cannot load the graph gives way to the CPU provider, and
        `OnnxRuntime.fallbacks` says so.
    dims : mapping, optional
        Sizes of the graph's free dimensions, by name ({"height": 96, "width": 256}).
    threads : int, optional
        Threads of one run; all usable cores if None.
    name : str
        What errors call the graph.
    spec : SegmenterSpec or ClassifierSpec, optional
        What the pack says of the network. TensorRT needs it to know its plan; without one it is passed over.

    Raises
    ------
    EngineError
        The graph does not load, or what was asked for by name cannot run here.
    """
    machine = capabilities()
    asked = machine if spec is not None else replace(machine, ask_tensorrt=lambda: ("", ""))
    choice = choose(asked, device, precision, network)
    threads = threads or machine.cores
    if choice.runtime.startswith("tensorrt") and spec is not None:
        from scanside.engine.tensorrt.load import load_tensorrt

        try:
            return load_tensorrt(graph, spec, precision=choice.precision, dims=dims or {})
        except ScansideError as error:
            if choice.precision != "fp32" or not machine.cuda:
                raise
            choice = Choice(
                CUDA, "fp32", "TensorRT cannot run it", (f"{CUDA} instead of {choice.runtime}: {error.what}",)
            )
    try:
        if choice.runtime == CUDA and spec is not None:
            return _load_on_cuda(graph, choice, dims or {}, name, spec)
        if choice.runtime == OPENVINO_API:
            from scanside.engine.openvino import OpenvinoRuntime

            return OpenvinoRuntime(graph, choice, dims or {}, threads, name)
        return OnnxRuntime(graph, choice, dims or {}, threads, name)
    except EngineError as error:
        if device != "auto" or choice.runtime == CPU or choice.precision != "fp32":
            raise
        remark = f"{CPU} instead of {choice.runtime}: {error.found or error.what}"
        return OnnxRuntime(graph, replace(choice, runtime=CPU, fallbacks=(remark,)), dims or {}, threads, name)


def _load_on_cuda(
    graph: bytes, choice: Choice, dims: Mapping[str, int], name: str, spec: SegmenterSpec | ClassifierSpec
) -> Runtime:
    """On the buffers and streams of `engine.cuda`; where those cannot be had, with ONNX Runtime's own copies."""
    from scanside.engine.cuda import shared_device
    from scanside.engine.cuda_runtime import CudaRuntime, in_flight_of
    from scanside.engine.onnxruntime_cuda import CudaGraph

    try:
        device = shared_device()
    except EngineError as error:
        remark = f"no streaming: {error.found or error.what}"
        return OnnxRuntime(graph, replace(choice, fallbacks=(*choice.fallbacks, remark)), dims, 1, name)
    network = CudaGraph(graph, spec, dims, device, name)
    # It is of one size already.
    return CudaRuntime(network, choice.precision, {}, remarks=choice.fallbacks, **in_flight_of(spec))


class OnnxRuntime(Runtime):
    """One graph in ONNX Runtime, in one session or in one a stream; see `load_runtime`."""

    def __init__(self, graph: bytes, choice: Choice, dims: Mapping[str, int], threads: int, name: str) -> None:
        self.graph_name = name
        self.choice = choice
        self.fallbacks = choice.fallbacks
        self._parts = parts = _parts(choice, dims, threads)
        streams = 1
        if parts is not None:
            dims, streams = {**dims, "batch": parts.batch}, parts.streams
        try:
            self._sessions = self._opened(graph, dims, max(1, threads // streams), streams)
        except Exception as error:  # neither ONNX Runtime's nor OpenVINO's errors share a base class
            raise EngineError(
                "the graph does not load",
                where=name,
                found=f"{choice.runtime}: {message_of(error)}",
                remedy="verify the pack with `scanside pack verify`, and this machine with `scanside doctor`",
            ) from error
        self._inputs, self._outputs = self._tensors(self._sessions[0], free_batch=parts is not None)
        self._spare: deque[tuple[dict[str, NDArray], dict[str, NDArray]]] = deque()
        self._pool = None if parts is None else ThreadPoolExecutor(streams, f"{name} {choice.precision}")
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for session in self._sessions:
            self._idle.put(session)

    def _opened(self, graph: bytes, dims: Mapping[str, int], threads: int, streams: int) -> list[Any]:
        """`streams` sessions of `threads` threads, one made after the other."""
        import onnxruntime

        options, providers = session_options(onnxruntime, self.choice, dims, threads)
        return [onnxruntime.InferenceSession(graph, options, **providers) for _ in range(streams)]

    def _tensors(self, session: Any, *, free_batch: bool) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """The inputs and outputs of a session."""
        if self.choice.runtime == CUDA:
            require_cuda(session, self.graph_name)
        inputs, outputs = (
            tuple(tensor_spec(node, self.graph_name, free_batch=free_batch) for node in nodes)
            for nodes in (session.get_inputs(), session.get_outputs())
        )
        return inputs, outputs

    @property
    def name(self) -> str:
        return self.choice.runtime

    @property
    def precision(self) -> str:
        return self.choice.precision

    @property
    def in_flight(self) -> int:
        return 1 if self._parts is None else self._parts.streams

    @property
    def device_name(self) -> str:
        return "a CUDA device" if self.choice.runtime == CUDA else processor_name()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def run(self, inputs: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> None:
        self.submit(inputs, outputs).wait()

    def submit(self, inputs: Mapping[str, Input], outputs: Mapping[str, NDArray]) -> Pending:
        session = next(iter(self._sessions), None)
        if session is None:
            raise EngineError("the runtime is closed", where=self.graph_name)
        require_tensors(self.graph_name, self._inputs, inputs, self._outputs, outputs)
        arrays = cast(Mapping[str, NDArray], inputs)  # it has no `gpu`: inputs are arrays
        if self._parts is None or self._pool is None:
            self._run(session, arrays, outputs)
            return DONE
        count, size = len(next(iter(outputs.values()))), self._parts.batch
        running = []
        for first in range(0, count, size):
            part = slice(first, first + size)
            ins, outs = ({key: array[part] for key, array in given.items()} for given in (arrays, outputs))
            work = self._run_part if first + size <= count else self._run_short
            try:
                running.append(self._pool.submit(work, ins, outs))
            except RuntimeError:  # `close` in another thread has shut the pool
                raise EngineError("the runtime is closed", where=self.graph_name) from None
        return Futures(tuple(running))

    def _run_part(self, inputs: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> None:
        session = self._idle.get()
        try:
            self._run(session, inputs, outputs)
        finally:
            self._idle.put(session)

    def _run(self, session: Any, inputs: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> None:
        try:
            binding = session.io_binding()
            for key, array in inputs.items():
                binding.bind_cpu_input(key, array)
            for key, array in outputs.items():
                binding.bind_output(key, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise failed(self.graph_name, error) from error

    def _run_short(self, inputs: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> None:
        """Run fewer items than a part holds: the rest is zero, and its answers are dropped."""
        count = len(next(iter(outputs.values())))
        try:
            full_inputs, full_outputs = self._spare.pop()
        except IndexError:
            full_inputs, full_outputs = (self._full(arrays) for arrays in (inputs, outputs))
        for key, array in inputs.items():
            full_inputs[key][:count] = array
            full_inputs[key][count:] = 0
        self._run_part(full_inputs, full_outputs)
        for key, array in outputs.items():
            array[...] = full_outputs[key][:count]
        self._spare.append((full_inputs, full_outputs))

    def _full(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        assert self._parts is not None
        return {key: np.zeros((self._parts.batch, *array.shape[1:]), array.dtype) for key, array in arrays.items()}

    def close(self) -> None:
        self._sessions = []
        if self._pool is not None:
            self._pool.shutdown()
        self._idle = SimpleQueue()


@dataclass(frozen=True)
class Futures:
    """A batch in parts, each in a thread of the pool."""

    running: tuple[Future[None], ...]

    def wait(self) -> None:
        """Wait for every part, then raise the first error."""
        wait(self.running)
        for part in self.running:
            part.result()


@dataclass(frozen=True)
class Parts:
    """How OpenVINO is given the segmenter's batches: parts of `batch` sections, on `streams` sessions at once."""

    batch: int
    streams: int


MOST_STREAMS = 4
PART_SECTIONS = 4
PART_PIXELS = PART_SECTIONS * 96 * 256


def _parts(choice: Choice, dims: Mapping[str, int], threads: int) -> Parts | None:
    """Parts for a graph whose height and width are fixed; None where a batch runs as it is.

    A fixed batch has faster kernels than a free one, and streams that share no work need not wait for one another at
    every layer: together 1.1 (bf16) to 1.25 (int8) times as fast on two cores. Larger parts are no faster. Each stream
    is a session of its own, made after the other: one session with two of the plug-in's streams compiles them at the
    same time, and of 12 such sessions of an 8-bit classifier two gave wrong answers ever after (OpenVINO 2026.4).
    """
    if choice.runtime not in (OPENVINO, OPENVINO_API) or "height" not in dims:
        return None
    batch = max(1, min(PART_SECTIONS, PART_PIXELS // (dims["height"] * dims["width"])))
    return Parts(batch, min(threads, MOST_STREAMS))


def session_options(
    onnxruntime: Any, choice: Choice, dims: Mapping[str, int], threads: int, **cuda: str
) -> tuple[Any, dict[str, Any]]:
    """Options of a session, and its providers as keywords. `cuda` are more options of the CUDA provider."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Weight-only Q/DQ graphs: else their weights are unfolded again at every run, 1.65 x slower. An 8-bit graph must
    # reach the plug-in with its pairs: without them it runs as fp32.
    options.add_session_config_entry("session.disable_quant_qdq", "0" if choice.precision == "int8" else "1")
    # Waiting threads that spin take the cores from decoding and reformatting (measured: 10 to 15 % slower).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Planned memory kept 200 MB more for the segmenter at 256 x 256 and was no faster.
    options.enable_mem_pattern = False
    for key, size in dims.items():
        options.add_free_dimension_override_by_name(key, size)
    if choice.runtime == OPENVINO:
        config = json.dumps({"CPU": openvino_config(choice, threads)})
        options.add_provider_for_devices([openvino_device()[0]], {"load_config": config})
        return options, {}
    if choice.runtime == CUDA:
        return options, {"providers": [("CUDAExecutionProvider", {"use_tf32": "0", **cuda}), "CPUExecutionProvider"]}
    return options, {"providers": ["CPUExecutionProvider"]}


def openvino_config(choice: Choice, threads: int) -> dict[str, Any]:
    """What OpenVINO is told of one session, through the plug-in or by itself."""
    return {
        "INFERENCE_PRECISION_HINT": _OPENVINO_HINT[choice.rest or choice.precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # else every session would take the first cores
    }


def require_cuda(session: Any, graph: str) -> None:
    """Raise unless a GPU runs the session.

    Raises
    ------
    EngineError
        ONNX Runtime went on without the CUDA provider.
    """
    if "CUDAExecutionProvider" not in session.get_providers():
        raise EngineError(
            "no GPU answered the CUDA provider",
            where=graph,
            found="no CUDA device, or CUDA and cuDNN libraries of other versions",
            remedy="check the driver with `scanside doctor`, or run with device cpu",
        )


def tensor_spec(node: Any, graph: str, *, free_batch: bool = False) -> TensorSpec:
    """An input or output of a session.

    Raises
    ------
    EngineError
        Of a type the engine does not know.
    """
    if node.type not in _NUMPY_OF:
        raise unknown_type(graph, node.name, node.type)
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    if free_batch:
        shape = (None, *shape[1:])
    return TensorSpec(node.name, np.dtype(_NUMPY_OF[node.type]), shape)


def unknown_type(graph: str, tensor: str, found: str) -> EngineError:
    """The one error for a tensor of a type that no pack has."""
    return EngineError("a tensor of a type the engine does not know", where=f"{graph}: {tensor}", found=found)


def _known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"unknown {what}", expected=" | ".join(known), found=repr(value))


def failed(graph: str, error: BaseException) -> EngineError:
    """The one error for a run that failed."""
    return EngineError("the graph failed", where=graph, found=message_of(error))


def message_of(error: BaseException) -> str:
    """The first line of what ONNX Runtime says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]

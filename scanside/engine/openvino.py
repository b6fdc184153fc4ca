"""OpenVINO by itself as a runtime: for processors that its plug-in for ONNX Runtime does not offer as a device.

The plug-in (1.8) knows processors of one maker only, OpenVINO computes on all of x86-64. Streams, parts and their order
are those of `engine/onnxruntime.py`; a session here is a compiled model with one request.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.engine.onnxruntime import OPENVINO_HINT, OnnxRuntime, failed
from scanside.engine.runtime import TensorSpec
from scanside.errors import EngineError

_NUMPY_OF = {"u8": np.uint8, "i8": np.int8, "f32": np.float32, "f16": np.float16, "i32": np.int32, "i64": np.int64}


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


class OpenvinoRuntime(OnnxRuntime):
    """One graph in OpenVINO, in one session or in one a stream; see `load_runtime`."""

    def _opened(self, graph: bytes, dims: Mapping[str, int], threads: int, streams: int) -> list[Any]:
        config = {
            "INFERENCE_PRECISION_HINT": OPENVINO_HINT[self.choice.rest or self.choice.precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else every session would take the first cores
        }
        return [_Session(graph, dims, config) for _ in range(streams)]

    def _tensors(self, session: Any, *, free_batch: bool) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        inputs, outputs = (
            tuple(_tensor_spec(port, self.graph_name, free_batch=free_batch) for port in ports)
            for ports in (session.compiled.inputs, session.compiled.outputs)
        )
        return inputs, outputs

    def _run(self, session: Any, inputs: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> None:
        try:
            session.run(inputs, outputs)
        except Exception as error:  # OpenVINO's errors share no base class
            raise failed(self.graph_name, error) from error


class _Session:
    """A compiled model and its one request, which several threads take in turn."""

    def __init__(self, graph: bytes, dims: Mapping[str, int], config: Mapping[str, Any]) -> None:
        model = _core().read_model(graph)
        sizes = {port.any_name: _sized(port, dims) for port in model.inputs}
        model.reshape(sizes)
        self.compiled = _core().compile_model(model, "CPU", dict(config))
        self._request = self.compiled.create_infer_request()
        self._taken = threading.Lock()

    def run(self, inputs: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> None:
        from openvino import Tensor

        with self._taken:
            for name, array in inputs.items():
                self._request.set_tensor(name, Tensor(array, shared_memory=True))
            self._request.infer()
            for name, array in outputs.items():
                array[...] = self._request.get_tensor(name).data


def _sized(port: Any, dims: Mapping[str, int]) -> Any:
    """The port's shape with `dims` for its free dimensions: OpenVINO keeps no names of them, their order does."""
    from openvino import Dimension, PartialShape

    names = ("batch", "channel", "height", "width")
    shape = port.partial_shape
    sizes = [
        Dimension(dims[name]) if size.is_dynamic and name in dims else size
        for name, size in zip(names, shape, strict=True)
    ]
    return PartialShape(sizes)


def _tensor_spec(port: Any, graph: str, *, free_batch: bool) -> TensorSpec:
    kind = port.element_type.get_type_name()
    if kind not in _NUMPY_OF:
        raise EngineError("a tensor of a type the engine does not know", where=f"{graph}: {port.any_name}", found=kind)
    shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
    if free_batch:
        shape = (None, *shape[1:])
    return TensorSpec(port.any_name, np.dtype(_NUMPY_OF[kind]), shape)

"""OpenVINO by itself as a runtime: for processors that its plug-in for ONNX Runtime does not offer as a device.

The plug-in (1.8) knows processors of one maker only, OpenVINO computes on all of x86-64. Streams, parts and their order
are those of `engine/onnxruntime.py`; a session here is a compiled model with one request.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.engine.onnxruntime import OnnxRuntime, failed, openvino_config, unknown_type
from scanside.engine.runtime import TensorSpec

_NUMPY_OF = {"u8": np.uint8, "i8": np.int8, "f32": np.float32, "f16": np.float16, "i32": np.int32, "i64": np.int64}
_CONVERTERS = "openvino.tools.ovc"
_DIMENSIONS = ("batch", "channel", "height", "width")

_using = threading.Lock()
"""One import, one core, and one model compiled at a time."""


def openvino_module() -> ModuleType:
    """The package `openvino` without its model converters, whose import reports to its maker's server.

    Nothing here converts models. A program that has imported OpenVINO before is left as it is.
    """
    if "openvino" not in sys.modules and _CONVERTERS not in sys.modules:
        sys.modules[_CONVERTERS] = None  # type: ignore[assignment]  # its import fails, which OpenVINO allows for
        try:
            import openvino
        finally:
            del sys.modules[_CONVERTERS]
    import openvino

    return openvino


@cache
def _core() -> Any:
    return openvino_module().Core()


class OpenvinoRuntime(OnnxRuntime):
    """One graph in OpenVINO, in one session or in one a stream; see `load_runtime`."""

    def _opened(self, graph: bytes, dims: Mapping[str, int], threads: int, streams: int) -> list[Any]:
        config = openvino_config(self.choice, threads)
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
        with _using:
            core = _core()
            model = core.read_model(graph)
            model.reshape({port.any_name: _sized(port, dims) for port in model.inputs})
            self.compiled = core.compile_model(model, "CPU", dict(config))
        self._request = self.compiled.create_infer_request()
        self._taken = threading.Lock()

    def run(self, inputs: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> None:
        tensor = openvino_module().Tensor
        with self._taken:
            for name, array in inputs.items():
                self._request.set_tensor(name, tensor(array, shared_memory=True))
            self._request.infer(share_outputs=True)
            for name, array in outputs.items():
                array[...] = self._request.get_tensor(name).data


def _sized(port: Any, dims: Mapping[str, int]) -> Any:
    """The port's shape with `dims` for its free dimensions: OpenVINO keeps no names of them, their order does."""
    openvino = openvino_module()
    sizes = [
        openvino.Dimension(dims[name]) if size.is_dynamic and name in dims else size
        for name, size in zip(_DIMENSIONS, port.partial_shape, strict=True)
    ]
    return openvino.PartialShape(sizes)


def _tensor_spec(port: Any, graph: str, *, free_batch: bool) -> TensorSpec:
    kind = port.element_type.get_type_name()
    if kind not in _NUMPY_OF:
        raise unknown_type(graph, port.any_name, kind)
    shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
    if free_batch:
        shape = (None, *shape[1:])
    return TensorSpec(port.any_name, np.dtype(_NUMPY_OF[kind]), shape)

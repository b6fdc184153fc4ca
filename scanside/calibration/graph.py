"""An ONNX graph with its wires named: who makes a tensor, who reads it, what weight an operation has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from scanside.errors import PackError
from scanside.pack.external_data import refuse_external_data

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operations that TensorRT and OpenVINO run in 8 bits."""


def load_graph(data: bytes, where: str) -> onnx.ModelProto:
    """The model in `data`, self-contained and of operators that ONNX defines.

    Raises
    ------
    PackError
        No ONNX model, data kept outside the file, an unknown operator, or a constant that is not finite.
    """
    refuse_external_data(data, where)
    model = onnx.load_from_string(data)
    versions = {opset.domain: opset.version for opset in model.opset_import}
    for node in model.graph.node:
        known = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, versions.get("", 1), "")
        if not known:
            raise PackError(
                "an operator that is not of ONNX's own set",
                where=f"{where}: {node.name or node.output[0]}",
                expected="operators of the default domain",
                found=f"{node.domain}.{node.op_type}".lstrip("."),
                remedy="export the network again without custom operators",
            )
    for tensor in model.graph.initializer:
        is_float = tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        if is_float and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise PackError(
                "a weight is not finite",
                where=f"{where}: {tensor.name}",
                expected="finite weights",
                found="NaN or infinity",
                remedy="train or export the network again",
            )
    return model


class GraphView:
    """Lookups over a model's main graph; it does not follow later changes of the model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: tuple[onnx.NodeProto, ...] = tuple(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = tuple(value.name for value in model.graph.input if value.name not in self.constants)
        self.outputs = tuple(value.name for value in model.graph.output)
        self.order = {node.output[0]: i for i, node in enumerate(self.nodes)}
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.nodes:
            for index, name in enumerate(node.input):
                self._consumers.setdefault(name, []).append((node, index))

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for inputs and constants."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[tuple[onnx.NodeProto, int]]:
        """The nodes that read a tensor, each with the number of the input."""
        return self._consumers.get(tensor, [])

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is an initializer, or one seen through QuantizeLinear and DequantizeLinear."""
        return self.stored(tensor) is not None

    def stored(self, tensor: str) -> onnx.TensorProto | None:
        """The initializer behind a tensor, looking through QuantizeLinear and DequantizeLinear."""
        while tensor not in self.constants:
            node = self.producer(tensor)
            if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                return None
            tensor = node.input[0]
        return self.constants[tensor]

    def weight_shape(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        """The shape of a weighted operation's constant weight; None when it has none."""
        if node.op_type not in WEIGHTED or len(node.input) < 2:
            return None
        stored = self.stored(node.input[1])
        return None if stored is None else tuple(stored.dims)

    def ancestors(self, tensor: str) -> dict[str, int]:
        """Every node a tensor depends on, by its first output, with the longest way to it in operations."""
        longest: dict[str, int] = {}
        start = self.producer(tensor)
        if start is None:
            return longest
        longest[start.output[0]] = 0
        for node in reversed(self.nodes[: self.order[start.output[0]] + 1]):
            distance = longest.get(node.output[0])
            if distance is None:
                continue
            for name in node.input:
                earlier = self.producer(name)
                if earlier is not None:
                    key = earlier.output[0]
                    longest[key] = max(longest.get(key, 0), distance + 1)
        return longest

    def depends_on_weights(self, tensor: str) -> bool:
        """Whether a weighted operation lies upstream of a tensor."""
        return any(self.weight_shape(self._producers[name]) is not None for name in self.ancestors(tensor))

    @cached_property
    def answering(self) -> frozenset[str]:
        """The nodes, by their first output, that the graph's first output depends on: the answer, no pictures of it."""
        return frozenset(self.ancestors(self.outputs[0]))

    @cached_property
    def leads_to_weights(self) -> frozenset[str]:
        """Tensors from which a weighted operation of the answer can be reached as an activation."""
        reached: set[str] = set()
        for node in reversed(self.nodes):
            if node.output[0] not in self.answering:
                continue
            weighted = self.weight_shape(node) is not None
            if weighted or reached.intersection(node.output):
                reached.update(name for i, name in enumerate(node.input) if not (weighted and i > 0))
        return frozenset(reached)


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute, or `default`."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def channel_axis(node: onnx.NodeProto) -> int:
    """The output-channel axis of a weighted operation's weight."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return -1


def weight_array(view: GraphView, node: onnx.NodeProto) -> NDArray[np.float32]:
    """A weighted operation's weight in FP32, whether stored so or in 8 bits.

    Raises
    ------
    PackError
        It has no constant weight.
    """
    name = node.input[1]
    maker = view.producer(name)
    if name in view.constants:
        return numpy_helper.to_array(view.constants[name]).astype(np.float32)
    stored = view.stored(name)
    if stored is None or maker is None:
        raise PackError("an operation without a constant weight", where=node.name)
    values = numpy_helper.to_array(stored).astype(np.float32)
    if maker.input[0] not in view.constants:  # a float weight behind QuantizeLinear
        return values
    scale = numpy_helper.to_array(view.constants[maker.input[1]]).astype(np.float32)
    axis = int(attribute(maker, "axis", 1)) % values.ndim  # type: ignore[call-overload]
    return values * (scale.reshape([-1 if a == axis else 1 for a in range(values.ndim)]) if scale.ndim else scale)


def pairs(view: GraphView) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Every QuantizeLinear of an activation with each DequantizeLinear that reads it."""
    for node in view.nodes:
        if node.op_type == "QuantizeLinear" and not view.is_constant(node.input[0]):
            for reader, _ in view.consumers(node.output[0]):
                if reader.op_type == "DequantizeLinear":
                    yield node, reader

"""Weights of a FP32 graph in 8 bits: a quarter of the bytes, activations untouched.

Each large weight becomes an int8 initializer, a float scale per output channel and a zero point of 0, read through
`DequantizeLinear`. Symmetric, so a zero stays a zero. Biases and small tensors stay float.

ONNX Runtime must be told ``session.disable_quant_qdq=1``: then it folds the weights back to float when it loads.
Left alone it dequantizes at every run, and fuses some products into kernels that round the activations as well.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from scanside.calibration.weights import quantize_channels
from scanside.errors import EngineError
from scanside.export.onnx import finished

MIN_WEIGHTS = 1024
"""Smaller tensors stay float: they weigh nothing and first layers feel every bit."""


@dataclass(frozen=True)
class WeightError:
    """What rounding did to one weight: RMS error over the RMS of the weight itself."""

    name: str
    relative_rms: float


def quantize_weights(
    graph: bytes, *, min_weights: int = MIN_WEIGHTS, where: str = "graph"
) -> tuple[bytes, list[WeightError]]:
    """The ONNX `graph` with Conv, ConvTranspose, Gemm and MatMul weights of at least `min_weights` values in int8.

    A depthwise convolution has one scale per channel as well. A weight that several of these nodes read is rounded
    once, along the output channels of the first.

    Raises
    ------
    EngineError
        A weight is not finite, or the graph is not valid ONNX.
    """
    model = onnx.load_from_string(graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = Counter(name for node in model.graph.node for name in node.input)
    as_weight = Counter(node.input[1] for node in model.graph.node if _channel_axis(node) is not None)
    nodes, errors = [], []
    restored: dict[str, str] = {}

    def only_weights(tensor: onnx.TensorProto) -> bool:
        return readers[tensor.name] == as_weight[tensor.name]

    for node in model.graph.node:
        axis = _channel_axis(node)
        tensor = None if axis is None else weights.get(node.input[1])
        if axis is not None and node.input[1] in restored:
            node.input[1] = restored[node.input[1]]
        elif axis is not None and tensor is not None and _is_large(tensor, min_weights) and only_weights(tensor):
            try:
                parts, error = _in_8_bits(tensor, axis % len(tensor.dims))
            except EngineError as failure:
                raise EngineError(failure.what, where=f"{where}: {tensor.name}", found=failure.found) from None
            errors.append(error)
            name = restored[tensor.name] = f"{tensor.name}.float"
            names = [part.name for part in parts]
            nodes.append(helper.make_node("DequantizeLinear", names, [name], axis=axis % len(tensor.dims), name=name))
            node.input[1] = name
            model.graph.initializer.remove(tensor)
            model.graph.initializer.extend(parts)
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return finished(model, where), errors


def _is_large(tensor: onnx.TensorProto, min_weights: int) -> bool:
    enough = int(np.prod(tensor.dims)) >= min_weights
    return enough and len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT


def _in_8_bits(tensor: onnx.TensorProto, axis: int) -> tuple[list[onnx.TensorProto], WeightError]:
    """The int8 values, scale and zero point that stand for `tensor`, and what rounding did."""
    values = numpy_helper.to_array(tensor)
    quantized, scale = quantize_channels(values, axis)
    restored = quantized * scale.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    rms = float(np.sqrt(np.mean((restored - values) ** 2) / max(float(np.mean(values**2)), 1e-30)))
    arrays: dict[str, NDArray] = {"int8": quantized, "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
    parts = [numpy_helper.from_array(array, f"{tensor.name}.{part}") for part, array in arrays.items()]
    return parts, WeightError(tensor.name, rms)


def _channel_axis(node: onnx.NodeProto) -> int | None:
    """The output-channel axis of the node's second input, or None when it is no weight."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "MatMul":
        return -1
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return 0 if transposed else 1
    return None

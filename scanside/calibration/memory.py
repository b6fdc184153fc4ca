"""How much activation memory a graph needs at its peak, by liveness: an estimate, for comparing precisions.

A weighted operation and its epilogue are one kernel, whose inner tensors never reach memory. A tensor that only
QuantizeLinear reads leaves its kernel in 8 bits, also through operations that copy values (concatenation, pooling,
resizing); one that is read both ways exists in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from scanside.calibration.graph import GraphView, attribute
from scanside.calibration.rules import COPIES, epilogue
from scanside.errors import PackError

_BYTES: dict[int, int] = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.UINT8: 1,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.INT32: 4,
    onnx.TensorProto.INT64: 8,
    onnx.TensorProto.BOOL: 1,
}


def tensor_shapes(model: onnx.ModelProto, dims: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and element type of every activation, the graph's free dimensions given by name.

    Raises
    ------
    PackError
        A shape cannot be inferred, or a free dimension was not given.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                if dim.dim_param not in dims:
                    raise PackError(
                        "a free dimension without a size",
                        where=f"{value.name}: {dim.dim_param}",
                        expected=", ".join(dims) or "fixed sizes",
                    )
                dim.dim_value = dims[dim.dim_param]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise PackError("the graph's shapes contradict each other", found=str(error).splitlines()[0]) from None
    shapes = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim), tensor.elem_type
    return shapes


def activation_bytes(model: onnx.ModelProto, dims: Mapping[str, int]) -> int:
    """Bytes of all tensors that must exist at once, at the worst moment, in the graph's own order.

    Raises
    ------
    PackError
        See `tensor_shapes`.
    """
    view = GraphView(model)
    shapes = tensor_shapes(model, dims)
    unit_of, inner = _kernels(view)
    alive: dict[str, list[int]] = {}
    for name, (shape, kind) in shapes.items():
        if name in inner or view.is_constant(name):
            continue
        size = _stored_bytes(view, name, math.prod(shape), _BYTES.get(kind, 4))
        maker = view.producer(name)
        born = -1 if maker is None else unit_of[maker.output[0]]
        used = [unit_of[node.output[0]] for node in _final_readers(view, name)]
        last = max([born, *used, len(view.nodes) if name in view.outputs else -1])
        if size:
            alive[name] = [born, last, size]
    moments = sorted({born for born, _, _ in alive.values()})
    return max((sum(size for born, last, size in alive.values() if born <= t <= last) for t in moments), default=0)


def _kernels(view: GraphView) -> tuple[dict[str, int], set[str]]:
    """When each node runs (by its first output), kernels as one, and the tensors that never leave their kernel."""
    unit_of = {node.output[0]: i for i, node in enumerate(view.nodes)}
    inner: set[str] = set()
    for node in view.nodes:
        if view.weight_shape(node) is None or node.output[0] in inner:
            continue
        fused = epilogue(view, node)
        when = max([unit_of[node.output[0]], *(unit_of[f.output[0]] for f in fused)])
        for member in (node, *fused):
            unit_of[member.output[0]] = when
        inner.update(member.output[0] for member in (node, *fused)[:-1])
    # A rounded tensor is what QuantizeLinear's input was stored as; DequantizeLinear happens inside its reader.
    for node in view.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            inner.update(node.output)
    return unit_of, inner


def _stored_bytes(view: GraphView, tensor: str, elements: int, float_bytes: int) -> int:
    """Bytes of a tensor as it is kept: in 8 bits once per scale, in its own type if anything reads it so."""
    scales, plain = _ways_read(view, tensor)
    plain = plain or tensor in view.outputs or not scales
    return elements * (len(scales) + (float_bytes if plain else 0))


def _ways_read(view: GraphView, tensor: str) -> tuple[frozenset[float], bool]:
    """The scales by which a tensor is rounded before it is read, and whether anything reads it unrounded."""
    scales: set[float] = set()
    plain = False
    for node, index in view.consumers(tensor):
        if node.op_type == "QuantizeLinear":
            scales.add(scale_of(view, node))
        elif (index == 0 and node.op_type in COPIES) or node.op_type == "Concat":
            further, floats = _ways_read(view, node.output[0])
            scales |= further
            plain = plain or floats or node.output[0] in view.outputs
        else:
            plain = True
    return frozenset(scales), plain


def scale_of(view: GraphView, node: onnx.NodeProto) -> float:
    """The scale of a QuantizeLinear or DequantizeLinear of an activation."""
    stored = view.constants.get(node.input[1])
    return float("nan") if stored is None else float(onnx.numpy_helper.to_array(stored).reshape(-1)[0])


def _final_readers(view: GraphView, tensor: str) -> list[onnx.NodeProto]:
    """What reads a tensor, looking through its pairs."""
    readers = []
    for node, _ in view.consumers(tensor):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            readers += _final_readers(view, node.output[0])
        readers.append(node)
    return readers


def multiplications(view: GraphView, node: onnx.NodeProto, shapes: Mapping[str, tuple[tuple[int, ...], int]]) -> int:
    """Multiply-accumulates of a weighted operation; 0 where its shape is not known."""
    weight, output = view.weight_shape(node), shapes.get(node.output[0])
    if weight is None or output is None:
        return 0
    if node.op_type == "Conv":
        return math.prod(output[0]) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        source = shapes.get(node.input[0])
        return 0 if source is None else math.prod(source[0]) * math.prod(weight[1:])
    inner = weight[-1] if node.op_type == "Gemm" and attribute(node, "transB", 0) else weight[-2]
    return math.prod(output[0]) * inner

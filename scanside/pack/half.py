"""A graph in half precision, by cast: precision lives in the graph."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from scanside.errors import PackError
from scanside.pack.onnx_graph import BOOL, FLOAT, FLOAT16, INT64, Constant, Graph, Node

# fmt: off
_LIKE_INPUT = frozenset((
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Elu", "Erf",
    "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "MatMul", "Max",
    "MaxPool", "Mean", "Min", "Mul", "Neg", "PRelu", "Pad", "Pow", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
    "Relu", "Reshape", "Resize", "Round", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub",
    "Sum", "Tanh", "Tile", "Transpose", "Unsqueeze",
))
# fmt: on
"""Operators whose outputs are of their first input's type."""
_COMPARISONS = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or")
_OTHER = dict.fromkeys(("ArgMax", "ArgMin", "Shape", "Size"), INT64) | dict.fromkeys(_COMPARISONS, BOOL)
"""Operators whose outputs are of a type of their own."""
_NEVER_HALF = {("Resize", 1), ("Resize", 2)}
"""Inputs that ONNX defines as float32 whatever the data are."""
_MIN_OPSET_WITH_HALF_SCALES = 19


def in_half(graph: Graph, keep: Collection[str] = ()) -> Graph:
    """`graph` with every float tensor in half precision, except around the nodes that `keep` names.

    Inputs and outputs of the graph keep their types. A kept node reads and answers FP32; casts stand between.

    Raises
    ------
    PackError
        An operator that this is not known for, a constant that half precision cannot hold, or a node in `keep` that
        the graph does not have.
    """
    missing = set(keep) - {node.name for node in graph.nodes}
    if missing:
        raise PackError("a node to keep in FP32 is not in the graph", where=graph.where, found=sorted(missing)[0])
    return _Halving(graph, frozenset(keep)).run()


class _Halving:
    def __init__(self, graph: Graph, keep: frozenset[str]) -> None:
        self.graph, self.keep = graph, keep
        self.constants = {constant.name: constant for constant in graph.constants}
        self.kinds = dict(graph.inputs) | {name: c.data_type for name, c in self.constants.items()}
        self.types = dict(graph.inputs)  # what a tensor really is by now
        self.nodes: list[Node] = []
        self.made: dict[tuple[str, int], str] = {}
        self.new_constants: list[Constant] = []
        self.read: set[str] = set()

    def run(self) -> Graph:
        graph = self.graph
        for node in graph.nodes:
            self._convert(node)
        for name, kind in graph.outputs.items():
            if kind == FLOAT and self.types[name] == FLOAT16:
                self._answer_in_float(name)
        if any(node.op_type == "DequantizeLinear" for node in self.nodes):
            graph.opset = max(graph.opset, _MIN_OPSET_WITH_HALF_SCALES)
        graph.nodes[:] = self.nodes
        halved = {name for name, _ in self.made} - self.read
        graph.constants[:] = [c for c in graph.constants if c.name not in halved] + self.new_constants
        return graph

    def _convert(self, node: Node) -> None:
        kind = self._kind(node)
        wanted = FLOAT if node.name in self.keep else FLOAT16
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and wanted == FLOAT16:
            self._half_scale(node)
        elif node.op_type != "Cast":
            node.inputs[:] = [
                self._as(name, FLOAT if (node.op_type, i) in _NEVER_HALF else wanted)
                for i, name in enumerate(node.inputs)
            ]
        elif kind == FLOAT:
            node.set_integer("to", wanted)
        for name in node.outputs:
            self.kinds[name] = kind
            self.types[name] = wanted if kind == FLOAT else kind
        self.nodes.append(node)

    def _half_scale(self, node: Node) -> None:
        """Give a rounding node its scale in half precision, rounded up so that nothing is clipped and none is zero.

        Weights of a few 1e-6 have scales that half precision holds poorly or not at all: weights stored in 8 bits are
        rounded again to the scale they got.
        """
        data, scale, *zero = node.inputs
        stored = self.constants.get(scale)
        if stored is None:
            raise PackError("a scale that is no constant", where=f"{self.graph.where}: {node.name}", found=scale)
        values = stored.array()
        half = _rounded_up(values)
        if (scale, FLOAT16) not in self.made:
            self.made[scale, FLOAT16] = f"{scale}.fp16"
            self.new_constants.append(Constant.of(f"{scale}.fp16", half))
        integers = self.constants.get(data)
        if node.op_type == "DequantizeLinear" and integers is not None:
            shape = [-1 if axis == node.integer("axis", 1) else 1 for axis in range(len(integers.dims))]
            ratio = (values / half.astype(np.float32)).reshape(shape if values.ndim else ())
            again = np.rint(integers.array() * ratio).astype(np.int8)
            data = f"{data}.fp16"
            self.made[node.inputs[0], FLOAT16] = data
            self.new_constants.append(Constant.of(data, again))
        else:
            data = self._as(data, FLOAT16)
        self.read.update(zero)
        node.inputs[:] = [data, f"{scale}.fp16", *zero]

    def _kind(self, node: Node) -> int:
        """The type of the node's outputs in the FP32 graph."""
        if node.domain in ("", "ai.onnx"):
            if node.op_type in _LIKE_INPUT:
                return self.kinds[node.inputs[0]]
            if node.op_type == "Where":
                return self.kinds[node.inputs[1]]
            if node.op_type == "Cast":
                return node.integer("to", FLOAT)
            if node.op_type == "QuantizeLinear" and len(node.inputs) > 2:
                return self.kinds[node.inputs[2]]
            if node.op_type == "DequantizeLinear":
                return FLOAT
            if node.op_type in _OTHER:
                return _OTHER[node.op_type]
        raise PackError(
            "an operator that half precision is not known for",
            where=f"{self.graph.where}: {node.name}",
            found=f"{node.domain}.{node.op_type}".lstrip("."),
            remedy="run the network in fp32",
        )

    def _as(self, name: str, wanted: int) -> str:
        """The tensor that holds `name` in the type wanted."""
        if not name or self.kinds[name] != FLOAT:
            self.read.add(name)
            return name
        constant = self.constants.get(name)
        have = FLOAT if constant is not None else self.types[name]
        if have == wanted:
            self.read.add(name)
            return name
        key = (name, wanted)
        if key not in self.made:
            made = self.made[key] = f"{name}.{'fp16' if wanted == FLOAT16 else 'fp32'}"
            if constant is not None:
                self.new_constants.append(_half_constant(constant, made, self.graph.where))
            else:
                self.nodes.append(_cast(name, made, wanted))
        return self.made[key]

    def _answer_in_float(self, name: str) -> None:
        """The graph's output `name` again in FP32; whatever else read it reads the half tensor."""
        half = f"{name}.fp16"
        for node in self.nodes:
            node.outputs[:] = [half if output == name else output for output in node.outputs]
            node.inputs[:] = [half if source == name else source for source in node.inputs]
        self.nodes.append(_cast(half, name, FLOAT))


def _cast(name: str, made: str, to: int) -> Node:
    node = Node("Cast", f"{made}.cast", [name], [made])
    node.set_integer("to", to)
    return node


def _rounded_up(values: np.ndarray) -> np.ndarray:
    """The smallest half-precision numbers not below the values."""
    half = values.astype(np.float16)
    return np.where(half.astype(np.float32) < values, np.nextafter(half, np.float16(np.inf)), half)


def _half_constant(constant: Constant, name: str, where: str) -> Constant:
    values = constant.array()
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise PackError(
            "a constant overflows half precision",
            where=f"{where}: {constant.name}",
            expected="at most 65504",
            found=f"{np.abs(values).max():.6g}",
            remedy="keep the nodes that read it in FP32",
        )
    return Constant.of(name, half)

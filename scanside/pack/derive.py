"""The precisions of a network, all derived from the one graph a pack ships.

The shipped graph has weights in 8 bits and, once calibrated, activations through QuantizeLinear and DequantizeLinear:
as it stands it is the **int8** graph, but for the weights of what is not rounded, which are unfolded. Without the
activation pairs it is the graph that **fp32** and **bf16** run (a runtime chooses the arithmetic). In half precision it
is the **fp16** graph, but for the nodes that measurement keeps in FP32. **int8-fp16** is the int8 graph whose remaining
tensors are in half precision, for a GPU. **int8-u8** is the int8 graph whose activations behind ReLU and SiLU are
unsigned: a processor without 8-bit dot products (VNNI) multiplies signed activations with weights of 7 bits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from scanside.errors import PackError
from scanside.pack.half import in_half
from scanside.pack.onnx_graph import FLOAT, FLOAT16, Constant, Graph, Node, renamed

_SILU_LEAST = -0.2785
"""x sigmoid(x) is nowhere less (-0.27846)."""

_MODE = b"\n\x04mode"
"""How an attribute named "mode" begins."""
_UNSIGNED_ZERO = "unsigned.zero."
_MOST_ZERO = 128
"""Above it uint8 would hold less of the positive side than int8 does."""


def derived_graph(graph: bytes, precision: str, keep: Collection[str] = (), *, where: str = "graph") -> bytes:
    """The ONNX graph that runs in `precision`, from the one that the pack ships.

    Parameters
    ----------
    graph : bytes
        The shipped graph.
    precision : str
        One of `scanside.pack.manifest.GRAPH_PRECISIONS`.
    keep : collection of str
        Names of nodes that stay FP32 in "fp16" and "int8-fp16".
    where : str
        What errors call the graph.

    Raises
    ------
    PackError
        The graph is no ONNX model, a weight is not finite, or it holds what cannot be derived from: an operator that
        half precision is not known for, a rounded tensor that something else reads, a constant that overflows.
    ValueError
        An unknown precision.
    """
    parsed = Graph(graph, where)
    _require_finite(parsed)
    if precision in ("fp32", "bf16"):
        rounds = any(node.op_type == "QuantizeLinear" for node in parsed.nodes)
        return without_activation_rounding(parsed).to_bytes() if rounds else graph
    if precision == "fp16":
        return in_half(with_folded_weights(without_activation_rounding(parsed)), keep).to_bytes()
    if precision in ("int8", "int8-fp16", "int8-u8"):
        if not has_activation_rounding(parsed):
            raise _not_calibrated(where)
        rounded = with_folded_weights(parsed, _weights_beside_floats(parsed))
        if precision == "int8-fp16":
            rounded = in_half(rounded, keep)
        elif precision == "int8-u8":
            rounded = with_unsigned_activations(rounded)
        return rounded.to_bytes()
    raise ValueError(f"unknown precision {precision!r}")


def has_activation_rounding(graph: Graph) -> bool:
    """Whether `graph` was calibrated: it rounds at least one activation to 8 bits."""
    constants = {constant.name for constant in graph.constants}
    return any(node.op_type == "QuantizeLinear" and node.inputs[0] not in constants for node in graph.nodes)


def without_activation_rounding(graph: Graph) -> Graph:
    """`graph` without its QuantizeLinear-DequantizeLinear pairs; weights stored in 8 bits stay as they are.

    Raises
    ------
    PackError
        A rounded tensor is read by something else than DequantizeLinear.
    """
    sources = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op_type == "QuantizeLinear"}
    if not sources:
        return graph
    replaced: dict[str, str] = {}
    kept, dropped = [], []
    for node in graph.nodes:
        node.inputs[:] = renamed(node.inputs, replaced)
        if node.op_type == "QuantizeLinear":
            sources[node.outputs[0]] = node.inputs[0]
            dropped.append(node)
        elif node.op_type == "DequantizeLinear" and node.inputs[0] in sources:
            replaced[node.outputs[0]] = sources[node.inputs[0]]
            dropped.append(node)
        else:
            kept.append(node)
    left = {name for node in kept for name in node.inputs} | set(graph.outputs)
    _refuse_stranded(graph, left & (set(sources) | set(replaced)))
    graph.nodes[:] = kept
    _drop_unused(graph, {name for node in dropped for name in node.inputs})
    return graph


def _refuse_stranded(graph: Graph, names: Collection[str]) -> None:
    if names:
        raise PackError(
            "a rounded tensor is read by something else than DequantizeLinear",
            where=f"{graph.where}: {min(names)}",
            remedy="calibrate the pack again with this version of scanside",
        )


def with_unsigned_activations(graph: Graph) -> Graph:
    """`graph` with the pairs on what ReLU and SiLU give in uint8, with the same scale and another zero; see `_least`.

    No value changes but those beyond the magnitude that int8 holds: uint8 holds twice as much. The scale stays, since
    two products of at most 127 times 127 fit the 16 bits in which a processor without dot products adds them.

    Raises
    ------
    PackError
        A rounded tensor is read by something else than DequantizeLinear.
    """
    made = {output: node for node in graph.nodes for output in node.outputs}
    scales = {constant.name: float(constant.array()) for constant in graph.constants if _is_scale(constant)}
    zeros: dict[str, int] = {}
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear" and node.inputs[1] in scales:
            least = _least(node.inputs[0], made)
            zero = None if least is None else math.ceil(-least / scales[node.inputs[1]])
            if zero is not None and zero <= _MOST_ZERO:
                zeros[node.outputs[0]] = zero
    before, others = set(), set(graph.outputs)
    for node in graph.nodes:
        rounded = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0] if node.inputs else ""
        if rounded in zeros and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            before.update(node.inputs[2:])
            node.inputs[2:] = [f"{_UNSIGNED_ZERO}{zeros[rounded]}"]
        else:
            others.update(node.inputs)
    _refuse_stranded(graph, others & zeros.keys())
    for zero in dict.fromkeys(zeros.values()):
        graph.constants.append(Constant.of(f"{_UNSIGNED_ZERO}{zero}", np.array(zero, np.uint8)))
    _drop_unused(graph, before)
    return graph


def _is_cubic(node: Node) -> bool:
    """Whether a Resize may give less than it takes."""
    return any(bytes(a).startswith(_MODE) and b"cubic" in bytes(a) for a in node.attributes)


def _is_scale(constant: Constant) -> bool:
    return constant.data_type == FLOAT and not constant.dims


def _least(name: str, made: Mapping[str, Node]) -> float | None:
    """The least value that a tensor can have: ReLU's and SiLU's, also pooled, enlarged, concatenated or gated."""
    node = made.get(name)
    if node is None:
        return None
    if node.op_type == "Relu":
        return 0.0
    if node.op_type == "MaxPool" or (node.op_type == "Resize" and not _is_cubic(node)):
        return _least(node.inputs[0], made)
    if node.op_type == "Concat":
        parts = [_least(name, made) for name in node.inputs]
        return None if None in parts else min(part for part in parts if part is not None)
    if node.op_type == "Mul":
        for gated, gate in (node.inputs, reversed(node.inputs)):
            sigmoid = made.get(gate)
            if sigmoid is not None and sigmoid.op_type == "Sigmoid":
                return _SILU_LEAST if sigmoid.inputs[0] == gated else _least(gated, made)
    return None


def with_folded_weights(graph: Graph, names: Collection[str] | None = None) -> Graph:
    """`graph` with its 8-bit weights, or those named, as FP32 constants, for runtimes that do not fold them themselves.

    `names` are those of the tensors that DequantizeLinear makes of them.
    """
    constants = {constant.name: constant for constant in graph.constants}
    kept, folded, read = [], [], set()
    for node in graph.nodes:
        wanted = names is None or node.outputs[0] in names
        if wanted and node.op_type == "DequantizeLinear" and all(name in constants for name in node.inputs):
            folded.append(_folded([constants[name] for name in node.inputs], node.integer("axis", 1), node.outputs[0]))
            read.update(node.inputs)
        else:
            kept.append(node)
    graph.nodes[:] = kept
    graph.constants += folded
    _drop_unused(graph, read)
    return graph


def _weights_beside_floats(graph: Graph) -> set[str]:
    """Weights that are multiplied, somewhere, with activations that are not rounded.

    OpenVINO 2026.4 stops the process (a division by zero) at a product of bf16 activations with 8-bit weights in a
    graph that also has rounded convolutions.
    """
    constants = {constant.name for constant in graph.constants}
    made = {node.outputs[0]: node.inputs[0] in constants for node in graph.nodes if node.op_type == "DequantizeLinear"}
    beside: set[str] = set()
    for node in graph.nodes:
        weights = {name for name in node.inputs if made.get(name)}
        if weights and not any(made.get(name) is False for name in node.inputs):
            beside |= weights
    return beside


def _require_finite(graph: Graph) -> None:
    for constant in graph.constants:
        if constant.data_type in (FLOAT, FLOAT16) and not np.isfinite(constant.array()).all():
            raise PackError(
                "a weight is not finite",
                where=f"{graph.where}: {constant.name}",
                expected="finite weights",
                found="NaN or infinity",
                remedy="train or export the network again",
            )


def _not_calibrated(where: str) -> PackError:
    return PackError(
        "the graph has no 8-bit activations",
        where=where,
        expected="QuantizeLinear on activations",
        found="none",
        remedy="make an int8 pack with `scanside calibrate`",
    )


def _folded(parts: list[Constant], axis: int, name: str) -> Constant:
    values = parts[0].array().astype(np.float32)
    if len(parts) > 2:
        values -= _along(parts[2].array().astype(np.float32), axis, values.ndim)
    values *= _along(parts[1].array(), axis, values.ndim)
    return Constant.of(name, values)


def _along(vector: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return vector.reshape([-1 if a == axis % ndim else 1 for a in range(ndim)]) if vector.ndim else vector


def _drop_unused(graph: Graph, candidates: Collection[str]) -> None:
    unused = set(candidates) - graph.names_read()
    graph.constants[:] = [constant for constant in graph.constants if constant.name not in unused]

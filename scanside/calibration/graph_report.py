"""What `scanside inspect GRAPH` and `scanside lint` say of a graph: layers, precisions, pairs, memory, findings."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from scanside.calibration.graph import WEIGHTED, GraphView, load_graph, pairs
from scanside.calibration.lint import Finding, lint, runs_in_8_bits
from scanside.calibration.memory import activation_bytes, multiplications, tensor_shapes
from scanside.errors import PackError
from scanside.pack import MANIFEST_NAME, NETWORKS, load_pack
from scanside.pack.derive import derived_graph

DIMS: Mapping[str, int] = {"batch": 1, "height": 256, "width": 256}
"""Sizes given to the free dimensions of the graph contract."""


@dataclass(frozen=True)
class Layer:
    """One weighted operation. `precision` is of its arithmetic; `weight_bits` of the weight as stored."""

    name: str
    op_type: str
    precision: str
    weight_bits: int
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    multiplications: int


@dataclass(frozen=True)
class GraphReport:
    """An ONNX graph, described. `activation_bytes` is the estimated peak by precision, "as it is" the graph's own."""

    name: str
    sha256: str
    bytes: int
    opset: int
    dims: Mapping[str, int]
    operators: Mapping[str, int]
    layers: tuple[Layer, ...]
    activation_pairs: int
    activation_bytes: Mapping[str, int]
    findings: tuple[Finding, ...]

    @property
    def int8_share(self) -> float:
        """The part of all multiplications that runs in 8 bits."""
        total = sum(layer.multiplications for layer in self.layers)
        return sum(v.multiplications for v in self.layers if v.precision == "int8") / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {"schema": "scanside-graph-report/1", **asdict(self), "int8_share": round(self.int8_share, 4)}


def graph_report(data: bytes, name: str, dims: Mapping[str, int] | None = None) -> GraphReport:
    """Describe the ONNX graph in `data`.

    Raises
    ------
    PackError
        No ONNX model, data outside the file, an unknown operator, a weight that is not finite, or shapes that cannot
        be known.
    """
    dims = DIMS if dims is None else dims
    model = load_graph(data, name)
    view = GraphView(model)
    shapes = tensor_shapes(model, dims)
    layers = tuple(_layer(view, node, shapes) for node in view.nodes if node.op_type in WEIGHTED)
    operators = Counter(node.op_type for node in view.nodes)
    return GraphReport(
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0),
        dims=dict(dims),
        operators=dict(operators.most_common()),
        layers=layers,
        activation_pairs=len({q.name or q.output[0] for q, _ in pairs(view)}),
        activation_bytes=_memory(data, model, dims),
        findings=lint(model),
    )


def graph_reports(path: Path) -> tuple[GraphReport, ...]:
    """The reports of a graph file, or of both networks of a pack as they are shipped.

    Raises
    ------
    PackError
        As `graph_report` and `load_pack`; or nothing is at `path`.
    """
    if path.is_dir() or path.name == MANIFEST_NAME:
        pack = load_pack(path if path.is_dir() else path.parent)
        return tuple(graph_report(pack.graph_bytes(network), network) for network in NETWORKS)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackError("the graph cannot be read", where=path, found=error.strerror) from None
    return (graph_report(data, path.name),)


def _layer(view: GraphView, node: onnx.NodeProto, shapes: Mapping[str, tuple[tuple[int, ...], int]]) -> Layer:
    shape, kind = shapes.get(node.output[0], ((), onnx.TensorProto.FLOAT))
    stored = view.stored(node.input[1])
    in_int8 = stored is not None and stored.data_type == onnx.TensorProto.INT8
    wide = "fp16" if kind == onnx.TensorProto.FLOAT16 else "fp32"
    rounded = runs_in_8_bits(view, node)
    bits = 8 if in_int8 or rounded else 16 if wide == "fp16" else 32
    return Layer(
        name=node.name or node.output[0],
        op_type=node.op_type,
        precision="int8" if rounded else wide,
        weight_bits=bits,
        weight_shape=view.weight_shape(node) or (),
        output_shape=shape,
        multiplications=multiplications(view, node, shapes),
    )


def _memory(data: bytes, model: onnx.ModelProto, dims: Mapping[str, int]) -> dict[str, int]:
    """Estimated peaks: of the graph as it is, and of every precision that can be derived from it."""
    peaks = {"as it is": activation_bytes(model, dims)}
    for precision in ("fp32", "fp16", "int8", "int8-fp16"):
        try:
            derived = derived_graph(data, precision)
        except PackError:  # not calibrated, or no half-precision form: this precision has no estimate
            continue
        peaks[precision] = activation_bytes(onnx.load_from_string(derived), dims)
    return peaks

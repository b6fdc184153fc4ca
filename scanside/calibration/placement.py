"""Where 8-bit pairs go in a graph, by `scanside.calibration.rules`, and the graph with them in place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from scanside.calibration.graph import WEIGHTED, GraphView, channel_axis
from scanside.calibration.rules import refusal, rounded_input, shared_scales, skip_input
from scanside.calibration.weights import LEVELS, channel_scales
from scanside.errors import CalibrationError, PackError

KEPT = "kept in higher precision by choice"
ZERO = "zero.int8"


@dataclass(frozen=True)
class Point:
    """One place that reads a tensor rounded to 8 bits: a node's input."""

    tensor: str
    node: str
    input: int


@dataclass(frozen=True)
class Placement:
    """What of a graph runs in 8 bits.

    `points` are the rounded inputs, `rounded` the weighted operations that run in 8 bits, `refused` the others with
    the reason, and `shared` the groups of rounded tensors that have one scale. Operations are named by their node.
    """

    points: tuple[Point, ...]
    rounded: tuple[str, ...]
    refused: Mapping[str, str]
    shared: tuple[frozenset[str], ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors whose range must be known, in the graph's order."""
        return tuple(dict.fromkeys(point.tensor for point in self.points))


def plan_placement(model: onnx.ModelProto, keep: Collection[str] = ()) -> Placement:
    """Where pairs go in `model`, which has none yet; the operations named in `keep` get none.

    Raises
    ------
    PackError
        A node without a name, or two of one name.
    """
    view = GraphView(model)
    _require_names(view)
    points: dict[Point, None] = {}
    rounded, refused = [], {}
    for node in view.nodes:
        if node.op_type not in WEIGHTED:
            continue
        reason = KEPT if node.name in keep else refusal(view, node)
        if reason is not None:
            refused[node.name] = reason
            continue
        rounded.append(node.name)
        tensor, reader, index = rounded_input(view, node)
        points[Point(tensor, reader.name, index)] = None
    for node in view.nodes:
        skip = skip_input(view, node)
        if skip is not None:
            backbone = view.producer(node.input[1 - skip])
            if backbone is not None and backbone.name in rounded:
                points[Point(node.input[skip], node.name, skip)] = None
    tensors = {point.tensor for point in points}
    shared = tuple(group & tensors for group in shared_scales(view) if len(group & tensors) > 1)
    return Placement(tuple(points), tuple(rounded), refused, shared)


def scales_of(placement: Placement, amax: Mapping[str, float]) -> dict[str, np.float32]:
    """The scale of each rounded tensor, from the largest magnitude it is to hold; shared groups take their largest.

    Raises
    ------
    CalibrationError
        A tensor without a range, or with a range of zero.
    """
    scales = {}
    for tensor in placement.tensors:
        group = next((g for g in placement.shared if tensor in g), frozenset((tensor,)))
        missing = sorted(name for name in group if name not in amax)
        if missing:
            raise CalibrationError(
                "a tensor has no range",
                where=missing[0],
                remedy="the ranges were made for another graph or placement: calibrate again",
            )
        largest = max(amax[name] for name in group)
        if not 0 < largest < np.inf:
            raise CalibrationError(
                "a tensor never differs from zero in the calibration data",
                where=tensor,
                expected="a range above 0",
                found=f"{largest:g}",
                remedy="calibrate with pictures that are not all black",
            )
        scales[tensor] = np.float32(largest / LEVELS)
    return scales


def with_pairs(model: onnx.ModelProto, placement: Placement, scales: Mapping[str, np.float32]) -> onnx.ModelProto:
    """A copy of `model` with QuantizeLinear-DequantizeLinear at the placement's points and on float weights.

    One pair a tensor, made once and read by all its points. Weights stored in 8 bits stay as they are; a float weight
    of an operation that runs in 8 bits gets a pair with one scale an output channel, so that dropping all pairs gives
    back the graph as it was. Biases stay float.

    Raises
    ------
    PackError
        A weight is not finite, or the graph does not have a point's node.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    view = GraphView(made)
    by_name = {node.name: node for node in view.nodes}
    before: dict[str, list[onnx.NodeProto]] = {}
    after: dict[str, list[onnx.NodeProto]] = {}
    constants: list[onnx.TensorProto] = []
    paired: set[str] = set()
    for tensor in placement.tensors:
        constants.append(numpy_helper.from_array(np.array(scales[tensor], np.float32), f"{tensor}.scale"))
        maker = view.producer(tensor)
        key, slot = ("", before) if maker is None else (maker.name, after)
        slot.setdefault(key, []).extend(_pair(tensor, tensor, f"{tensor}.scale", ZERO))
    if constants:
        constants.append(numpy_helper.from_array(np.array(0, np.int8), ZERO))
    for point in placement.points:
        if point.node not in by_name:
            raise PackError("the placement is of another graph", where=point.node)
        by_name[point.node].input[point.input] = f"{point.tensor}.rounded"
    for name in placement.rounded:
        node = by_name[name]
        weight = view.constants.get(node.input[1])
        if weight is not None:
            if weight.name not in paired:  # one that several operations read is rounded once, for the first
                parts, nodes = _rounded_weight(node, weight)
                constants += parts
                before.setdefault(name, []).extend(nodes)
                paired.add(weight.name)
            node.input[1] = f"{weight.name}.rounded"
    nodes = list(before.pop("", []))
    for node in view.nodes:
        nodes += [*before.get(node.name, []), node, *after.get(node.name, [])]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    known = {tensor.name for tensor in made.graph.initializer}
    made.graph.initializer.extend(tensor for tensor in constants if tensor.name not in known)
    return made


def _rounded_weight(
    node: onnx.NodeProto, weight: onnx.TensorProto
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    values: NDArray[np.float32] = numpy_helper.to_array(weight).astype(np.float32)
    axis = channel_axis(node) % values.ndim
    scale = channel_scales(values, axis)
    names = f"{weight.name}.scale", f"{weight.name}.zero"
    parts = [
        numpy_helper.from_array(scale, names[0]),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), names[1]),
    ]
    return parts, _pair(weight.name, weight.name, *names, axis=axis)


def _pair(tensor: str, name: str, scale: str, zero: str, axis: int | None = None) -> list[onnx.NodeProto]:
    q = helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{name}.int8"], name=f"{name}.q")
    dq = helper.make_node("DequantizeLinear", [q.output[0], scale, zero], [f"{name}.rounded"], name=f"{name}.dq")
    if axis is not None:
        for node in (q, dq):
            node.attribute.append(helper.make_attribute("axis", axis))
    return [q, dq]


def _require_names(view: GraphView) -> None:
    names: set[str] = set()
    for node in view.nodes:
        if not node.name or node.name in names:
            raise PackError(
                "the graph's nodes need names of their own",
                where=node.name or f"{node.op_type} that makes {node.output[0]}",
                remedy="export the network again",
            )
        names.add(node.name)

"""What keeps a rounded graph from running fast in 8 bits: operations left out, broken fusions, likely reformats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from scanside.calibration.graph import WEIGHTED, GraphView, channel_axis, pairs
from scanside.calibration.memory import scale_of
from scanside.calibration.rules import COPIES, epilogue, refusal, shared_scales, skip_input

NOT_INT8, BROKEN_FUSION, REFORMAT = "not in 8 bits", "broken fusion", "reformat"


@dataclass(frozen=True)
class Finding:
    """One thing to know. `kind` is `NOT_INT8`, `BROKEN_FUSION` or `REFORMAT`; `node` names where."""

    kind: str
    node: str
    text: str


def lint(model: onnx.ModelProto) -> tuple[Finding, ...]:
    """Everything found in a graph, in its order; a graph without activation pairs has nothing to find."""
    view = GraphView(model)
    if not any(True for _ in pairs(view)):
        return ()
    order = {node.name: i for i, node in enumerate(view.nodes)}
    rules = (
        _not_in_8_bits,
        _pairs_in_epilogues,
        _wrong_residual,
        _biases,
        _activations_by_channel,
        _reformats,
        _scales,
    )
    found = {finding: None for rule in rules for finding in rule(view)}
    return tuple(sorted(found, key=lambda finding: order.get(finding.node, 0)))


def runs_in_8_bits(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a weighted operation reads both its input and its weight rounded."""
    if node.op_type not in WEIGHTED or len(node.input) < 2:
        return False
    return _is_rounded(view, _behind_padding(view, node)) and _is_rounded(view, node.input[1])


def _not_in_8_bits(view: GraphView) -> Iterator[Finding]:
    for node in view.nodes:
        if node.op_type in WEIGHTED and not runs_in_8_bits(view, node):
            if not _is_rounded(view, _behind_padding(view, node)):
                reason = refusal(view, node) or "its input is not rounded"
            else:
                reason = "its weight is not rounded"
            yield Finding(NOT_INT8, node.name, f"{node.op_type} runs in higher precision: {reason}")


def _pairs_in_epilogues(view: GraphView) -> Iterator[Finding]:
    """A pair between an operation and what would run inside its kernel."""
    for node in view.nodes:
        if not runs_in_8_bits(view, node):
            continue
        for member in (node, *epilogue(view, node)):
            for q, _ in view.consumers(member.output[0]):
                if q.op_type != "QuantizeLinear":
                    continue
                for follower in _after_pair(view, q):
                    if follower.op_type in ("Relu", "Sigmoid", "HardSigmoid", "Clip", "BatchNormalization"):
                        text = f"a pair between {node.op_type} and its {follower.op_type}: round after it"
                        yield Finding(BROKEN_FUSION, node.name, text)


def _wrong_residual(view: GraphView) -> Iterator[Finding]:
    """A residual addition whose backbone is rounded, or whose skip input is not."""
    for node in view.nodes:
        if node.op_type != "Add":
            continue
        makers = [_maker_behind_pair(view, name) for name in node.input]
        rounded = [_is_rounded(view, name) for name in node.input]
        convolutions = [m is not None and runs_in_8_bits(view, m) for m in makers]
        if all(rounded) and any(convolutions):
            yield Finding(
                BROKEN_FUSION, node.name, "both inputs of a residual addition are rounded: round the skip alone"
            )
            continue
        skip = skip_input(view, node)
        if skip is None:
            continue
        if rounded[1 - skip]:
            text = "the backbone of a residual addition is rounded, which keeps the addition out of its kernel"
            yield Finding(BROKEN_FUSION, node.name, text)
        elif not rounded[skip] and convolutions[1 - skip]:
            yield Finding(BROKEN_FUSION, node.name, "the skip input of a residual addition is not rounded")


def _biases(view: GraphView) -> Iterator[Finding]:
    for node in view.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2:
            maker = view.producer(node.input[2])
            if maker is not None and maker.op_type == "DequantizeLinear":
                yield Finding(BROKEN_FUSION, node.name, "its bias is rounded, which TensorRT rejects: keep it float")


def _activations_by_channel(view: GraphView) -> Iterator[Finding]:
    """TensorRT rounds activations symmetrically, by one scale a tensor; weights by channel."""
    for q, _ in pairs(view):
        scale = view.constants.get(q.input[1])
        zero = view.constants.get(q.input[2]) if len(q.input) > 2 else None
        if scale is None or int(onnx.numpy_helper.to_array(scale).size) != 1:
            yield Finding(BROKEN_FUSION, q.name, "an activation with more than one scale")
        if zero is None or zero.data_type != onnx.TensorProto.INT8 or onnx.numpy_helper.to_array(zero).any():
            yield Finding(
                BROKEN_FUSION, q.name, "an activation rounded asymmetrically: int8 with zero point 0 is needed"
            )
    for node in view.nodes:
        if runs_in_8_bits(view, node):
            maker = view.producer(node.input[1])
            shape = view.weight_shape(node)
            scale = None if maker is None else view.constants.get(maker.input[1])
            if shape and scale is not None and list(scale.dims) not in ([], [1], [shape[channel_axis(node)]]):
                yield Finding(
                    BROKEN_FUSION, node.name, "its weight has scales along another axis than its output channels"
                )


def _reformats(view: GraphView) -> Iterator[Finding]:
    """Rounded values that are made float again, or copied in float between 8-bit operations."""
    for _, dq in pairs(view):
        for node, _ in view.consumers(dq.output[0]):
            if node.op_type in COPIES and node.op_type != "Pad":
                text = f"{node.op_type} reads a rounded tensor: put the pair behind it"
                yield Finding(REFORMAT, node.name, text)
    for node in view.nodes:
        if node.op_type in ("Concat", *COPIES):
            kinds = {_is_made_in_8_bits(view, name) for name in node.input[: None if node.op_type == "Concat" else 1]}
            readers = [reader.op_type == "QuantizeLinear" for reader, _ in view.consumers(node.output[0])]
            if readers and any(readers) and not all(readers):
                text = f"what {node.op_type} makes is read both rounded and unrounded"
                yield Finding(REFORMAT, node.name, text)
            elif node.op_type == "Concat" and readers and all(readers) and kinds == {True, False}:
                text = "a concatenation joins tensors of 8-bit operations with others"
                yield Finding(REFORMAT, node.name, text)


def _scales(view: GraphView) -> Iterator[Finding]:
    """Tensors that meet in a concatenation but have several scales."""
    for group in shared_scales(view):
        scales = {scale_of(view, q) for q, _ in pairs(view) if q.input[0] in group}
        if len(scales) > 1:
            joint = next(n.name for n in view.nodes if n.op_type == "Concat" and n.output[0] in group)
            text = f"{len(scales)} scales among tensors that meet in a concatenation: give them one"
            yield Finding(REFORMAT, joint, text)


def _is_rounded(view: GraphView, tensor: str) -> bool:
    maker = view.producer(tensor)
    return maker is not None and maker.op_type == "DequantizeLinear"


def _behind_padding(view: GraphView, node: onnx.NodeProto) -> str:
    maker = view.producer(node.input[0])
    return maker.input[0] if maker is not None and maker.op_type == "Pad" else node.input[0]


def _maker_behind_pair(view: GraphView, tensor: str) -> onnx.NodeProto | None:
    maker = view.producer(tensor)
    while maker is not None and maker.op_type in ("QuantizeLinear", "DequantizeLinear"):
        maker = view.producer(maker.input[0])
    return maker


def _after_pair(view: GraphView, q: onnx.NodeProto) -> list[onnx.NodeProto]:
    dequantized = [dq for dq, _ in view.consumers(q.output[0])]
    return [node for dq in dequantized for node, _ in view.consumers(dq.output[0])]


def _is_made_in_8_bits(view: GraphView, tensor: str) -> bool:
    """Whether a tensor leaves the kernel of an operation that runs in 8 bits, seen through copies and activations."""
    maker = view.producer(tensor)
    while maker is not None and view.weight_shape(maker) is None:
        if maker.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return True
        maker = view.producer(maker.input[0]) if maker.input else None
    return maker is not None and runs_in_8_bits(view, maker)

"""TensorRT's rules for where 8-bit pairs may stand so that a convolution still runs as one kernel.

Each rule is one function. A *refusal* says why a weighted operation stays in higher precision, or None. They are the
rules that NVIDIA Model Optimizer applies for convolution fusion:

* pairs on inputs of weighted operations only, never between an operation and its epilogue;
* a residual addition rounds its skip input alone;
* tensors that meet in a concatenation share one scale;
* zero padding stands directly before its convolution, so the pair goes before the padding;
* small channel counts, depthwise kernels below 3, products of a vector with a matrix stay;

and ours: squeeze-and-excitation stays whole, and so do the first and the last operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx

from scanside.calibration.graph import GraphView, attribute

MIN_CHANNELS = 16
CHANNEL_MULTIPLE = 8
MIN_DEPTHWISE_KERNEL = 3
MIN_PRODUCT = 16

COPIES = ("Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose")
"""Operations whose output holds values of their input: they keep its scale and need no pair of their own."""
_POOLS = ("GlobalAveragePool", "ReduceMean", "GlobalMaxPool", "ReduceMax")
_POINTWISE = ("Relu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Clip", "Mul", "Add", "Tanh", "Identity")
_GATES = ("Sigmoid", "HardSigmoid", "Clip", "Tanh")

Refusal = Callable[[GraphView, onnx.NodeProto], str | None]


def constant_weight(view: GraphView, node: onnx.NodeProto) -> str | None:
    """A product of two activations has no weight to store in 8 bits."""
    return None if view.weight_shape(node) is not None else "its second factor is no constant weight"


def small_channels(view: GraphView, node: onnx.NodeProto) -> str | None:
    """Fewer than 16 channels leave an 8-bit kernel nothing to multiply, save for square kernels of a multiple of 8."""
    shape = view.weight_shape(node)
    if node.op_type not in ("Conv", "ConvTranspose") or shape is None or attribute(node, "group", 1) != 1:
        return None
    sides = shape[:2]
    if min(sides) >= MIN_CHANNELS:
        return None
    square = len(set(shape[2:])) == 1
    aligned = any(side % CHANNEL_MULTIPLE == 0 for side in sides)
    if square and aligned and (max(sides) >= MIN_CHANNELS or first_operation(view, node)):
        return None
    return f"{min(sides)} channels on one side, {MIN_CHANNELS} needed"


def grouped(view: GraphView, node: onnx.NodeProto) -> str | None:
    """A grouped or depthwise convolution needs output channels in multiples of 8 and no kernel side below 3."""
    shape = view.weight_shape(node)
    group = attribute(node, "group", 1)
    if node.op_type not in ("Conv", "ConvTranspose") or shape is None or not isinstance(group, int) or group == 1:
        return None
    channels = shape[0] if node.op_type == "Conv" else shape[1] * group
    if channels % CHANNEL_MULTIPLE:
        return f"{channels} channels in {group} groups, a multiple of {CHANNEL_MULTIPLE} needed"
    if min(shape[2:]) < MIN_DEPTHWISE_KERNEL:
        return f"a kernel of {' x '.join(map(str, shape[2:]))} in {group} groups, {MIN_DEPTHWISE_KERNEL} needed"
    return None


def vector_product(view: GraphView, node: onnx.NodeProto) -> str | None:
    """A matrix product with one row or column, or a side below 16, is faster in higher precision."""
    shape = view.weight_shape(node)
    if node.op_type not in ("Gemm", "MatMul") or shape is None:
        return None
    if len(shape) < 2 or min(shape[-2:]) < MIN_PRODUCT:
        return f"a product of {' x '.join(map(str, shape))}, {MIN_PRODUCT} needed on each side"
    return None


def squeeze_excitation(view: GraphView, node: onnx.NodeProto) -> str | None:
    """The two small convolutions that weigh channels stay with their pooling and their gate."""
    pooled = _pool_behind(view, node)
    if pooled is None or not _gates(view, node.output[0], pooled.input[0]):
        return None
    return "part of squeeze-and-excitation, which stays whole"


def first_operation(view: GraphView, node: onnx.NodeProto) -> str | None:
    """The first weighted operation sees the picture: it costs little and feels every bit."""
    return None if view.depends_on_weights(node.input[0]) else "the first operation, which reads the picture"


def last_operation(view: GraphView, node: onnx.NodeProto) -> str | None:
    """The last weighted operation gives the answer's logits."""
    return None if node.output[0] in view.leads_to_weights else "the last operation, which gives the answer"


def beside_the_answer(view: GraphView, node: onnx.NodeProto) -> str | None:
    """What the graph's first output does not depend on (heatmaps) is drawn on request and not timed."""
    return None if node.output[0] in view.answering else "beside the answer"


REFUSALS: tuple[Refusal, ...] = (
    constant_weight,
    beside_the_answer,
    first_operation,
    last_operation,
    squeeze_excitation,
    small_channels,
    grouped,
    vector_product,
)


def refusal(view: GraphView, node: onnx.NodeProto) -> str | None:
    """Why a weighted operation stays in higher precision: the first rule that says so."""
    return next((reason for rule in REFUSALS if (reason := rule(view, node)) is not None), None)


def rounded_input(view: GraphView, node: onnx.NodeProto) -> tuple[str, onnx.NodeProto, int]:
    """Where the pair of a weighted operation goes: the tensor, and the node and input that will read it rounded.

    Before zero padding that only this operation reads, else before the operation itself.
    """
    pad = view.producer(node.input[0])
    if (
        pad is not None
        and pad.op_type == "Pad"
        and attribute(pad, "mode", b"constant") == b"constant"
        and len(view.consumers(pad.output[0])) == 1
    ):
        return pad.input[0], pad, 0
    return node.input[0], node, 0


def skip_input(view: GraphView, add: onnx.NodeProto) -> int | None:
    """The number of a residual addition's skip input; None where there is no residual addition to fuse.

    The other input is the backbone: the one with the longer way to the place where both part. It must come straight
    from a weighted operation, which then computes the addition as its epilogue. No residual: a constant operand, no
    common ancestor, or a backbone that is itself that ancestor.
    """
    if add.op_type != "Add" or any(view.is_constant(name) for name in add.input):
        return None
    ways = [view.ancestors(name) for name in add.input]
    common = ways[0].keys() & ways[1].keys()
    if not common:
        return None
    fork = max(common, key=lambda name: view.order[name])
    backbone = 0 if ways[0][fork] >= ways[1][fork] else 1
    maker = view.producer(add.input[backbone])
    if maker is None or view.weight_shape(maker) is None or maker.output[0] == fork:
        return None
    if len(view.consumers(add.input[backbone])) != 1:
        return None
    return 1 - backbone


def shared_scales(view: GraphView) -> list[frozenset[str]]:
    """Groups of tensors that must have one scale: all that meet in a concatenation, seen through copying operations."""
    groups: dict[str, set[str]] = {}

    def join(names: Iterable[str]) -> None:
        merged: set[str] = set()
        for name in names:
            merged |= groups.get(name, {name})
        for name in merged:
            groups[name] = merged

    for node in view.nodes:
        if node.op_type == "Concat":
            join([*(name for name in node.input if not view.is_constant(name)), *node.output])
        elif node.op_type in COPIES:
            join([node.input[0], *node.output])
    concatenated = {node.output[0] for node in view.nodes if node.op_type == "Concat"}
    unique = {id(group): group for group in groups.values()}
    return [frozenset(group) for group in unique.values() if group & concatenated]


def epilogue(view: GraphView, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The operations that run inside a weighted operation's kernel: activation (ReLU, SiLU) and residual addition.

    Followed while each intermediate tensor stays inside.
    """
    inside: list[onnx.NodeProto] = []
    tensor = node.output[0]
    while True:
        readers = [reader for reader, _ in view.consumers(tensor)]
        step = _silu(readers) or ([readers[0]] if len(readers) == 1 and readers[0].op_type in _POINTWISE else None)
        if step is None or tensor in view.outputs:
            return inside
        inside += step
        tensor = step[-1].output[0]


def _silu(readers: list[onnx.NodeProto]) -> list[onnx.NodeProto] | None:
    """Sigmoid and the product with its own input, when they are a tensor's only readers."""
    if len(readers) != 2 or {reader.op_type for reader in readers} != {"Sigmoid", "Mul"}:
        return None
    sigmoid, product = sorted(readers, key=lambda reader: reader.op_type != "Sigmoid")
    return [sigmoid, product] if sigmoid.output[0] in product.input else None


def _pool_behind(view: GraphView, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The global pooling that a weighted operation reads through pointwise and other 1 x 1 operations."""
    seen: set[str] = set()
    pending = [node.input[0]]
    while pending:
        maker = view.producer(pending.pop())
        if maker is None or maker.output[0] in seen:
            continue
        seen.add(maker.output[0])
        if maker.op_type in _POOLS:
            return maker
        if maker.op_type in (*_POINTWISE, "Conv", "Gemm", "Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            shape = view.weight_shape(maker)
            if shape is None or set(shape[2:]) <= {1}:
                pending += maker.input[:1] if shape else [n for n in maker.input if not view.is_constant(n)]
    return None


def _gates(view: GraphView, tensor: str, gated: str) -> bool:
    """Whether `tensor` reaches, within a few operations, a gate whose product is with `gated`."""
    pending, steps = [tensor], 0
    while pending and steps < 8:
        steps += 1
        for reader, _ in view.consumers(pending.pop()):
            if reader.op_type == "Mul" and gated in reader.input:
                return True
            if reader.op_type in (*_GATES, *_POINTWISE, "Conv", "Gemm", "Reshape", "Unsqueeze"):
                pending.append(reader.output[0])
    return False

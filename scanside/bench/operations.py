"""Operations and bytes of a graph, layer by layer, counted from the shapes one real run had.

ONNX Runtime's profile names every layer with the shapes and bytes of its tensors; nothing is estimated and no ONNX
library is needed. A multiply and an add are two operations; other layers count one a value they write.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

FUSED_KINDS = frozenset({"Sigmoid", "Mul", "Relu", "Add", "Clip", "HardSigmoid"})
"""Layers that runtimes compute inside the convolution before them, without moving bytes of their own."""
_FLOAT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Layer:
    """One layer of one run: operations, bytes read and written in FP32, and seconds on the CPU provider."""

    kind: str
    operations: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Work:
    """The layers of one kind taken together."""

    kind: str
    layers: int
    operations: int
    bytes: int
    seconds: float


def layers_of(
    graph: bytes, inputs: Mapping[str, NDArray], dims: Mapping[str, int] | None = None, *, threads: int = 1
) -> tuple[Layer, ...]:
    """Every layer of `graph` for a batch of `inputs` (CPU provider, FP32, constants folded, layers not fused)."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="scanside-profile-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.disable_prepacking", "1")  # else packed weights have no shape
        for key, size in (dims or {}).items():
            options.add_free_dimension_override_by_name(key, size)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return tuple(_layer(event) for event in events if "input_type_shape" in event.get("args", {}))


def by_kind(layers: Iterable[Layer]) -> tuple[Work, ...]:
    """Layers of a kind summed, most operations first."""
    kinds: dict[str, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault(layer.kind, []).append(layer)
    summed = [
        Work(
            kind,
            len(group),
            sum(layer.operations for layer in group),
            sum(layer.bytes for layer in group),
            sum(layer.seconds for layer in group),
        )
        for kind, group in kinds.items()
    ]
    return tuple(sorted(summed, key=lambda work: -work.operations))


def operations_of(layers: Iterable[Layer]) -> int:
    """All operations together."""
    return sum(layer.operations for layer in layers)


def bound_s(layers: Sequence[Layer], *, operations_per_s: float, bytes_per_s: float, precision: str = "fp32") -> float:
    """The least time the layers can take: each at the matrix rate or at the memory rate, whichever binds it.

    Layers of `FUSED_KINDS` count their operations alone. Bytes shrink with the precision's width.
    """
    return math.fsum(
        max(layer.operations / operations_per_s, moved_bytes([layer], precision) / bytes_per_s) for layer in layers
    )


def moved_bytes(layers: Iterable[Layer], precision: str = "fp32") -> float:
    """Bytes through memory in `precision`; layers of `FUSED_KINDS` move none of their own."""
    width = _FLOAT_BYTES[precision] / _FLOAT_BYTES["fp32"]
    return sum(layer.bytes for layer in layers if layer.kind not in FUSED_KINDS) * width


def _layer(event: Mapping[str, Any]) -> Layer:
    args = event["args"]
    inputs = [shape for entry in args["input_type_shape"] for shape in entry.values()]
    outputs = [shape for entry in args["output_type_shape"] for shape in entry.values()]
    written = sum(math.prod(shape) for shape in outputs)
    kind, operations = _count(args["op_name"], inputs, written)
    moved = sum(int(args[key]) for key in ("activation_size", "parameter_size", "output_size"))
    return Layer(kind, operations, moved, event["dur"] / 1e6)


def _count(op: str, inputs: Sequence[Sequence[int]], written: int) -> tuple[str, int]:
    if op in ("Conv", "FusedConv"):
        weight = inputs[1]
        depthwise = weight[1] == 1 and inputs[0][1] > 1
        return ("depthwise Conv" if depthwise else "Conv"), 2 * written * math.prod(weight[1:])
    if op in ("MatMul", "Gemm"):
        return op, 2 * written * (inputs[0][-1] if op == "MatMul" else _gemm_depth(inputs, written))
    if op.startswith("Reduce") or "Pool" in op:
        return op, max(written, math.prod(inputs[0]))
    return op, written


def _gemm_depth(inputs: Sequence[Sequence[int]], written: int) -> int:
    """The summed length of A @ B, whichever of the two is transposed: K from |A| |B| = K K |A @ B|."""
    return round(math.sqrt(math.prod(inputs[0]) * math.prod(inputs[1]) / written))

"""Which nodes stay FP32 in a half-precision graph: those that overflow, and blocks that hurt, by measurement."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from scanside.calibration.agreement import compare
from scanside.calibration.blocks import blocks_of, nodes_of
from scanside.calibration.observe import Batch, observing, run_batch, session
from scanside.pack.derive import derived_graph
from scanside.pack.manifest import ExportCheck

LARGEST = 65504 / 4
"""A tensor that comes within a factor of 4 of what half precision holds is kept: other exams may hold more."""


@dataclass(frozen=True)
class Tolerance:
    """What half precision may cost: the mean error in probability, and the Dice of masks where there are any."""

    mean_error: float = 1e-3
    dice: float = 0.999

    def holds(self, check: ExportCheck) -> bool:
        """Whether a comparison is within it."""
        return check.mean_error <= self.mean_error and (check.dice is None or check.dice >= self.dice)


@dataclass(frozen=True)
class HalfPrecision:
    """The nodes that stay FP32, how many of them overflow, and how the graph then answers against FP32."""

    keep: tuple[str, ...]
    overflowing: int
    check: ExportCheck
    sha256: str


def measure_half(
    network: str,
    model: onnx.ModelProto,
    output: str,
    batches: Sequence[Callable[[], Batch]],
    *,
    threshold: float | None = None,
    tolerance: Tolerance | None = None,
    threads: int = 0,
) -> HalfPrecision:
    """What must stay FP32 for `model` (the FP32 graph) to answer the same in half precision on these batches.

    Nodes whose tensors come near what half precision holds are kept first. If the answers still stray beyond the
    tolerance, blocks are kept too, in the order of how much keeping each alone helps, until they do not.

    Raises
    ------
    EngineError
        A graph does not load or answers NaN with everything that can be kept.
    """
    tolerance = tolerance or Tolerance()
    graph = model.SerializeToString(deterministic=True)
    runtime = session(graph, threads)
    expected = [run_batch(runtime, [output], make())[0] for make in batches]

    def judged(keep: Sequence[str]) -> tuple[ExportCheck, str]:
        half = derived_graph(graph, "fp16", keep, where=network)
        halved = session(half, threads)
        found = [run_batch(halved, [output], make())[0] for make in batches]
        check = compare(network, "FP16 graph", "FP32 graph", _finite(found), expected, threshold=threshold)
        return check, hashlib.sha256(half).hexdigest()

    overflow = overflowing_nodes(model, batches, threads)
    keep = list(overflow)
    check, sha256 = judged(keep)
    if not tolerance.holds(check):
        blocks = nodes_of(model, blocks_of(model))
        alone = {name: judged(sorted({*keep, *nodes}))[0].mean_error for name, nodes in blocks.items()}
        for name in sorted(blocks, key=lambda block: alone[block]):
            keep = sorted({*keep, *blocks[name]})
            check, sha256 = judged(keep)
            if tolerance.holds(check):
                break
    return HalfPrecision(tuple(sorted(keep)), len(overflow), check, sha256)


def overflowing_nodes(model: onnx.ModelProto, batches: Sequence[Callable[[], Batch]], threads: int = 0) -> list[str]:
    """Nodes that make or read a float tensor, or a constant, near what half precision holds."""
    floats = _float_tensors(model)
    runtime = session(observing(model, floats), threads)
    largest = dict.fromkeys(floats, 0.0)
    for make in batches:
        for name, values in zip(floats, run_batch(runtime, floats, make()), strict=True):
            largest[name] = max(largest[name], float(np.abs(values).max(initial=0)))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            largest[tensor.name] = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0))
    beyond = {name for name, value in largest.items() if not value <= LARGEST}
    return [node.name for node in model.graph.node if beyond & {*node.input, *node.output}]


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """Activations of type FP32, by ONNX's own type inference."""
    inferred = onnx.shape_inference.infer_shapes(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    folded = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    return [
        value.name
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in folded
    ]


def _finite(answers: Sequence[NDArray]) -> list[NDArray]:
    """Answers with NaN as probability 0.5, far from any answer that agrees: kept blocks may still mend it."""
    return [np.nan_to_num(a, nan=0.5) if a.dtype.kind == "f" else a for a in answers]

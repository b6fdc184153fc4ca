"""Does a graph answer as its reference does? Measured at export, stored in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from scanside.calibration.agreement import compare
from scanside.errors import EngineError
from scanside.export.onnx import HEATMAPS, PIXELS, PROBABILITY, ClassifierGraph, SegmenterGraph
from scanside.models.fusion import FusionClassifier
from scanside.models.unet import Segmenter
from scanside.pack.manifest import ExportCheck

__all__ = [
    "Batch",
    "compare",
    "compare_heatmaps",
    "graph_answers",
    "of_size",
    "reference_answers",
    "reference_heatmaps",
]

Batch = Mapping[str, NDArray[np.uint8]]


def reference_answers(model: Segmenter | FusionClassifier, batches: Sequence[Batch]) -> list[NDArray]:
    """What PyTorch answers in FP32, in the exported graph's own output type."""
    return [answer[PROBABILITY] for answer in _reference(model, batches)]


def reference_heatmaps(model: FusionClassifier, batches: Sequence[Batch]) -> list[NDArray]:
    """The heatmaps that PyTorch draws, float32 [N, planes, h, w] each."""
    return [answer[HEATMAPS] for answer in _reference(model, batches)]


def graph_answers(graph: bytes, batches: Sequence[Batch], output: str = PROBABILITY) -> list[NDArray]:
    """What ONNX Runtime's CPU provider answers.

    Raises
    ------
    EngineError
        The graph does not load, or not run at one of these batch sizes.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return [session.run([output], dict(batch))[0] for batch in batches]
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise EngineError("the exported graph does not run", found=str(error).strip().splitlines()[0]) from error


def of_size(batch: Batch, size: int) -> Batch:
    """`size` items of a batch, its own over and over."""
    return {name: np.resize(pixels, (size, *pixels.shape[1:])) for name, pixels in batch.items()}


def _reference(model: Segmenter | FusionClassifier, batches: Sequence[Batch]) -> list[dict[str, NDArray]]:
    module: nn.Module = SegmenterGraph(model) if isinstance(model, Segmenter) else ClassifierGraph(model)
    module.eval()
    names: tuple[str, ...] = (PIXELS,) if isinstance(model, Segmenter) else cast(FusionClassifier, model).planes
    answers = []
    with torch.no_grad():
        for batch in batches:
            answer = module(*(torch.from_numpy(batch[name]) for name in names))
            tensors = answer if isinstance(answer, tuple) else (answer,)
            answers.append({name: t.numpy() for name, t in zip((PROBABILITY, HEATMAPS), tensors, strict=False)})
    return answers


def compare_heatmaps(
    compared: str,
    against: str,
    found: Sequence[NDArray],
    expected: Sequence[NDArray],
    agree: Sequence[NDArray[np.bool_]],
) -> ExportCheck:
    """Absolute errors of heatmaps, as parts of the largest expected value.

    `agree` tells for each item of each batch whether both sides predicted one class; the others are left out, since
    their maps are of different classes.

    Raises
    ------
    EngineError
        The maps differ in shape, or one holds a NaN.
    """
    if [a.shape for a in found] != [a.shape for a in expected]:
        raise EngineError(
            "the heatmaps do not match in shape",
            where=compared,
            expected=[a.shape for a in expected],
            found=[a.shape for a in found],
        )
    a, b = (np.concatenate([x[same] for x, same in zip(maps, agree, strict=True)]) for maps in (found, expected))
    if not np.isfinite(a).all():
        raise EngineError("a network drew NaN", where=compared)
    error = np.abs(a - b) / max(float(b.max(initial=0)), np.finfo(np.float32).tiny)
    worst, mean = (float(error.max()), float(error.mean())) if error.size else (0.0, 0.0)
    return ExportCheck("classifier", compared, against, len(a), worst, mean)

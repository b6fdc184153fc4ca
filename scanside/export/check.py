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
from scanside.export.onnx import PIXELS, PROBABILITY, ClassifierGraph, SegmenterGraph
from scanside.models.fusion import FusionClassifier
from scanside.models.unet import Segmenter

__all__ = ["Batch", "compare", "graph_answers", "reference_answers"]

Batch = Mapping[str, NDArray[np.uint8]]


def reference_answers(model: Segmenter | FusionClassifier, batches: Sequence[Batch]) -> list[NDArray]:
    """What PyTorch answers in FP32, in the exported graph's own output type."""
    module: nn.Module = SegmenterGraph(model) if isinstance(model, Segmenter) else ClassifierGraph(model)
    module.eval()
    names: tuple[str, ...] = (PIXELS,) if isinstance(model, Segmenter) else cast(FusionClassifier, model).planes
    with torch.no_grad():
        return [module(*(torch.from_numpy(batch[name]) for name in names)).numpy() for batch in batches]


def graph_answers(graph: bytes, batches: Sequence[Batch]) -> list[NDArray]:
    """What ONNX Runtime's CPU provider answers."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return [session.run([PROBABILITY], dict(batch))[0] for batch in batches]

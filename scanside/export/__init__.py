"""PyTorch to ONNX under the graph contract, weights in 8 bits, and the model pack (workshop only)."""

from scanside.export.check import compare, graph_answers, reference_answers
from scanside.export.onnx import ClassifierGraph, SegmenterGraph, export_classifier, export_segmenter
from scanside.export.pack import PackParameters, create_pack
from scanside.export.quantize import quantize_channels, quantize_weights

__all__ = [
    "ClassifierGraph",
    "PackParameters",
    "SegmenterGraph",
    "compare",
    "create_pack",
    "export_classifier",
    "export_segmenter",
    "graph_answers",
    "quantize_channels",
    "quantize_weights",
    "reference_answers",
]

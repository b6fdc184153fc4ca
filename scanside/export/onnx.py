"""PyTorch networks to ONNX under the graph contract: uint8 pixels in, the answer out, one self-contained file.

Normalisation, sigmoid and softmax are inside the graph. The segmenter answers uint8 (255 p, rounded), the classifier
float32 P(malignant) and, for whoever asks, the Grad-CAM heatmaps of the predicted class (see `models.gradcam`). Batch
is symbolic; so are the segmenter's height and width (fixed by the session that loads it).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from scanside.errors import EngineError
from scanside.models.fusion import FusionClassifier
from scanside.models.gradcam import probability_and_heatmaps
from scanside.models.unet import SIZE_MULTIPLE, Segmenter

OPSET = 18
IR_VERSION = 10
PIXELS, PROBABILITY, HEATMAPS = "pixels", "probability", "heatmaps"


class SegmenterGraph(nn.Module):
    """What is exported: uint8 [N, 1, H, W] -> uint8 probability of the same shape (255 p, rounded half to even)."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        probability = torch.sigmoid(self.model(self.model.normalise(pixels)))
        return torch.round(probability * 255).to(torch.uint8)


class ClassifierGraph(nn.Module):
    """What is exported: uint8 crops [N, 1, S, S], one for each of the variant's planes.

    Answers float32 P(malignant) [N] and float32 heatmaps [N, planes, h, w].
    """

    def __init__(self, model: FusionClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, *crops: Tensor) -> tuple[Tensor, Tensor]:
        return probability_and_heatmaps(self.model, *crops)


def export_segmenter(model: Segmenter, path: str | os.PathLike[str]) -> Path:
    """Write `model` as FP32 ONNX: input `pixels`, output `probability`, uint8 [batch, 1, height, width].

    Raises
    ------
    EngineError
        The exported file breaks the graph contract.
    """
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    dims = {0: torch.export.Dim("batch"), 2: SIZE_MULTIPLE * rows, 3: SIZE_MULTIPLE * columns}
    example = torch.zeros(2, 1, 3 * SIZE_MULTIPLE, 2 * SIZE_MULTIPLE, dtype=torch.uint8)
    shape = ["batch", 1, "height", "width"]
    return _export(
        SegmenterGraph(model), {PIXELS: example}, {PIXELS: dims}, {PIXELS: shape}, {PROBABILITY: shape}, Path(path)
    )


def export_classifier(model: FusionClassifier, path: str | os.PathLike[str], size: int) -> Path:
    """Write `model` as FP32 ONNX: uint8 [batch, 1, size, size] a plane in, `probability` float32 [batch] out.

    The inputs are the variant's `planes`, each named as its plane. A second output, `heatmaps`, is float32
    [batch, planes, h, w] at the resolution of the last feature maps.

    Raises
    ------
    EngineError
        The exported file breaks the graph contract.
    """
    batch = torch.export.Dim("batch")
    # Different tensors: the exporter merges inputs that are one object.
    examples = {plane: torch.full((2, 1, size, size), i, dtype=torch.uint8) for i, plane in enumerate(model.planes)}
    shapes = {plane: ["batch", 1, size, size] for plane in examples}
    outputs: dict[str, list] = {PROBABILITY: ["batch"], HEATMAPS: ["batch", len(examples), ..., ...]}
    return _export(ClassifierGraph(model), examples, {p: {0: batch} for p in shapes}, shapes, outputs, Path(path))


def _export(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    dynamic: Mapping[str, Mapping[int, Any]],
    input_shapes: Mapping[str, list],
    output_shapes: Mapping[str, list],
    path: Path,
) -> Path:
    module.eval()
    shapes: Any = tuple(dict(dims) for dims in dynamic.values())
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(examples.values()),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=list(output_shapes),
            dynamic_shapes=(shapes,) if isinstance(module, ClassifierGraph) else shapes,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    _double_by_scale(graph.graph)
    for value in graph.graph.input:
        _name_dims(value, input_shapes[value.name])
    for value in graph.graph.output:
        _name_dims(value, output_shapes[value.name])
    path.write_bytes(finished(graph, str(path)))
    return path


def finished(graph: onnx.ModelProto, where: str) -> bytes:
    """The bytes of `graph`, stripped of build traces and checked.

    Raises
    ------
    EngineError
        The checker refuses it.
    """
    graph.ir_version = min(graph.ir_version, IR_VERSION)
    graph.producer_name, graph.producer_version, graph.doc_string = "scanside", "", ""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    try:
        onnx.checker.check_model(graph, full_check=True)
    except onnx.checker.ValidationError as error:
        raise EngineError("the exported graph is not valid ONNX", where=where, found=str(error)) from None
    return graph.SerializeToString(deterministic=True)


def _double_by_scale(graph: onnx.GraphProto) -> None:
    """Give every Resize the constant factor 2 (all that the UNet has) in place of a size computed from shapes."""
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    if not resizes:
        return
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "double"))
    for node in resizes:
        node.input[:] = [node.input[0], "", "double"]
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        dead = [node for node in graph.node if read.isdisjoint(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _name_dims(value: onnx.ValueInfoProto, shape: list) -> None:
    """Give the dimensions of `value` these names and sizes; `...` stays as the exporter found it."""
    dims = value.type.tensor_type.shape.dim
    found = [dim.dim_value for dim in dims]
    del dims[:]
    for i, size in enumerate(shape):
        dim = dims.add()
        if size is ...:
            dim.dim_value = found[i]
        elif isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size

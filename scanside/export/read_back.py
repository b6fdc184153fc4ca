"""The pack's networks read back: as plain FP32 ONNX graphs, and as PyTorch modules with the same weights.

A pack keeps weights in 8 bits and batch normalisation folded into the convolutions. A peer or a reference gets the very
numbers that our engine runs: the 8-bit weights multiplied out, and, in PyTorch, each folded bias in the batch
normalisation that follows (which is then the identity plus that bias). PyTorch so keeps the layers it would have after
training.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from scanside.errors import EngineError
from scanside.export.onnx import SegmenterGraph
from scanside.models.backbones import StrideAt
from scanside.models.fusion import FusionClassifier
from scanside.models.unet import build_segmenter
from scanside.pack import Pack
from scanside.pack.derive import with_folded_weights
from scanside.pack.onnx_graph import Graph


class ForeignGraphError(EngineError):
    """The graph is not one that this package's networks export to."""


def fp32_graph(pack: Pack, network: str) -> bytes:
    """The FP32 graph of "segmenter" or "classifier" with every 8-bit weight multiplied out, and nothing rounded."""
    graph = Graph(pack.network_graph(network, "fp32"), network)
    return with_folded_weights(graph).to_bytes()


def torch_segmenter(pack: Pack) -> nn.Module:
    """uint8 [n, 1, h, w] -> uint8 probability, in PyTorch, eval mode.

    Raises
    ------
    ForeignGraphError
        The pack's graph is not the segmenter this builds.
    """
    spec = pack.manifest.segmenter
    model = build_segmenter(spec.mean, spec.std)
    load_from_graph(model, fp32_graph(pack, "segmenter"), spec.graph)
    return SegmenterGraph(model).eval()


def torch_classifier(pack: Pack) -> nn.Module:
    """uint8 [n, 1, s, s] for each plane in turn -> P(malignant) [n], in PyTorch, eval mode.

    Raises
    ------
    ForeignGraphError
        The pack's graph is not the classifier its manifest names.
    """
    spec = pack.manifest.classifier
    graph = fp32_graph(pack, "classifier")
    model = FusionClassifier(spec.backbone, spec.variant, stride_at=_stride_at(graph), mean=spec.mean, std=spec.std)
    load_from_graph(model, graph, spec.graph)
    return Probability(model).eval()


class Probability(nn.Module):
    """The classifier without its heatmaps, which no peer draws."""

    def __init__(self, model: FusionClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, *pixels: torch.Tensor) -> torch.Tensor:
        return self.model.probability(*pixels)


def stride_of(pack: Pack) -> StrideAt:
    """Which convolution of a stage's first block strides ("1x1", "3x3"), as the classifier's graph has it."""
    return _stride_at(pack.graph_bytes("classifier"))


def load_from_graph(model: nn.Module, graph: bytes, where: str) -> None:
    """Put the weights of the exported FP32 `graph` into `model`: each layer's, found by its weight's name.

    Biases go by layer, not by name: the exporter keeps one of several equal ones. Layers that the model has and never
    runs (the encoder's head in the UNet) are not in the graph and keep what they have.

    Raises
    ------
    ForeignGraphError
        A layer of the graph has no place of its own in the model, or another shape.
    """
    exported = onnx.load_from_string(graph).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in exported.initializer}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    norms, left = _norm_after(model), set(layers)
    for node in exported.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        name = node.input[1].removeprefix("model.").removesuffix(".float").removesuffix(".weight")
        layer, bias = layers.get(name), tensors[node.input[2]] if len(node.input) > 2 else None
        if layer is None or name not in left:
            raise ForeignGraphError("a layer of the graph has no place in the PyTorch model", where=where, found=name)
        left.remove(name)
        _copy(layer.weight, tensors[node.input[1]], f"{where}: {name}")
        if layer.bias is not None and bias is not None:
            _copy(layer.bias, bias, f"{where}: {name}")
        elif name in norms:
            _become_bias(norms[name], np.zeros(len(layer.weight), np.float32) if bias is None else bias)
        elif bias is not None:
            raise ForeignGraphError("a bias of the graph has no place in the PyTorch model", where=where, found=name)


def _norm_after(model: nn.Module) -> Mapping[str, nn.Module]:
    """For each convolution the batch normalisation that follows it, by the convolution's name."""
    found: dict[str, nn.Module] = {}
    waiting: tuple[str, int] | None = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            waiting = (name, module.out_channels)
        elif isinstance(module, nn.BatchNorm2d) and waiting is not None and module.num_features == waiting[1]:
            found[waiting[0]], waiting = module, None
    return found


def _become_bias(norm: nn.Module, bias: NDArray) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.fill_(1)
        _copy(norm.bias, bias, "batch normalisation")


def _copy(target: torch.Tensor, values: NDArray, where: str) -> None:
    if tuple(target.shape) != values.shape:
        raise ForeignGraphError(
            "a weight has another shape", where=where, expected=tuple(target.shape), found=values.shape
        )
    with torch.no_grad():
        target.copy_(torch.from_numpy(values.copy()))


def _stride_at(graph: bytes) -> StrideAt:
    """Which convolution of a stage's first block strides, as the graph has it."""
    for node in onnx.load_from_string(graph).graph.node:
        if node.op_type == "Conv" and "layer2.0.conv1.weight" in node.input[1]:
            strides = next((list(a.ints) for a in node.attribute if a.name == "strides"), [1, 1])
            return "1x1" if strides == [2, 2] else "3x3"
    return "3x3"

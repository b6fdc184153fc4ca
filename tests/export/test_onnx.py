"""The exported graphs under the graph contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from scanside.export import export_classifier, graph_answers
from scanside.export.onnx import HEATMAPS, SegmenterGraph
from scanside.models import FusionClassifier, probability_and_heatmaps


@pytest.fixture
def models(exported: Any) -> dict[str, onnx.ModelProto]:
    return {name: onnx.load_from_string(exported.pack.graph_bytes(name)) for name in ("segmenter", "classifier")}


def session(exported: Any, network: str, **dims: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    for name, size in dims.items():
        options.add_free_dimension_override_by_name(name, size)
    return ort.InferenceSession(exported.pack.graph_bytes(network), options, providers=["CPUExecutionProvider"])


def shapes(values: Any) -> dict[str, tuple[int, list]]:
    return {
        v.name: (v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    }


def test_names_types_and_shapes_are_the_contract_s(models: dict[str, onnx.ModelProto]) -> None:
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    section = ["batch", 1, "height", "width"]
    assert shapes(models["segmenter"].graph.input) == {"pixels": (uint8, section)}
    assert shapes(models["segmenter"].graph.output) == {"probability": (uint8, section)}
    crop = (uint8, ["batch", 1, 32, 32])
    assert shapes(models["classifier"].graph.input) == {"transverse": crop, "sagittal": crop, "coronal": crop}
    assert shapes(models["classifier"].graph.output) == {
        "probability": (float32, ["batch"]),
        "heatmaps": (float32, ["batch", 3, 1, 1]),
    }


def test_graphs_are_standard_ops_without_batch_norm_or_shape_arithmetic(models: dict[str, onnx.ModelProto]) -> None:
    for model in models.values():
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
        ops = {node.op_type for node in model.graph.node}
        assert ops.isdisjoint({"BatchNormalization", "Shape", "Dropout", "QuantizeLinear"})
        assert {node.domain for node in model.graph.node} == {""}


def test_graphs_tell_nothing_of_the_machine_they_were_made_on(models: dict[str, onnx.ModelProto]) -> None:
    for model in models.values():
        assert b"site-packages" not in model.SerializeToString()
        assert not model.metadata_props
        assert not any(node.metadata_props for node in model.graph.node)


def test_the_segmenter_takes_any_multiple_of_32_and_any_batch(exported: Any) -> None:
    run = session(exported, "segmenter").run
    module = SegmenterGraph(exported.segmenter)
    rng = np.random.default_rng(1)
    for shape in ((1, 1, 32, 32), (3, 1, 96, 32), (2, 1, 32, 160)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        with torch.no_grad():
            expected = module(torch.from_numpy(pixels)).numpy()
        found = run(None, {"pixels": pixels})[0]
        assert found.shape == shape
        assert np.abs(found.astype(int) - expected).max() <= 4


def test_spatial_size_can_be_fixed_by_name(exported: Any) -> None:
    fixed = session(exported, "segmenter", height=64, width=96)
    assert fixed.get_inputs()[0].shape == ["batch", 1, 64, 96]
    assert fixed.run(None, {"pixels": np.zeros((1, 1, 64, 96), np.uint8)})[0].shape == (1, 1, 64, 96)


def test_no_crop_of_the_classifier_is_merged_or_swapped(exported: Any) -> None:
    run = session(exported, "classifier").run
    t, s, c = (exported.triplets[0][plane] for plane in ("transverse", "sagittal", "coronal"))
    found, expected = [], []
    for crops in ((t, s, c), (c, s, t), (t, c, s), (t, t, c), (t, s, s)):
        found.append(run(None, dict(zip(("transverse", "sagittal", "coronal"), crops, strict=True)))[0])
        with torch.no_grad():
            expected.append(exported.classifier.probability(*(torch.from_numpy(x) for x in crops)).numpy())
    differences = [np.abs(expected[0] - other).max() for other in expected[1:]]
    assert np.abs(np.subtract(found, expected)).max() < 0.25 * min(differences)


def test_results_do_not_depend_on_the_batch(exported: Any) -> None:
    run = session(exported, "classifier").run
    crops = exported.triplets[0]
    together = run(None, crops)[0]
    alone = [run(None, {plane: x[i : i + 1] for plane, x in crops.items()})[0][0] for i in range(3)]
    assert np.allclose(together, alone, atol=1e-5)


def test_every_backbone_answers_and_draws_as_in_pytorch(single: FusionClassifier, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (2, 1, 64, 64), dtype=np.uint8)
    pixels[1] //= 4
    graph = export_classifier(single, tmp_path / "graph.onnx", 64).read_bytes()
    with torch.no_grad():
        expected = [answer.numpy() for answer in probability_and_heatmaps(single, torch.from_numpy(pixels))]
    batch = {"transverse": pixels}
    (probability,), (heatmaps,) = graph_answers(graph, [batch]), graph_answers(graph, [batch], HEATMAPS)
    assert np.allclose(probability, expected[0], atol=1e-4)
    assert abs(expected[0][0] - expected[0][1]) > 1e-3
    assert expected[1].max() > 0
    assert np.allclose(heatmaps, expected[1], rtol=1e-3, atol=1e-4 * expected[1].max())

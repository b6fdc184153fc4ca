"""From two networks to a pack that loads, replays its golden cases and says how it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from scanside.errors import EngineError, UsageError
from scanside.export import create_pack, graph_answers
from scanside.export import pack as pack_module
from scanside.export.check import of_size
from scanside.models.fusion import PLANES
from scanside.pack import golden_cases, judge_golden


def test_the_manifest_says_what_the_networks_are(exported: Any) -> None:
    manifest = exported.pack.manifest
    assert (manifest.name, manifest.version, manifest.card) == ("random", "0", "MODEL_CARD.md")
    assert (manifest.classifier.backbone, manifest.classifier.variant) == ("shallow", "fusion2")
    assert manifest.classifier.inputs == {plane: plane for plane in PLANES}
    assert manifest.classifier.heatmaps == "heatmaps"
    assert (manifest.classifier.size, manifest.segmenter.threshold) == (32, 0.4)
    assert manifest.segmenter.mean == pytest.approx(float(exported.segmenter.mean), abs=1e-6)
    assert manifest.provenance == {"seed": 0}


def test_graphs_were_compared_with_pytorch_and_with_each_other(exported: Any) -> None:
    checks = exported.pack.manifest.checks
    made = [(c.network, c.compared, c.against) for c in checks]
    comparisons = [("FP32 graph", "PyTorch"), ("8-bit weights", "FP32 graph"), ("8-bit weights", "PyTorch")]
    drawn = [(f"{graph}, heatmaps", "PyTorch") for graph in ("FP32 graph", "8-bit weights")]
    halved = [("FP16 graph", "PyTorch")]
    assert made == [
        *[("segmenter", *pair) for pair in comparisons + halved],
        *[("classifier", *pair) for pair in comparisons + drawn + halved],
    ]
    assert all(c.items == 3 for c in checks)
    found = {(c.network, c.compared): c for c in checks if c.against == "PyTorch"}
    assert found["classifier", "FP32 graph, heatmaps"].max_error < 1e-3
    assert 0 < found["classifier", "8-bit weights, heatmaps"].max_error < 0.5  # random weights: rounding weighs much
    assert all((c.dice is not None) == (c.network == "segmenter") for c in checks)
    assert found["segmenter", "FP32 graph"].mean_error < 1e-4
    assert found["classifier", "FP32 graph"].max_error < 1e-5
    for network in ("segmenter", "classifier"):
        assert 0 < found[network, "8-bit weights"].max_error < 0.05
        # half precision adds less than the weights' 8 bits
        assert found[network, "FP16 graph"].mean_error < 2 * found[network, "8-bit weights"].mean_error


def test_weights_take_a_quarter_of_the_bytes(exported: Any) -> None:
    for network in ("segmenter", "classifier"):
        floats = 4 * sum(p.numel() for p in getattr(exported, network).parameters())
        assert len(exported.pack.graph_bytes(network)) < 0.29 * floats


def test_golden_cases_hold_pytorch_s_answers_and_the_graphs_reproduce_them(exported: Any) -> None:
    cases = list(golden_cases(exported.pack))
    assert [case.network for case in cases] == ["segmenter", "segmenter", "classifier"]
    assert np.array_equal(cases[1].inputs["pixels"], exported.sections[1])
    with torch.no_grad():
        logits = exported.segmenter(exported.segmenter.normalise(torch.from_numpy(exported.sections[1])))
    assert np.array_equal(cases[1].outputs["probability"], (torch.sigmoid(logits) * 255).round().numpy())
    for case in cases:
        answer = graph_answers(exported.pack.graph_bytes(case.network), [case.inputs])[0]
        assert judge_golden(case, {"probability": answer}).passed
        moved = answer + np.asarray(0.02 * np.ptp(answer) + (4 if answer.dtype == np.uint8 else 0.01), answer.dtype)
        assert not judge_golden(case, {"probability": moved}).passed


def make(exported: Any, out: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "segmenter": exported.segmenter,
        "classifier": exported.classifier,
        "name": "n",
        "version": "1",
        "sections": exported.sections,
        "triplets": exported.triplets,
        "provenance": {},
        "licences": [],
        "parameters": pack_module.PackParameters(crop_size=32),
    }
    return create_pack(out, **{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sections": []}, "no golden sections"),
        ({"triplets": []}, "no golden triplets"),
        ({"sections": [np.zeros((1, 1, 40, 64), np.uint8)]}, "H and W multiples of 32"),
        ({"sections": [np.zeros((1, 1, 32, 32), np.float32)]}, "found float32"),
        (
            {"triplets": [{plane: np.zeros((1, 1, 16, 16), np.uint8) for plane in PLANES}]},
            "transverse: no golden triplet",
        ),
    ],
)
def test_unusable_golden_inputs_are_refused_before_any_work(
    exported: Any, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make(exported, tmp_path / "pack", **changes)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def without_exporting(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export writes the graphs of the pack at hand, which takes no time."""

    def written(network: str) -> Callable:
        def export(model: Any, path: Path, *size: int) -> Path:
            path.write_bytes(exported.pack.graph_bytes(network))
            return path

        return export

    monkeypatch.setattr(pack_module, "export_segmenter", written("segmenter"))
    monkeypatch.setattr(pack_module, "export_classifier", written("classifier"))


@pytest.mark.usefixtures("without_exporting")
def test_a_graph_that_strays_from_pytorch_makes_no_pack(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exported.classifier.classify._parameters, "bias", torch.tensor([0.0, 3.0]))
    monkeypatch.setattr(pack_module, "MAX_EXPORT_ERROR", {"segmenter": 0.1, "classifier": 0.05})
    with pytest.raises(EngineError, match="classifier: the exported graph strays from PyTorch"):
        make(exported, tmp_path / "pack")
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("without_exporting")
def test_a_network_that_answers_nan_makes_no_pack(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exported.classifier.classify._parameters, "bias", torch.full((2,), float("nan")))
    monkeypatch.setattr(pack_module, "MAX_EXPORT_ERROR", {"segmenter": 0.1, "classifier": 0.05})
    with pytest.raises(EngineError, match="a network answered NaN"):
        make(exported, tmp_path / "pack")
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("without_exporting")
@pytest.mark.parametrize("batch", ["1", "most"])
def test_a_graph_that_takes_one_batch_size_only_makes_no_pack(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: str
) -> None:
    """Exporters bake the example's batch into a Reshape now and then: the golden batch of 3 alone would not show it."""
    written = pack_module.export_classifier

    def fixed(model: Any, path: Path, size: int) -> Path:
        written(model, path, size)
        graph = onnx.load_from_string(path.read_bytes())
        for node in graph.graph.node:
            for names in (node.input, node.output):
                names[:] = ["free" if name == "probability" else name for name in names]
        graph.graph.initializer.append(numpy_helper.from_array(np.array([3]), "three"))
        graph.graph.node.append(onnx.helper.make_node("Reshape", ["free", "three"], ["probability"], name="baked"))
        path.write_bytes(graph.SerializeToString())
        return path

    monkeypatch.setattr(pack_module, "export_classifier", fixed)
    monkeypatch.setattr(pack_module, "MAX_EXPORT_ERROR", {"segmenter": 1.0, "classifier": 1.0})
    monkeypatch.setattr(pack_module, "MAX_HEATMAP_ERROR", 1e9)
    if batch == "most":
        monkeypatch.setattr(pack_module, "of_size", lambda given, size: given if size == 1 else of_size(given, size))
    with pytest.raises(EngineError, match="the exported graph does not run"):
        make(exported, tmp_path / "pack")
    assert not any(tmp_path.iterdir())


def test_a_batch_of_any_size_repeats_its_items() -> None:
    batch = {"pixels": np.arange(3 * 4, dtype=np.uint8).reshape(3, 1, 2, 2)}
    assert np.array_equal(of_size(batch, 1)["pixels"], batch["pixels"][:1])
    assert np.array_equal(of_size(batch, 5)["pixels"], batch["pixels"][[0, 1, 2, 0, 1]])


def test_half_precision_that_overflows_is_said_and_makes_no_check(caplog: pytest.LogCaptureFixture) -> None:
    value = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Cast", ["pixels"], ["x"], name="cast", to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["x", "large"], ["y"], name="mul"),
        onnx.helper.make_node("Mul", ["y", "small"], ["probability"], name="back"),
    ]
    for large, checks in ((1e5, 0), (10.0, 1)):
        constants = [
            numpy_helper.from_array(np.array(large, np.float32), "large"),
            numpy_helper.from_array(np.array(1 / large, np.float32), "small"),
        ]
        graph = onnx.helper.make_graph(
            nodes,
            "g",
            [value("pixels", onnx.TensorProto.UINT8, ["batch"])],
            [value("probability", onnx.TensorProto.FLOAT, ["batch"])],
            constants,
        )
        data = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
        pixels = np.array([0, 100, 200], np.uint8)
        caplog.clear()
        found = pack_module._half_check(
            "classifier", data.SerializeToString(), [{"pixels": pixels}], [pixels.astype(np.float32)], 0.5
        )
        assert len(found) == checks
        assert ("no FP16 graph without calibration" in caplog.text) == (checks == 0)

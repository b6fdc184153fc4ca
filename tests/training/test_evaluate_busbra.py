from __future__ import annotations

import csv
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from scanside.errors import EngineError, UsageError
from scanside.models.unet import build_segmenter
from scanside.training.checkpoint import save_weights
from scanside.training.errors import CheckpointError, TrainingDataError
from scanside.training.evaluate_busbra import evaluate_busbra, graph_probability, native_probability


@pytest.fixture(scope="module")
def brightness_graph(tmp_path_factory):
    """A segmenter graph that answers the pixels themselves: right where lesions are bright."""
    shape = ["batch", 1, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["pixels"], ["probability"])],
        "identity",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("probability", TensorProto.UINT8, shape)],
    )
    file = tmp_path_factory.mktemp("graph") / "segmenter.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file)
    return file


def test_a_right_answer_scores_near_1(brightness_graph, tiny_busbra, tmp_path):
    summary = evaluate_busbra(brightness_graph, tiny_busbra, tmp_path, longer_side=64)
    assert (summary.fold, summary.images, summary.cases) == (1, 3, 2)
    assert summary.mean > 0.93
    assert summary.missed == 0
    with (tmp_path / "busbra-fold1-dice.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {r["case"] for r in rows} == {"5", "10"}
    assert np.mean([float(r["dice"]) for r in rows]) == pytest.approx(summary.mean, abs=1e-3)
    of_case = [np.mean([float(r["dice"]) for r in rows if r["case"] == case]) for case in ("5", "10")]
    assert summary.mean_by_case == pytest.approx(np.mean(of_case), abs=1e-3)
    assert summary.median_by_case == pytest.approx(np.median(of_case), abs=1e-3)
    assert json.loads((tmp_path / "busbra-fold1-dice.json").read_text())["mean"] == summary.mean


def test_a_second_look_sees_the_mirror_image(brightness_graph, tiny_busbra, tmp_path, monkeypatch):
    whole = evaluate_busbra(brightness_graph, tiny_busbra, tmp_path, longer_side=64)
    assert whole.mean_two_looks == pytest.approx(whole.mean, abs=1e-3), "each pixel by itself: a mirror changes nothing"

    def half_blind(graph):
        return lambda image: (image > 127).astype(np.float32) * (np.arange(image.shape[1]) < image.shape[1] * 0.45)

    monkeypatch.setattr("scanside.training.evaluate_busbra.graph_probability", half_blind)
    half = evaluate_busbra(brightness_graph, tiny_busbra, tmp_path, longer_side=64, threshold=0.4)
    assert half.mean_two_looks > half.mean + 0.1
    with (tmp_path / "busbra-fold1-dice.csv").open() as stream:
        looks = [float(row["dice_two_looks"]) for row in csv.DictReader(stream)]
    assert half.mean_two_looks == pytest.approx(np.mean(looks), abs=1e-3)


def test_an_empty_answer_scores_0(brightness_graph, tiny_busbra, tmp_path):
    summary = evaluate_busbra(brightness_graph, tiny_busbra, tmp_path, threshold=1.0)
    assert summary.mean == 0
    assert summary.missed == summary.images


def test_torch_weights(tiny_busbra, tmp_path):
    save_weights(build_segmenter(), tmp_path / "s.safetensors", {})
    summary = evaluate_busbra(tmp_path / "s.safetensors", tiny_busbra, tmp_path, longer_side=32)
    assert 0 <= summary.mean <= 1
    assert summary.images == 3


@pytest.mark.parametrize("shape", [(353, 274), (120, 200), (64, 64), (40, 30)])
def test_the_answer_comes_back_to_the_image_s_own_pixels(shape):
    asked = []

    def answer(image):
        asked.append(image.shape)
        return image.astype(np.float32) / 255

    image = np.zeros(shape, np.uint8)
    image[shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 255
    found = native_probability(answer, image, 64)
    assert found.shape == shape
    assert all(n % 32 == 0 for n in asked[0])
    overlap = ((found >= 0.5) & (image > 0)).sum() / ((found >= 0.5) | (image > 0)).sum()
    assert overlap > 0.85


def test_errors(tiny_busbra, tmp_path):
    with pytest.raises(CheckpointError, match="no weights here"):
        evaluate_busbra(tmp_path / "none.safetensors", tiny_busbra, tmp_path)
    with pytest.raises(UsageError, match="no graph here"):
        graph_probability(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot be loaded"):
        graph_probability(tmp_path / "bad.onnx")


def test_an_empty_fold(brightness_graph, tiny_busbra, tmp_path):
    with pytest.raises(TrainingDataError, match="valid_7"):
        evaluate_busbra(brightness_graph, tiny_busbra, tmp_path, fold=7)

"""The study on a toy network with one block that cannot stand 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from scanside.calibration.blocks import blocks_of, nodes_of
from scanside.calibration.judges import ClassifierJudge, Judgement, SegmenterJudge
from scanside.calibration.placement import plan_placement
from scanside.calibration.sensitivity import (
    CurvePoint,
    Study,
    chosen_point,
    classifier_inside,
    segmenter_inside,
)
from scanside.errors import CalibrationError
from tests.calibration.conftest import PLANES, toy_classifier, toy_segmenter
from tests.calibration.toy import Toy, between

X = np.random.default_rng(3).normal(0, 1, (2, 16, 8, 8)).astype(np.float32)


def network() -> onnx.ModelProto:
    def build(toy: Toy, x: str) -> str:
        for block in range(3):
            x = toy.relu(toy.conv(x, f"blocks.{block}.conv", 16), f"relu{block}")
        return x

    return between(Toy(), build)


def answer(graph: bytes) -> NDArray:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


class Counting:
    """A judge that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.expected = answer(network().SerializeToString())

    def __call__(self, graph: bytes) -> Judgement:
        self.asked += 1
        return Judgement(float(np.abs(answer(graph) - self.expected).mean()), {"mean": 1.0})


def amax(bad: str = "relu0") -> dict[str, float]:
    """Fair ranges, but one block's input far too coarse."""
    ranges = dict.fromkeys(plan_placement(network()).tensors, 4.0)
    return ranges | {bad: 400.0}


def test_blocks_are_named_by_their_weights() -> None:
    assert blocks_of(network()) == {
        "first": ("first",),
        "blocks.0": ("blocks.0.conv",),
        "blocks.1": ("blocks.1.conv",),
        "blocks.2": ("blocks.2.conv",),
        "last": ("last",),
    }
    assert nodes_of(network(), blocks_of(network()))["blocks.1"] == ("blocks.1.conv", "relu1")
    segmenter = blocks_of(toy_segmenter())
    assert segmenter["encoder.blocks.0"] == ("encoder.blocks.0.conv1", "encoder.blocks.0.conv2")


def test_the_block_that_suffers_ranks_first_and_is_kept_first() -> None:
    study = Study(network(), amax(), Counting())
    ranking = study.ranking()
    assert ranking[0].block == "blocks.1"  # it reads relu0
    assert ranking[0].all_but.loss == min(row.all_but.loss for row in ranking)
    assert [row.rank for row in ranking] == [1, 2, 3]
    curve = study.curve(ranking, 2)
    assert [point.kept[:1] for point in curve] == [(), ("blocks.1",), ("blocks.1",)]
    losses = [point.judgement.loss for point in curve]
    assert losses[0] > 10 * losses[1] >= losses[2]
    assert study.curve(ranking, 99)[-1].judgement.loss == 0


def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    state, judge = tmp_path / "state.json", Counting()

    def kill(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Study(network(), amax(), judge, state=state).ranking(progress=kill)
    asked = judge.asked
    ranking = Study(network(), amax(), judge, state=state).ranking()
    assert (asked, judge.asked) == (4, 6)
    assert ranking == Study(network(), amax(), Counting()).ranking()
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(CalibrationError, match="state of an earlier study is damaged"):
        Study(network(), amax(), judge, state=state)


def test_the_point_to_ship() -> None:
    def point(kept: int, loss: float, latency: float | None) -> CurvePoint:
        return CurvePoint(tuple("abcdef"[:kept]), Judgement(loss, {}), latency)

    def inside(judgement: Judgement) -> bool:
        return judgement.loss < 1

    timed = [point(0, 2, 0.2), point(1, 0.5, 0.301), point(2, 0.4, 0.3), point(3, 0.1, 0.4)]
    assert chosen_point(timed, inside) == timed[1]  # within 2 % of the fastest: fewer blocks
    assert chosen_point([*timed, point(4, 0.1, 0.25)], inside) == point(4, 0.1, 0.25)
    assert chosen_point([point(k, p.judgement.loss, None) for k, p in enumerate(timed)], inside) == point(1, 0.5, None)
    assert chosen_point(timed[:1], inside) is None


def changed(model: onnx.ModelProto, constant: str, by: float) -> bytes:
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in made.graph.initializer:
        if tensor.name == constant:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(by), constant))
    return made.SerializeToString()


def test_the_segmenter_s_judge() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 1, 32, 32)).astype(np.uint8)
    graph = toy_segmenter().SerializeToString()
    judge = SegmenterJudge(graph, "probability", [lambda: {"pixels": pixels}], 0.5)
    same = judge(graph)
    assert (same.loss, same.metrics["mask_flips"], same.metrics["max_error"]) == (0, 0, 0)
    nothing = judge(changed(toy_segmenter(), "head.bias", -50.0))
    assert (nothing.loss, nothing.metrics["mask_flips"], nothing.metrics["worst_dice"]) == (1, 3, 0)
    other = judge(changed(toy_segmenter(), "head.bias", 0.05))
    assert 0.5 < other.metrics["dice"] < 1
    assert segmenter_inside(same)
    assert not segmenter_inside(nothing)


def test_the_segmenter_s_judge_with_the_truth() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 1, 32, 32)).astype(np.uint8)
    graph = toy_segmenter().SerializeToString()
    truth = np.zeros((3, 1, 32, 32), bool)
    truth[0, 0, 4:20, 4:20] = truth[1, 0, 10:, :] = True  # the third section has no lesion
    judge = SegmenterJudge(graph, "probability", [lambda: {"pixels": pixels}], 0.5, [lambda: truth])
    assert judge(graph).metrics["dice_difference"] == 0
    other = changed(toy_segmenter(), "head.bias", 0.05)

    def dice(data: bytes, row: int) -> float:
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        mask = session.run(None, {"pixels": pixels})[0][row] / 255 >= 0.5
        return 2 * (mask & truth[row]).sum() / (mask.sum() + truth[row].sum())

    expected = np.mean([dice(other, row) - dice(graph, row) for row in (0, 1)])
    assert judge(other).metrics["dice_difference"] == pytest.approx(expected)
    assert segmenter_inside(Judgement(0.1, {"dice": 0.9, "dice_difference": 0.002}))
    assert not segmenter_inside(Judgement(0.1, {"dice": 0.9, "dice_difference": -0.003}))


def test_the_classifier_s_judge() -> None:
    crops = {
        p: np.random.default_rng(i).integers(0, 256, (8, 1, 32, 32)).astype(np.uint8) for i, p in enumerate(PLANES)
    }
    graph = toy_classifier().SerializeToString()
    labels = [True, False] * 4
    judge = ClassifierJudge(graph, "probability", [lambda: crops], labels)
    assert judge(graph).metrics == {"mean_error": 0, "p99_error": 0, "max_error": 0, "flips": 0, "auc_difference": 0}
    other = judge(changed(toy_classifier(), "fc.weight", 0.5))
    assert other.loss == other.metrics["mean_error"] + abs(other.metrics["auc_difference"])
    assert "auc_difference" not in ClassifierJudge(graph, "probability", [lambda: crops], [True] * 8)(graph).metrics
    assert classifier_inside(judge(graph))

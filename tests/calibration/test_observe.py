"""Streaming over batches: exact, resumable after a kill, and clear about data that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scanside.calibration import observe as module
from scanside.calibration.observe import observe
from scanside.errors import CalibrationError, EngineError

TENSORS = ["grey", "doubled"]


@pytest.fixture
def model() -> onnx.ModelProto:
    """uint8 pixels -> grey -> doubled."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["grey", "factor"], ["doubled"]),
        helper.make_node("Relu", ["doubled"], ["y"]),
    ]
    x = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 1, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 4, 4])
    factor = numpy_helper.from_array(np.float32(-2), "factor")
    graph = helper.make_graph(nodes, "g", [x], [y], [factor])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def pictures(number: int, n: int = 2) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 200 + number, (n, 1, 4, 4)).astype(np.uint8)


def batches(count: int, asked: list[int] | None = None) -> list[Callable[[], Mapping[str, NDArray[np.uint8]]]]:
    def make(number: int) -> Mapping[str, NDArray[np.uint8]]:
        if asked is not None:
            asked.append(number)
        return {"pixels": pictures(number)}

    return [lambda number=i: make(number) for i in range(count)]


def test_what_is_counted_is_what_the_tensors_hold(model: onnx.ModelProto) -> None:
    seen: list[tuple[int, int]] = []
    found = observe(model, TENSORS, batches(3), progress=lambda *step: seen.append(step))
    every = np.concatenate([pictures(i) for i in range(3)]).astype(float)
    assert (found["grey"].low, found["grey"].high, found["grey"].total) == (every.min(), every.max(), every.size)
    assert found["doubled"].largest == 2 * every.max()
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_killed_run_goes_on_where_it_was(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 2)
    state = tmp_path / "state.npz"

    def killed(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(model, TENSORS, batches(5), state=state, progress=killed)
    asked: list[int] = []
    found = observe(model, TENSORS, batches(5, asked), state=state)
    assert asked == [2, 3, 4]  # two batches were kept
    whole = observe(model, TENSORS, batches(5))
    for name in TENSORS:
        assert (found[name].counts == whole[name].counts).all()
        assert (found[name].low, found[name].high) == (whole[name].low, whole[name].high)
    observe(model, TENSORS, batches(5, asked), state=state)
    assert asked == [2, 3, 4]  # a finished one runs nothing
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("damage", ["cut", "other tensors"])
def test_a_damaged_state_is_refused(model: onnx.ModelProto, tmp_path: Path, damage: str) -> None:
    state = tmp_path / "state.npz"
    observe(model, TENSORS, batches(1), state=state)
    tensors = TENSORS
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-30])
    else:
        tensors = ["grey"]
    with pytest.raises(CalibrationError, match=r"state of an earlier run is damaged.*Delete the file"):
        observe(model, tensors, batches(1), state=state)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ({"pixels": np.zeros((1, 1, 4, 5), np.uint8)}, r"uint8 \[1, 1, 4, 5\]"),
        ({"pixels": np.zeros((1, 4, 4), np.uint8)}, r"uint8 \[1, 4, 4\]"),
        ({"pixels": np.zeros((1, 1, 4, 4), np.float32)}, "float32"),
        ({"crops": np.zeros((1, 1, 4, 4), np.uint8)}, "nothing"),
    ],
)
def test_data_of_another_size(model: onnx.ModelProto, batch: dict, found: str) -> None:
    with pytest.raises(CalibrationError, match=r"pixels: calibration data of another size.*found " + found):
        observe(model, TENSORS, [lambda: batch])


def test_a_tensor_that_is_not_finite(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32(np.inf), "factor"))
    with pytest.raises(CalibrationError, match="batch 0: doubled: a tensor is not finite"):
        observe(model, TENSORS, batches(1))


def test_a_graph_that_does_not_load() -> None:
    with pytest.raises(EngineError, match="does not load"):
        module.session(b"nothing")

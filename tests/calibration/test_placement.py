"""Pairs in a graph: where, with which scales, and what ONNX Runtime answers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from scanside.calibration.graph import GraphView, load_graph, weight_array
from scanside.calibration.placement import plan_placement, scales_of, with_pairs
from scanside.errors import CalibrationError, PackError
from scanside.pack.derive import derived_graph
from tests.calibration.test_rules import residual, skip_connection, squeeze
from tests.calibration.toy import Toy, between


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("build", [residual, skip_connection, squeeze])
def test_rounding_changes_little_and_dropping_it_changes_nothing(build) -> None:
    model = between(Toy(), build)
    placement = plan_placement(model)
    made = with_pairs(model, placement, scales_of(placement, dict.fromkeys(placement.tensors, 4.0)))
    onnx.checker.check_model(made, full_check=True)
    x = np.random.default_rng(1).normal(0, 1, (2, 16, 8, 8)).astype(np.float32)
    expected, found = run(model, x), run(made, x)
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    before, after = (m.SerializeToString(deterministic=True) for m in (model, made))
    assert derived_graph(after, "fp32") == before


def test_the_rounded_convolution_is_what_arithmetic_says() -> None:
    """Against numpy: activations to multiples of one scale, weights to multiples of one a channel, biases untouched."""
    model = between(Toy(), lambda toy, x: toy.conv(x, "middle", 16, 1))
    placement = plan_placement(model)
    made = with_pairs(model, placement, {"first": np.float32(0.05)})
    for graph in (model, made):
        del graph.graph.output[:]
        graph.graph.output.append(onnx.helper.make_tensor_value_info("middle", 1, ["n", 16, 8, 8]))
    x = np.random.default_rng(1).normal(0, 1, (1, 16, 8, 8)).astype(np.float32)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = onnx.ModelProto()
    first.CopyFrom(model)
    first.graph.output[0].name = "first"
    rounded = np.clip(np.rint(run(first, x) / 0.05), -128, 127) * 0.05
    weight = constants["middle.weight"][:, :, 0, 0]
    scale = np.abs(weight).max(1, keepdims=True) / 127
    expected = np.einsum("oc,nchw->nohw", np.rint(weight / scale) * scale, rounded)
    expected += constants["middle.bias"].reshape(-1, 1, 1)
    assert np.allclose(run(made, x), expected, atol=1e-4)


def test_weights_already_in_8_bits_stay_as_they_are() -> None:
    toy = Toy()
    toy.conv("x", "first", 16)
    toy.constant("w8", np.full((16, 16, 1, 1), 64, np.int8))
    toy.constant("s8", np.full(16, 0.5, np.float32))
    toy.constant("z8", np.zeros(16, np.int8))
    toy.op("DequantizeLinear", ["w8", "s8", "z8"], "w", axis=0)
    model = toy.model(toy.conv(toy.op("Conv", ["first", "w"], "middle", 16), "last", 16))
    placement = plan_placement(model)
    made = with_pairs(model, placement, scales_of(placement, {"first": 1.0}))
    middle = next(n for n in made.graph.node if n.name == "middle")
    assert (placement.rounded, middle.input[1]) == (("middle",), "w")
    assert [n.op_type for n in made.graph.node].count("QuantizeLinear") == 1
    view = GraphView(model)
    assert (weight_array(view, view.nodes[2]) == 32).all()


def test_a_transposed_convolution_is_rounded_along_its_second_axis() -> None:
    def build(toy: Toy, x: str) -> str:
        values = toy.rng.normal(0, np.logspace(-2, 2, 24).reshape(1, -1, 1, 1), (16, 24, 2, 2))
        toy.constant("up.weight", values.astype(np.float32))
        return toy.op("ConvTranspose", [x, "up.weight"], "up", 24, strides=[2, 2])

    model = between(Toy(), build)
    placement = plan_placement(model)
    made = with_pairs(model, placement, scales_of(placement, {"first": 1.0}))
    scale = next(numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "up.weight.scale")
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "up.weight")
    assert np.allclose(scale, np.abs(weight).max((0, 2, 3)) / 127)


def test_one_pair_a_tensor_and_one_scale_a_group() -> None:
    model = between(Toy(), skip_connection)
    placement = plan_placement(model)
    scales = scales_of(placement, dict.fromkeys(placement.tensors, 1.0) | {"pooled": 5.08})
    assert scales["joined"] == scales["pooled"] == np.float32(0.04)
    assert scales["first"] == np.float32(1 / 127)
    made = with_pairs(model, placement, scales)
    rounded = [n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in scales]
    assert sorted(rounded) == sorted(scales)


@pytest.mark.parametrize(
    ("amax", "message"),
    [
        (
            {"first": 0.0},
            "first: a tensor never differs from zero .* expected a range above 0, found 0. Calibrate with",
        ),
        ({"first": float("nan")}, "found nan"),
        ({}, "first: a tensor has no range"),
    ],
)
def test_no_range_no_scale(amax: dict[str, float], message: str) -> None:
    placement = plan_placement(between(Toy(), lambda toy, x: toy.conv(x, "middle", 16)))
    with pytest.raises(CalibrationError, match=message) as error:
        scales_of(placement, amax)
    assert error.value.exit_code == 3


def test_nodes_need_names() -> None:
    model = between(Toy(), residual)
    model.graph.node[2].name = ""
    with pytest.raises(PackError, match="nodes need names of their own"):
        plan_placement(model)


def test_graphs_that_cannot_be_used() -> None:
    model = between(Toy(), residual)
    values = numpy_helper.to_array(model.graph.initializer[2]).copy()
    values.flat[3] = np.nan
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(values, "a.weight"))
    with pytest.raises(PackError, match=r"net: a.weight: a weight is not finite"):
        load_graph(model.SerializeToString(), "net")
    for domain, op_type in (("", "Conw"), ("com.acme", "Relu")):
        model = between(Toy(), residual)
        model.graph.node[1].op_type, model.graph.node[1].domain = op_type, domain
        with pytest.raises(PackError, match=r"net: start: an operator that is not of ONNX's own set.*" + op_type):
            load_graph(model.SerializeToString(), "net")
    model = between(Toy(), residual)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside.bin")
    with pytest.raises(PackError, match="net: the graph keeps data in another file"):
        load_graph(model.SerializeToString(), "net")


def test_a_weight_that_two_operations_read_is_rounded_once() -> None:
    def build(toy: Toy, x: str) -> str:
        toy.constant("shared", toy.rng.normal(0, 1, (16, 16, 1, 1)).astype(np.float32))
        return toy.op("Conv", [toy.op("Conv", [x, "shared"], "a", 16), "shared"], "b", 16)

    model = between(Toy(), build)
    placement = plan_placement(model)
    made = with_pairs(model, placement, scales_of(placement, dict.fromkeys(placement.tensors, 4.0)))
    onnx.checker.check_model(made, full_check=True)
    assert placement.rounded == ("a", "b")
    assert [n.name for n in made.graph.node].count("shared.q") == 1
    assert derived_graph(made.SerializeToString(deterministic=True), "fp32") == model.SerializeToString(
        deterministic=True
    )

"""Weights in 8 bits: what is rounded, by how much, and what stays as it was."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from scanside.errors import EngineError
from scanside.export.quantize import quantize_channels, quantize_weights


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)),
    decades=st.integers(-6, 6),
    zeros=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_no_weight_moves_by_more_than_half_a_step_and_zero_stays_zero(
    seed: int, shape: tuple[int, int, int], decades: int, zeros: float
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_cauchy(shape) * 10.0**decades * (rng.random(shape) >= zeros)).astype(np.float32)
    for axis in range(3):
        quantized, scale = quantize_channels(weight, axis)
        assert quantized.min(initial=0) >= -127
        steps = scale.reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float64)
        assert (np.abs(quantized * steps - weight) <= 0.501 * steps).all()
        assert (quantized[weight == 0] == 0).all()


def test_every_channel_has_its_own_scale() -> None:
    weight = np.array([[1.0, -2.0], [100.0, 50.0], [0.0, 0.0]], np.float32)
    quantized, scale = quantize_channels(weight, 0)
    assert quantized.tolist() == [[64, -127], [127, 64], [0, 0]]
    assert scale == pytest.approx([2 / 127, 100 / 127, 1])


def network(rng: np.random.Generator) -> onnx.ModelProto:
    """Conv, depthwise Conv, ConvTranspose, Gemm both ways and MatMul, each with channels of very different size."""

    def weight(name: str, shape: tuple[int, ...], axis: int) -> TensorProto:
        scales = np.logspace(-2, 2, shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return numpy_helper.from_array((rng.normal(0, 1, shape) * scales).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "conv", "bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["b", "transposed"], ["c"]),
        helper.make_node("ReduceMean", ["c", "axes"], ["d"], keepdims=0),
        helper.make_node("Gemm", ["d", "gemm_t"], ["e"], transB=1),
        helper.make_node("Gemm", ["e", "gemm"], ["f"]),
        helper.make_node("MatMul", ["f", "matmul"], ["y"]),
    ]
    constants = [
        weight("conv", (8, 3, 3, 3), 0),
        weight("bias", (8,), 0),
        weight("depthwise", (8, 1, 3, 3), 0),
        weight("transposed", (8, 5, 2, 2), 1),
        weight("gemm_t", (6, 5), 0),
        weight("gemm", (6, 7), 1),
        weight("matmul", (7, 4), 1),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])


def test_each_kind_of_weight_is_rounded_along_its_output_channels() -> None:
    rng = np.random.default_rng(0)
    model = network(rng)
    graph, errors = quantize_weights(model.SerializeToString(), min_weights=1)
    assert {e.name for e in errors} == {"conv", "depthwise", "transposed", "gemm_t", "gemm", "matmul"}
    made = onnx.load_from_string(graph)
    axes = {n.input[0]: n.attribute[0].i for n in made.graph.node if n.op_type == "DequantizeLinear"}
    assert {name.split(".")[0]: axis for name, axis in axes.items()} == {
        "conv": 0,
        "depthwise": 0,
        "transposed": 1,
        "gemm_t": 0,
        "gemm": 1,
        "matmul": 1,
    }
    # With one scale a channel, even channels 10,000 times smaller than others keep their accuracy.
    assert max(e.relative_rms for e in errors) < 0.01
    for tensor in model.graph.initializer:
        if f"{tensor.name}.int8" in axes:
            values, axis = numpy_helper.to_array(tensor), axes[f"{tensor.name}.int8"]
            integers, scale = quantize_channels(values, axis)
            rounded = integers * scale.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    x = rng.normal(0, 1, (2, 3, 6, 6)).astype(np.float32)
    options = ort.SessionOptions()
    # Otherwise ONNX Runtime fuses some of them into products that round the activations as well.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    expected, found = (
        ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for data in (model.SerializeToString(), graph)
    )
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_biases_and_small_weights_stay_float() -> None:
    model = network(np.random.default_rng(0))
    graph, errors = quantize_weights(model.SerializeToString(), min_weights=100)
    assert {e.name for e in errors} == {"conv", "transposed"}
    floats = {t.name for t in onnx.load_from_string(graph).graph.initializer if t.data_type == TensorProto.FLOAT}
    assert {"bias", "depthwise", "gemm"} <= floats


@pytest.mark.parametrize("reader", ["MatMul", "Add"])
def test_a_shared_weight_is_rounded_once_and_only_where_every_reader_multiplies(reader: str) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "shared"], ["y"], transB=1),
        helper.make_node("MatMul", ["y", "shared"], ["z"]),
        helper.make_node(reader, ["z", "shared"], ["a"]),
    ]
    x, a = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [6, 6]) for name in "xa")
    weight = np.random.default_rng(0).normal(0, 1, (6, 6)).astype(np.float32)
    shared = helper.make_graph(nodes, "g", [x], [a], [numpy_helper.from_array(weight, "shared")])
    model = helper.make_model(shared, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    graph, errors = quantize_weights(model.SerializeToString(), min_weights=1)
    if reader == "Add":
        assert errors == []
        return
    made = onnx.load_from_string(graph).graph
    assert [e.name for e in errors] == ["shared"]
    assert [node.op_type for node in made.node].count("DequantizeLinear") == 1
    assert [node.input[1] for node in made.node[1:]] == ["shared.float"] * 3
    assert {t.name for t in made.initializer} == {"shared.int8", "shared.scale", "shared.zero"}
    quantized, scale = quantize_channels(weight, 0)
    rounded = quantized * scale[:, None]
    given = np.random.default_rng(1).normal(0, 1, (6, 6)).astype(np.float32)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    found = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(None, {"x": given})[0]
    assert np.allclose(found, given @ rounded.T @ rounded @ rounded, atol=1e-4)


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = network(np.random.default_rng(0))
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "conv"))
    with pytest.raises(EngineError, match=r"net: conv: a weight is not finite"):
        quantize_weights(model.SerializeToString(), min_weights=1, where="net")

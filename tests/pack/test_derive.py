"""One graph, every precision: what is dropped, what is folded, what is cast, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scanside.errors import PackError
from scanside.pack import DEFAULT_PACK, load_pack
from scanside.pack.derive import derived_graph

RNG = np.random.default_rng(3)
WEIGHT = RNG.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
SCALE = np.logspace(-4, -2, 8).astype(np.float32)
PIXELS = RNG.integers(0, 256, (2, 3, 6, 6)).astype(np.uint8)


def constants(**values: NDArray) -> list[TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def plain(*, output: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """uint8 -> Cast -> Conv (8-bit weights) -> Relu -> Resize -> Softmax."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["weight"], name="weights", axis=0),
        helper.make_node("Conv", ["grey", "weight", "bias"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Resize", ["b", "", "double"], ["c"], name="resize", mode="nearest"),
        helper.make_node("Softmax", ["c"], ["y"], name="softmax", axis=1),
    ]
    parts = constants(w=WEIGHT, s=SCALE, z=np.zeros(8, np.int8), bias=np.ones(8, np.float32))
    parts += constants(double=np.array([1, 1, 2, 2], np.float32))
    return made(nodes, parts, output)


def made(nodes: list, parts: list[TensorProto], output: int = TensorProto.FLOAT) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3, 6, 6])
    y = helper.make_tensor_value_info("y", output, ["n", 8, 12, 12])
    graph = helper.make_graph(nodes, "g", [x], [y], parts)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model, full_check=True)
    return model


def rounded() -> onnx.ModelProto:
    """`plain` with Q/DQ before the convolution and on its (float) second weight."""
    model = plain()
    nodes = list(model.graph.node)
    pair = [
        helper.make_node("QuantizeLinear", ["grey", "xs", "xz"], ["grey.q"]),
        helper.make_node("DequantizeLinear", ["grey.q", "xs", "xz"], ["grey.dq"]),
    ]
    nodes[2].input[0] = "grey.dq"
    parts = [*model.graph.initializer, *constants(xs=np.float32(2), xz=np.int8(0))]
    return made([nodes[0], *pair, *nodes[1:]], parts)


def run(graph: bytes, pixels: NDArray = PIXELS) -> NDArray:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})[0]


def bytes_of(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def test_without_the_pairs_it_is_the_graph_as_it_was_before_calibration() -> None:
    for precision in ("fp32", "bf16"):
        assert derived_graph(bytes_of(rounded()), precision) == bytes_of(plain())
        assert derived_graph(bytes_of(plain()), precision) == bytes_of(plain())


def test_int8_is_the_shipped_graph_and_needs_calibration() -> None:
    assert derived_graph(bytes_of(rounded()), "int8") == bytes_of(rounded())
    for precision in ("int8", "int8-fp16", "int8-u8"):
        with pytest.raises(PackError, match=r"net: the graph has no 8-bit activations.*scanside calibrate"):
            derived_graph(bytes_of(plain()), precision, where="net")


def test_int8_unfolds_weights_that_meet_floats_and_no_others() -> None:
    """OpenVINO 2026.4 stops the process at 8-bit weights beside bf16 activations; see `derive`."""
    model = rounded()
    nodes = list(model.graph.node)
    again = helper.make_node("Conv", ["grey", "weight", "bias"], ["a2"], name="conv2", pads=[1, 1, 1, 1])
    both = helper.make_node("Add", ["a", "a2"], ["a3"], name="both")
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Relu")
    nodes[at].input[0] = "a3"
    shared = made([*nodes[:at], again, both, *nodes[at:]], list(model.graph.initializer))
    derived = onnx.load_from_string(derived_graph(bytes_of(shared), "int8"))
    assert Counter(n.op_type for n in derived.graph.node)["DequantizeLinear"] == 1  # the activations'
    assert {t.name for t in derived.graph.initializer} >= {"weight"}
    assert np.abs(run(derived.SerializeToString()) - run(bytes_of(shared))).max() < 1e-6


def test_int8_u8_makes_unsigned_what_a_relu_gives_and_nothing_else() -> None:
    """uint8 holds the same steps, and twice as far: with a scale that int8 does not clip, every answer is the same."""
    model = rounded()
    nodes = list(model.graph.node)
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Relu")
    pool = helper.make_node("MaxPool", ["b"], ["p"], name="pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    pair = [
        helper.make_node("QuantizeLinear", ["p", "ps", "xz"], ["p.q"]),
        helper.make_node("DequantizeLinear", ["p.q", "ps", "xz"], ["p.dq"]),
    ]
    nodes[at + 1].input[0] = "p.dq"
    parts = [*model.graph.initializer, *constants(ps=np.float32(200))]
    signed = made([*nodes[: at + 1], pool, *pair, *nodes[at + 1 :]], parts)
    derived = onnx.load_from_string(derived_graph(bytes_of(signed), "int8-u8"))
    zeros = {t.name: t for t in derived.graph.initializer}
    kinds = {
        node.output[0]: zeros[node.input[2]].data_type
        for node in derived.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.output[0] != "weight"
    }
    unsigned, still = TensorProto.UINT8, TensorProto.INT8
    assert kinds == {"grey.q": still, "grey.dq": still, "p.q": unsigned, "p.dq": unsigned}
    assert np.array_equal(run(derived.SerializeToString()), run(derived_graph(bytes_of(signed), "int8")))
    assert derived_graph(bytes_of(rounded()), "int8-u8") == derived_graph(bytes_of(rounded()), "int8")


def test_int8_u8_gives_silu_and_what_gates_it_a_zero_that_its_least_value_reaches() -> None:
    """-0.2785 is 7 steps of 0.04 below zero; the same steps, so the same answers as in int8."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["grey", "shift"], ["x"]),
        helper.make_node("Sigmoid", ["x"], ["gate"]),
        helper.make_node("Mul", ["gate", "x"], ["silu"]),
        helper.make_node("Sigmoid", ["grey"], ["other"]),
        helper.make_node("Mul", ["silu", "other"], ["gated"]),
        helper.make_node("Mul", ["x", "other"], ["signed"]),
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("Resize", ["relu", "", "same"], ["resized"], mode="nearest", cubic_coeff_a=-0.75),
        helper.make_node("Resize", ["relu", "", "same"], ["cubic"], mode="cubic"),
        helper.make_node("Concat", ["silu", "resized"], ["both"], axis=0),
        helper.make_node("Concat", ["silu", "signed"], ["mixed"], axis=0),
        helper.make_node("Split", ["both.dq"], ["both.0", "both.1"], axis=0, num_outputs=2),
        helper.make_node("Split", ["mixed.dq"], ["mixed.0", "mixed.1"], axis=0, num_outputs=2),
    ]
    names = ("silu", "gated", "signed", "resized", "cubic", "both", "mixed")
    for at, name in enumerate(names):
        pair = [
            helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}.q"]),
            helper.make_node("DequantizeLinear", [f"{name}.q", "s", "z"], [f"{name}.dq"]),
        ]
        nodes[12 + 2 * at : 12 + 2 * at] = pair
    summed = ["silu.dq", "gated.dq", "signed.dq", "resized.dq", "cubic.dq", "both.0", "both.1", "mixed.0", "mixed.1"]
    nodes.append(helper.make_node("Sum", summed, ["y"]))
    parts = constants(shift=np.float32(-4), s=np.float32(0.04), z=np.int8(0), same=np.ones(4, np.float32))
    x = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 6, 6])
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], parts), ir_version=10, opset_imports=opset)
    derived = onnx.load_from_string(derived_graph(bytes_of(model), "int8-u8"))
    zeros = {t.name: numpy_helper.to_array(t) for t in derived.graph.initializer}
    found = {n.output[0]: zeros[n.input[2]] for n in derived.graph.node if n.op_type == "QuantizeLinear"}
    assert {name: (zero.dtype, int(zero)) for name, zero in found.items()} == {
        "silu.q": (np.uint8, 7),
        "gated.q": (np.uint8, 7),
        "signed.q": (np.int8, 0),
        "resized.q": (np.uint8, 0),
        "cubic.q": (np.int8, 0),
        "both.q": (np.uint8, 7),
        "mixed.q": (np.int8, 0),
    }
    few = RNG.integers(0, 9, PIXELS.shape).astype(np.uint8)  # within what int8 holds
    assert np.array_equal(run(derived.SerializeToString(), few), run(bytes_of(model), few))


def test_int8_u8_leaves_a_scale_so_small_that_the_zero_would_not_fit() -> None:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Sigmoid", ["x"], ["gate"]),
        helper.make_node("Mul", ["x", "gate"], ["silu"]),
        helper.make_node("QuantizeLinear", ["silu", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    opset = [helper.make_opsetid("", 18)]
    for scale, kind in ((0.0022, np.uint8), (0.0021, np.int8), (1e-9, np.int8)):
        parts = constants(s=np.float32(scale), z=np.int8(0))
        model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], parts), opset_imports=opset)
        derived = onnx.load_from_string(derived_graph(bytes_of(model), "int8-u8"))
        zeros = {t.name: numpy_helper.to_array(t) for t in derived.graph.initializer}
        (quantize,) = (node for node in derived.graph.node if node.op_type == "QuantizeLinear")
        assert zeros[quantize.input[2]].dtype == kind, scale


def test_int8_u8_refuses_a_rounded_tensor_that_something_else_reads() -> None:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["grey"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Cast", ["q"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    parts = constants(s=np.float32(2), z=np.int8(0))
    x = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], parts), opset_imports=[helper.make_opsetid("", 18)]
    )
    with pytest.raises(PackError, match="net: q: a rounded tensor is read by something else than DequantizeLinear"):
        derived_graph(bytes_of(graph), "int8-u8", where="net")


@pytest.mark.parametrize("source", [plain, rounded])
def test_fp16_folds_the_weights_and_halves_everything_but_resize_scales(source) -> None:
    half = derived_graph(bytes_of(source()), "fp16")
    model = onnx.load_from_string(half)
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types == {"double": TensorProto.FLOAT, "bias.fp16": TensorProto.FLOAT16, "weight.fp16": TensorProto.FLOAT16}
    weight = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "weight.fp16"))
    assert np.array_equal(weight, (WEIGHT * SCALE.reshape(-1, 1, 1, 1)).astype(np.float16))
    answer = run(half)
    assert answer.dtype == np.float32
    assert np.abs(answer - run(bytes_of(plain()))).max() < 2e-3


def test_kept_nodes_stay_fp32_between_casts() -> None:
    half = derived_graph(bytes_of(plain()), "fp16", ["conv", "softmax"])
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(half))
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    assert (kinds["a"], kinds["b"], kinds["c"]) == (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.FLOAT16)
    assert {"weight", "bias"} <= {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert Counter(n.op_type for n in model.graph.node)["Cast"] == 4  # pixels, before conv, before relu, before softmax
    assert np.abs(run(half) - run(bytes_of(plain()))).max() < 1e-3


def test_int8_with_the_rest_in_half_precision() -> None:
    graph = derived_graph(bytes_of(rounded()), "int8-fp16")
    model = onnx.load_from_string(graph)
    assert model.opset_import[0].version == 19
    assert Counter(n.op_type for n in model.graph.node)["DequantizeLinear"] == 2
    assert np.abs(run(graph) - run(bytes_of(rounded()))).max() < 0.02


def test_scales_too_small_for_half_precision_are_rounded_up_and_the_weights_again() -> None:
    model = rounded()
    tiny = np.array([1e-9, 3e-8, 1e-7, 5e-7, 3e-6, 1e-4, 1e-2, 1e-3], np.float32)
    for tensor in model.graph.initializer:
        if tensor.name == "s":
            tensor.CopyFrom(numpy_helper.from_array(tiny, "s"))
    made = onnx.load_from_string(derived_graph(bytes_of(model), "int8-fp16"))
    constants_ = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    scale = constants_["s.fp16"].astype(np.float64)
    assert (scale >= tiny).all()
    assert (scale <= tiny * (1 + 2**-10) + 2**-24).all()
    steps = np.abs(constants_["w.fp16"] * scale.reshape(-1, 1, 1, 1) - WEIGHT * tiny.reshape(-1, 1, 1, 1).astype(float))
    assert (steps.max((1, 2, 3)) <= 0.501 * scale).all()


def test_what_cannot_be_derived_is_refused() -> None:
    model = plain()
    model.graph.node[3].op_type = "Sin"
    with pytest.raises(PackError, match=r"net: relu: an operator that half precision is not known for; found Sin"):
        derived_graph(bytes_of(model), "fp16", where="net")
    model = plain()
    model.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.full(8, 1e6, np.float32), "bias"))
    with pytest.raises(PackError, match=r"net: bias: a constant overflows half precision.*found 1e\+06"):
        derived_graph(bytes_of(model), "fp16", where="net")
    assert np.isfinite(run(derived_graph(bytes_of(model), "fp16", ["conv", "relu", "resize", "softmax"]))).all()
    with pytest.raises(PackError, match="not in the graph; found nobody"):
        derived_graph(bytes_of(plain()), "fp16", ["nobody"])
    model = rounded()
    model.graph.node.append(helper.make_node("Cast", ["grey.q"], ["z2"], to=TensorProto.FLOAT))
    with pytest.raises(PackError, match=r"grey.q: a rounded tensor is read by something else"):
        derived_graph(bytes_of(model), "fp32")
    with pytest.raises(ValueError, match="unknown precision"):
        derived_graph(bytes_of(plain()), "fp8")


def test_a_pack_checks_what_it_derives(tiny_pack_copy: Path) -> None:
    pack = load_pack(tiny_pack_copy)
    assert pack.network_graph("segmenter", "fp32") == pack.graph_bytes("segmenter")
    with pytest.raises(PackError, match="segmenter in int8: the graph has no 8-bit activations"):
        pack.network_graph("segmenter", "int8")
    manifest = json.loads((tiny_pack_copy / "manifest.json").read_text())
    record = {"network": "segmenter", "precision": "fp16", "sha256": "0" * 64}
    manifest["derived"] = [record]
    (tiny_pack_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackError, match="segmenter in fp16: the derived graph is not what the manifest says") as error:
        load_pack(tiny_pack_copy).network_graph("segmenter", "fp16")
    record["sha256"] = str(error.value.found)
    (tiny_pack_copy / "manifest.json").write_text(json.dumps(manifest))
    assert load_pack(tiny_pack_copy).network_graph("segmenter", "fp16")


def test_the_shipped_segmenter_in_half_precision(tmp_path: Path) -> None:
    pack = load_pack(shutil.copytree(DEFAULT_PACK, tmp_path / "p"))
    with np.load(pack.path / "golden_segmenter_0.npz") as golden:
        session = ort.InferenceSession(pack.network_graph("segmenter", "fp16"), providers=["CPUExecutionProvider"])
        answer = session.run(None, {"pixels": golden["pixels"]})[0]
        assert np.abs(answer.astype(int) - golden["probability"]).mean() < 0.1

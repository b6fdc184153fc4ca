"""The editor of ONNX files against the onnx package."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from scanside.errors import PackError
from scanside.pack import DEFAULT_PACK
from scanside.pack.onnx_graph import FLOAT, INT8, UINT8, Constant, Graph

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Models of any nodes, attributes and constants: valid protobuf, not always valid ONNX."""
    nodes = []
    for _ in range(draw(st.integers(0, 4))):
        attributes = {
            "i": draw(st.integers(-(2**63), 2**63 - 1)),
            "f": draw(st.floats(width=32, allow_nan=False)),
            "s": draw(NAMES),
            "ints": draw(st.lists(st.integers(-5, 300), min_size=1, max_size=3)),
        }
        names = [draw(st.lists(st.one_of(NAMES, st.just("")), max_size=3)) for _ in range(2)]
        node = helper.make_node("Op", *names, name=draw(st.one_of(NAMES, st.none())), **attributes)
        if draw(st.booleans()):
            node.domain, node.doc_string = "custom", "text"
        nodes.append(node)
    shapes = draw(st.lists(st.lists(st.integers(0, 300), max_size=3), max_size=3))
    constants = [numpy_helper.from_array(np.zeros(s, np.int8), f"c{i}") for i, s in enumerate(shapes)]
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], constants, doc_string=draw(st.sampled_from(["", "doc"])))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", draw(st.integers(1, 400)))])
    made.producer_name = draw(st.sampled_from(["", "someone"]))
    return made


@settings(deadline=None)
@given(models())
def test_what_is_read_is_written_byte_for_byte(model: onnx.ModelProto) -> None:
    graph = Graph(model.SerializeToString(deterministic=True))
    assert graph.to_bytes() == model.SerializeToString(deterministic=True)
    assert [n.inputs for n in graph.nodes] == [list(n.input) for n in model.graph.node]
    assert [n.integer("i", 0) for n in graph.nodes] == [
        next(a.i for a in n.attribute if a.name == "i") for n in model.graph.node
    ]
    assert [c.dims for c in graph.constants] == [tuple(c.dims) for c in model.graph.initializer]
    assert (graph.inputs, graph.outputs) == ({"x": UINT8}, {"y": FLOAT})
    assert graph.opset == model.opset_import[0].version


def test_the_shipped_segmenter_is_written_byte_for_byte() -> None:
    graph = (DEFAULT_PACK / "segmenter.onnx").read_bytes()
    assert Graph(graph).to_bytes() == graph


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8, np.int64])
def test_constants_mean_what_they_mean_to_onnx(dtype: type) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    stored = onnx.TensorProto.FromString(bytes(Constant.of("c", values).message))
    assert np.array_equal(numpy_helper.to_array(stored), values)
    assert numpy_helper.to_array(stored).dtype == dtype
    model = helper.make_model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(values, "c")]))
    read = Graph(model.SerializeToString()).constant("c")
    assert read is not None
    assert np.array_equal(read.array(), values)


def test_typed_and_unusual_storage() -> None:
    typed = helper.make_tensor("f", TensorProto.FLOAT, [2], [1.5, -2.0])
    unusual = helper.make_tensor("i", TensorProto.INT8, [2], [1, -2])
    graph = Graph(helper.make_model(helper.make_graph([], "g", [], [], [typed, unusual])).SerializeToString())
    assert graph.constants[0].array().tolist() == [1.5, -2.0]
    assert graph.constants[1].data_type == INT8
    with pytest.raises(PackError, match="i: a tensor is stored in an unusual form"):
        graph.constants[1].array()


def test_an_attribute_gets_another_value() -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    graph = Graph(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())
    graph.nodes[0].set_integer("to", -7)
    changed = onnx.load_from_string(graph.to_bytes()).graph.node[0]
    assert [(a.name, a.type, a.i) for a in changed.attribute] == [("to", onnx.AttributeProto.INT, -7)]


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_other_bytes_are_refused_with_one_error(data: bytes) -> None:
    with contextlib.suppress(PackError):
        assert Graph(data, "somewhere").opset > 0


def test_a_truncated_model_is_refused() -> None:
    whole = (DEFAULT_PACK / "segmenter.onnx").read_bytes()
    with pytest.raises(PackError, match="no ONNX model"):
        Graph(whole[:-1000])

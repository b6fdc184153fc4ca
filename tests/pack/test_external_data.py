"""The protobuf walk against graphs made with the onnx package."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from scanside.errors import PackError
from scanside.pack.external_data import refuse_external_data


def tensor(name: str, *, external: bool) -> TensorProto:
    made = numpy_helper.from_array(np.arange(300, dtype=np.float32), name)
    if external:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="../weights.bin")
    return made


def in_initializer(made: TensorProto) -> ModelProto:
    return helper.make_model(helper.make_graph([], "g", [], [], [tensor("first", external=False), made]))


def in_attribute(made: TensorProto) -> ModelProto:
    node = helper.make_node("Constant", [], ["x"], value=made)
    return helper.make_model(helper.make_graph([node], "g", [], []))


def in_subgraph(made: TensorProto) -> ModelProto:
    inner: GraphProto = helper.make_graph([], "inner", [], [], [made])
    node = helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner)
    return helper.make_model(helper.make_graph([node], "g", [], []))


def in_function(made: TensorProto) -> ModelProto:
    node = helper.make_node("Constant", [], ["x"], value=made)
    function = helper.make_function("d", "f", [], ["x"], [node], [helper.make_opsetid("", 18)])
    return helper.make_model(helper.make_graph([], "g", [], []), functions=[function])


def in_list_of_tensors(made: TensorProto) -> ModelProto:
    node = NodeProto(op_type="X", attribute=[AttributeProto(name="a", type=AttributeProto.TENSORS, tensors=[made])])
    return helper.make_model(helper.make_graph([node], "g", [], []))


def in_sparse_tensor(made: TensorProto) -> ModelProto:
    indices = numpy_helper.from_array(np.arange(300), "i")
    graph = helper.make_graph([], "g", [], [], sparse_initializer=[helper.make_sparse_tensor(made, indices, [900])])
    return helper.make_model(graph)


PLACES = [in_initializer, in_attribute, in_subgraph, in_function, in_list_of_tensors, in_sparse_tensor]


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_may_be(place) -> None:
    refuse_external_data(place(tensor("w", external=False)).SerializeToString(), "good.onnx")
    with pytest.raises(PackError, match=r"bad\.onnx: the graph keeps data in another file"):
        refuse_external_data(place(tensor("w", external=True)).SerializeToString(), "bad.onnx")


def test_a_location_without_the_external_flag_is_refused_too() -> None:
    made = tensor("w", external=False)
    made.external_data.add(key="location", value="weights.bin")
    with pytest.raises(PackError, match="external data"):
        refuse_external_data(in_initializer(made).SerializeToString(), "bad.onnx")


def test_payload_bytes_that_look_like_a_location_are_no_external_data() -> None:
    made = numpy_helper.from_array(np.frombuffer(b"\x70\x01\x6a\x08location" * 16, np.uint8), "w")
    refuse_external_data(in_initializer(made).SerializeToString(), "good.onnx")


@pytest.mark.parametrize("bad", [b"", b"{}", b"\x00" * 20, b"not an onnx model at all", b"\xff" * 30])
def test_what_is_no_onnx_is_refused(bad: bytes) -> None:
    with pytest.raises(PackError, match="no ONNX model"):
        refuse_external_data(bad, "bad.onnx")


def test_every_cut_of_a_model_is_refused_or_whole() -> None:
    whole = in_attribute(tensor("w", external=False)).SerializeToString()
    graph_end = len(whole)
    refused = 0
    for cut in range(graph_end):
        try:
            refuse_external_data(whole[:cut], "cut.onnx")
        except PackError:
            refused += 1
    assert refused > graph_end - 20  # only the few bytes after the graph may be missing unseen


@given(st.binary(max_size=200))
def test_no_bytes_escape_the_error_hierarchy(data: bytes) -> None:
    with contextlib.suppress(PackError):
        refuse_external_data(data, "x.onnx")

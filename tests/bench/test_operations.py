"""Operations and bytes of graphs whose counts are known by hand, and the bound that follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from scanside.bench.operations import Layer, bound_s, by_kind, layers_of, moved_bytes, operations_of


def constant(name: str, *shape: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, shape, np.full(int(np.prod(shape)), 0.5))


def graph() -> bytes:
    """[n, 8, 10, 12] -> 3 x 3 convolution to 16 -> depthwise 5 x 5, stride 2 -> mean -> product -> sigmoid."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["b"], pads=[2, 2, 2, 2], strides=[2, 2], group=16),
        helper.make_node("ReduceMean", ["b", "axes"], ["c"], keepdims=0),
        helper.make_node("Gemm", ["c", "w3"], ["d"], transB=1),
        helper.make_node("Sigmoid", ["d"], ["y"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    weights = [constant("w1", 16, 8, 3, 3), constant("w2", 16, 1, 5, 5), constant("w3", 4, 16), axes]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 10, 12])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 9
    return model.SerializeToString()


@pytest.mark.parametrize("batch", [1, 3])
def test_counts_by_hand(batch: int) -> None:
    layers = layers_of(graph(), {"x": np.ones((batch, 8, 10, 12), np.float32)})
    counted = {work.kind: work.operations for work in by_kind(layers)}
    assert counted == {
        "Conv": batch * 16 * 10 * 12 * 2 * 8 * 9,
        "depthwise Conv": batch * 16 * 5 * 6 * 2 * 25,
        "ReduceMean": batch * 16 * 5 * 6,
        "Gemm": batch * 4 * 2 * 16,
        "Sigmoid": batch * 4,
    }
    assert operations_of(layers) == sum(counted.values())
    moved = {work.kind: work.bytes for work in by_kind(layers)}
    assert moved["Conv"] == 4 * (batch * 8 * 10 * 12 + 16 * 8 * 9 + batch * 16 * 10 * 12)


def test_the_bound_takes_each_layer_at_the_rate_that_binds_it() -> None:
    layers = [Layer("Conv", 1000, 10, 0.0), Layer("Resize", 10, 400, 0.0), Layer("Sigmoid", 50, 10**9, 0.0)]
    rates = {"operations_per_s": 100.0, "bytes_per_s": 20.0}
    assert bound_s(layers, **rates) == pytest.approx(1000 / 100 + 400 / 20 + 50 / 100)
    assert bound_s(layers, **rates, precision="bf16") == pytest.approx(1000 / 100 + 200 / 20 + 50 / 100)
    assert moved_bytes(layers) == 410

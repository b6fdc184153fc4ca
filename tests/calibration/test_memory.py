"""The liveness estimate against counting by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from scanside.calibration.graph import GraphView
from scanside.calibration.memory import activation_bytes, multiplications, tensor_shapes
from scanside.calibration.placement import plan_placement, scales_of, with_pairs
from scanside.errors import PackError
from scanside.pack.derive import derived_graph
from tests.calibration.test_rules import residual, skip_connection
from tests.calibration.toy import Toy, between

DIMS = {"n": 2}
TENSOR = 2 * 16 * 8 * 8  # elements


def rounded(build) -> onnx.ModelProto:
    model = between(Toy(), build)
    placement = plan_placement(model)
    return with_pairs(model, placement, scales_of(placement, dict.fromkeys(placement.tensors, 4.0)))


def test_two_tensors_of_a_chain_live_at_once() -> None:
    model = between(Toy(), lambda toy, x: toy.relu(toy.conv(toy.relu(toy.conv(x, "a", 16), "r"), "b", 16), "s"))
    # Each convolution and its ReLU are one kernel: one tensor in, one tensor out.
    assert activation_bytes(model, DIMS) == 2 * TENSOR * 4
    half = onnx.load_from_string(derived_graph(model.SerializeToString(), "fp16"))
    assert activation_bytes(half, DIMS) == 2 * TENSOR * 2 + TENSOR * 2  # the float input and its half copy with it


def test_a_skip_stays_alive_until_it_is_added() -> None:
    model = between(Toy(), residual)
    assert activation_bytes(model, DIMS) == 3 * TENSOR * 4  # start, b, and the sum


def test_rounded_tensors_take_a_quarter() -> None:
    def build(toy: Toy, x: str) -> str:
        wide = toy.relu(toy.conv(toy.relu(toy.conv(x, "a", 64), "r"), "b", 64), "s")
        return toy.conv(wide, "c", 16)

    assert activation_bytes(between(Toy(), build), DIMS) == 2 * 4 * TENSOR * 4
    # `r` and `s`, four times as wide, in 8 bits; the float tensors of the first and last operation are no larger.
    assert activation_bytes(rounded(build), DIMS) == 2 * 4 * TENSOR


def test_rounding_is_seen_through_copies() -> None:
    model = rounded(skip_connection)
    peak = activation_bytes(model, DIMS)
    assert peak < 0.6 * activation_bytes(between(Toy(), skip_connection), DIMS)


def test_free_dimensions_and_broken_shapes() -> None:
    model = between(Toy(), residual)
    with pytest.raises(PackError, match=r"x: n: a free dimension without a size"):
        activation_bytes(model, {"batch": 1})
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 1, 1), np.float32), "three"))
    next(n for n in model.graph.node if n.op_type == "Add").input[1] = "three"
    with pytest.raises(PackError, match="shapes contradict each other"):
        tensor_shapes(model, DIMS)


def test_multiplications() -> None:
    def build(toy: Toy, x: str) -> str:
        return toy.conv(toy.conv(x, "depthwise", 16, 3, 16), "point", 32, 1)

    model = between(Toy(), build)
    view, shapes = GraphView(model), tensor_shapes(model, {"n": 1})
    counted = {n.name: multiplications(view, n, shapes) for n in view.nodes if n.op_type == "Conv"}
    assert counted == {"first": 64 * 16 * 144, "depthwise": 64 * 16 * 9, "point": 64 * 32 * 16, "last": 64 * 16 * 288}

"""Each placement rule on a graph of a few nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from scanside.calibration.graph import GraphView
from scanside.calibration.placement import Placement, plan_placement
from scanside.calibration.rules import epilogue, shared_scales, skip_input, squeeze_excitation
from tests.calibration.toy import Toy, between


def points(placement: Placement) -> set[tuple[str, str, int]]:
    return {(p.tensor, p.node, p.input) for p in placement.points}


def plan(build, channels: int = 16) -> Placement:
    return plan_placement(between(Toy(channels), build))


def test_the_first_and_the_last_operation_stay() -> None:
    placement = plan(lambda toy, x: toy.relu(toy.conv(x, "middle", 32), "r"))
    assert points(placement) == {("first", "middle", 0)}
    assert placement.rounded == ("middle",)
    assert placement.refused == {
        "first": "the first operation, which reads the picture",
        "last": "the last operation, which gives the answer",
    }


def test_inputs_of_weighted_operations_only_and_nothing_inside_an_epilogue() -> None:
    placement = plan(lambda toy, x: toy.conv(toy.silu(toy.conv(x, "a", 16), "s"), "b", 16))
    assert points(placement) == {("first", "a", 0), ("s", "b", 0)}  # neither the sigmoid nor its product


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "rounds"),
    [(16, 16, 3, True), (16, 8, 3, True), (16, 10, 3, True), (8, 16, 3, True), (12, 15, 3, False), (8, 8, 3, False)],
)
def test_small_channels(channels: int, out: int, kernel: int, rounds: bool) -> None:
    def build(toy: Toy, x: str) -> str:
        return toy.conv(toy.conv(x, "narrow", channels, 3), "small", out, kernel)

    assert ("small" in plan(build, 16).rounded) is rounds


def test_a_small_kernel_that_is_not_square_stays() -> None:
    def build(toy: Toy, x: str) -> str:
        toy.constant("w", np.ones((8, 16, 1, 3), np.float32))
        return toy.op("Conv", [x, "w"], "small", 8, kernel_shape=[1, 3], pads=[0, 1, 0, 1])

    assert plan(build).refused["small"] == "8 channels on one side, 16 needed"


@pytest.mark.parametrize(
    ("out", "kernel", "group", "reason"),
    [
        (16, 3, 16, None),
        (16, 5, 16, None),
        (16, 1, 16, "a kernel of 1 x 1 in 16 groups, 3 needed"),
        (20, 3, 4, "20 channels in 4 groups, a multiple of 8 needed"),
    ],
)
def test_depthwise_and_grouped(out: int, kernel: int, group: int, reason: str | None) -> None:
    placement = plan(lambda toy, x: toy.conv(x, "grouped", out, kernel, group))
    assert placement.refused.get("grouped") == reason


@pytest.mark.parametrize(("out", "reason"), [(32, None), (8, "a product of 8 x 16, 16 needed on each side")])
def test_vector_products_stay(out: int, reason: str | None) -> None:
    toy = Toy()
    toy.conv("x", "first", 16)
    toy.op("Flatten", [toy.op("GlobalAveragePool", ["first"], "pool")], "flat")
    for name, inputs, rows in (("fc", "flat", out), ("last", "fc", 2)):
        toy.constant(f"{name}.weight", np.ones((rows, toy.channels[inputs]), np.float32))
        toy.op("Gemm", [inputs, f"{name}.weight"], name, rows, transB=1)
    placement = plan_placement(toy.model("last", rank=2))
    assert placement.refused.get("fc") == reason


def squeeze(toy: Toy, x: str) -> str:
    toy.constant("axes", np.array([2, 3]))
    a = toy.silu(toy.conv(x, "expand", 32), "a")
    pooled = toy.op("ReduceMean", [a, "axes"], "pool", keepdims=1)
    small = toy.silu(toy.conv(pooled, "reduce", 16, 1), "small")
    gate = toy.op("Sigmoid", [toy.conv(small, "widen", 32, 1)], "gate")
    return toy.conv(toy.op("Mul", [gate, a], "gated"), "project", 16, 1)


def test_squeeze_and_excitation_stays_whole() -> None:
    model = between(Toy(), squeeze)
    placement = plan_placement(model)
    assert points(placement) == {("first", "expand", 0), ("gated", "project", 0)}
    view = GraphView(model)
    excited = [n.name for n in view.nodes if n.op_type == "Conv" and squeeze_excitation(view, n)]
    assert excited == ["reduce", "widen"]


def residual(toy: Toy, x: str) -> str:
    start = toy.relu(x, "start")
    long = toy.conv(toy.relu(toy.conv(start, "a", 16), "b"), "long", 16)
    return toy.relu(toy.op("Add", [long, start], "sum"), "end")


def test_a_residual_addition_rounds_its_skip_input_alone() -> None:
    assert ("start", "sum", 1) in points(plan(residual))
    assert not any(tensor == "long" for tensor, _, _ in points(plan(residual)))


def test_of_two_convolutions_the_longer_way_is_the_backbone() -> None:
    def build(toy: Toy, x: str) -> str:
        start = toy.relu(x, "start")
        short = toy.conv(start, "short", 16, 1)
        long = toy.conv(toy.relu(toy.conv(start, "a", 16), "b"), "long", 16)
        return toy.op("Add", [short, long], "sum")

    assert ("short", "sum", 0) in points(plan(build))


def test_no_residual_no_pair() -> None:
    def constant(toy: Toy, x: str) -> str:
        return toy.op("Add", [toy.conv(x, "a", 16), toy.constant("c", np.ones((16, 1, 1), np.float32))], "sum")

    def no_convolution(toy: Toy, x: str) -> str:
        start = toy.relu(x, "start")
        return toy.op("Add", [toy.relu(start, "r"), start], "sum")

    def ancestor(toy: Toy, x: str) -> str:  # the "backbone" is itself where both ways part
        a = toy.conv(x, "a", 16)
        return toy.op("Add", [a, toy.relu(a, "r")], "sum")

    for build in (constant, no_convolution, ancestor):
        view = GraphView(between(Toy(), build))
        assert [skip_input(view, n) for n in view.nodes if n.op_type == "Add"] == [None]


def test_a_kept_backbone_leaves_its_skip_alone() -> None:
    model = between(Toy(), residual)
    assert not any(node == "sum" for _, node, _ in points(plan_placement(model, keep=["long"])))


def skip_connection(toy: Toy, x: str) -> str:
    """A UNet in small: features to the side, down, up again, joined."""
    side = toy.relu(toy.conv(x, "side", 16), "features")
    down = toy.op("MaxPool", [side], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    deep = toy.relu(toy.conv(down, "deep", 16), "deep.relu")
    toy.constant("double", np.array([1, 1, 2, 2], np.float32))
    up = toy.op("Resize", [deep, "", "double"], "up", mode="nearest")
    return toy.conv(toy.op("Concat", [up, side], "joined", 32, axis=1), "decode", 16)


def test_what_meets_in_a_concatenation_has_one_scale() -> None:
    placement = plan(skip_connection)
    assert ("joined", "decode", 0) in points(placement)
    assert placement.shared == (frozenset({"joined", "pooled"}),)  # pooling copies values: the same scale
    view = GraphView(between(Toy(), skip_connection))
    assert shared_scales(view) == [frozenset({"joined", "up", "deep.relu", "features", "pooled"})]


def test_resize_stands_before_the_pair() -> None:
    assert not any(tensor == "deep.relu" for tensor, _, _ in points(plan(skip_connection)))


@pytest.mark.parametrize(("mode", "expected"), [("constant", ("r", "pad", 0)), ("reflect", ("pad", "conv", 0))])
def test_zero_padding_stands_directly_before_its_convolution(mode: str, expected: tuple) -> None:
    def build(toy: Toy, x: str) -> str:
        toy.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
        return toy.conv(toy.op("Pad", [toy.relu(x, "r"), "pads"], "pad", mode=mode), "conv", 16)

    assert expected in points(plan(build))


def test_a_product_of_two_activations_stays() -> None:
    def build(toy: Toy, x: str) -> str:
        return toy.op("MatMul", [x, toy.relu(x, "r")], "product")

    assert plan(build).refused["product"] == "its second factor is no constant weight"


def test_epilogues() -> None:
    def names(model: onnx.ModelProto, conv: str) -> list[str]:
        view = GraphView(model)
        return [n.name for n in epilogue(view, next(n for n in view.nodes if n.name == conv))]

    silu = between(Toy(), lambda toy, x: toy.conv(toy.silu(toy.conv(x, "a", 16), "s"), "b", 16))
    assert names(silu, "a") == ["s.sigmoid", "s"]
    assert names(between(Toy(), residual), "long") == ["sum", "end"]
    assert names(between(Toy(), skip_connection), "side") == ["features"]
    assert names(between(Toy(), squeeze), "project") == []


def test_what_stands_beside_the_answer_stays_and_hides_no_last_operation() -> None:
    toy = Toy()
    middle = toy.conv(toy.conv("x", "first", 16), "middle", 16)
    answer = toy.conv(middle, "last", 16)
    toy.conv(toy.relu(answer, "drawn"), "picture", 16)
    model = toy.model("last")
    model.graph.output.append(onnx.helper.make_tensor_value_info("picture", 1, [None] * 4))
    placement = plan_placement(model)
    assert placement.rounded == ("middle",)
    assert placement.refused["last"] == "the last operation, which gives the answer"
    assert placement.refused["picture"] == "beside the answer"

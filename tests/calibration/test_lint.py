"""Findings on graphs made wrong on purpose, and none on graphs made right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from scanside.calibration.lint import BROKEN_FUSION, NOT_INT8, REFORMAT, Finding, lint
from scanside.calibration.placement import plan_placement, scales_of, with_pairs
from tests.calibration.test_rules import residual, skip_connection, squeeze
from tests.calibration.toy import Toy, between


def rounded(build) -> onnx.ModelProto:
    model = between(Toy(), build)
    placement = plan_placement(model)
    return with_pairs(model, placement, scales_of(placement, dict.fromkeys(placement.tensors, 4.0)))


def with_pair(model: onnx.ModelProto, tensor: str, reader: str, scale: float = 0.1, zero: int = 0) -> onnx.ModelProto:
    """`model` with one more pair between a tensor and one of its readers."""
    name = f"{tensor}.extra"
    for array, part in ((np.float32(scale), "scale"), (np.int8(zero), "zero")):
        model.graph.initializer.append(numpy_helper.from_array(np.array(array), f"{name}.{part}"))
    parts = [f"{name}.scale", f"{name}.zero"]
    nodes = []
    for node in model.graph.node:
        if node.name == reader:
            nodes.append(helper.make_node("QuantizeLinear", [tensor, *parts], [f"{name}.int8"], name=f"{name}.q"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}.int8", *parts], [name], name=f"{name}.dq"))
            node.input[:] = [name if i == tensor else i for i in node.input]
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def found(model: onnx.ModelProto, kind: str) -> list[Finding]:
    return [finding for finding in lint(model) if finding.kind == kind]


@pytest.mark.parametrize("build", [residual, skip_connection])
def test_our_own_placement_breaks_nothing(build) -> None:
    model = rounded(build)
    assert [f.node for f in lint(model)] == ["first", "last"]
    assert {f.kind for f in lint(model)} == {NOT_INT8}


def test_a_graph_that_is_not_rounded_has_no_findings() -> None:
    assert lint(between(Toy(), residual)) == ()


def test_operations_out_of_8_bits_say_why() -> None:
    texts = {f.node: f.text for f in found(rounded(squeeze), NOT_INT8)}
    assert texts["reduce"] == "Conv runs in higher precision: part of squeeze-and-excitation, which stays whole"
    model = rounded(residual)
    node = next(n for n in model.graph.node if n.name == "a")
    node.input[1] = "a.weight"
    assert {f.node: f.text for f in found(model, NOT_INT8)}["a"] == (
        "Conv runs in higher precision: its weight is not rounded"
    )
    node.input[0], node.input[1] = "start", "a.weight.rounded"
    assert "its input is not rounded" in {f.node: f.text for f in found(model, NOT_INT8)}["a"]


def test_a_pair_between_a_convolution_and_its_activation() -> None:
    assert found(with_pair(rounded(residual), "a", "b"), BROKEN_FUSION) == [
        Finding(BROKEN_FUSION, "a", "a pair between Conv and its Relu: round after it")
    ]
    after_sum = with_pair(rounded(residual), "sum", "end")
    assert [f.node for f in found(after_sum, BROKEN_FUSION)] == ["long"]


def test_both_inputs_or_the_wrong_input_of_a_residual_addition() -> None:
    both = with_pair(rounded(residual), "long", "sum")
    assert [f.text for f in found(both, BROKEN_FUSION)] == [
        "both inputs of a residual addition are rounded: round the skip alone"
    ]
    neither = rounded(residual)
    add = next(n for n in neither.graph.node if n.name == "sum")
    add.input[1] = "start"
    assert [f.text for f in found(neither, BROKEN_FUSION)] == ["the skip input of a residual addition is not rounded"]


def test_rounded_biases_and_asymmetric_activations() -> None:
    model = rounded(residual)
    extra = [
        numpy_helper.from_array(np.ones(16, np.int32), "b32"),
        numpy_helper.from_array(np.full(16, 0.1, np.float32), "bs"),
    ]
    model.graph.initializer.extend(extra)
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["b32", "bs"], ["bias"], name="bdq", axis=0))
    next(n for n in model.graph.node if n.name == "a").input[2] = "bias"
    assert [f.text for f in found(model, BROKEN_FUSION)] == [
        "its bias is rounded, which TensorRT rejects: keep it float"
    ]
    skewed = with_pair(rounded(lambda toy, x: toy.conv(x, "a", 16)), "a", "last", zero=3)
    assert [f.node for f in found(skewed, BROKEN_FUSION)] == ["a.extra.q"]


def test_copies_of_rounded_values_and_several_scales_in_a_concatenation() -> None:
    early = with_pair(rounded(skip_connection), "deep.relu", "up")
    assert {f.text for f in found(early, REFORMAT)} >= {"Resize reads a rounded tensor: put the pair behind it"}
    model = rounded(skip_connection)
    scale = next(t for t in model.graph.initializer if t.name == "pooled.scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32(0.5), "pooled.scale"))
    assert [f.text for f in found(model, REFORMAT)] == [
        "2 scales among tensors that meet in a concatenation: give them one"
    ]


def test_a_concatenation_read_both_ways() -> None:
    def build(toy: Toy, x: str) -> str:
        both = toy.op("Concat", [toy.conv(x, "a", 16), toy.conv(x, "b", 16)], "both", 32, axis=1)
        return toy.op("Add", [toy.op("Sigmoid", [both], "s"), toy.conv(both, "c", 32)], "sum")

    assert [f.node for f in found(rounded(build), REFORMAT)] == ["both"]

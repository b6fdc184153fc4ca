"""Toy graphs in a few lines: each layer gets weights of its own, nodes are named by what they make."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Toy:
    """Builds a graph layer by layer; every method returns the name of the tensor it made."""

    def __init__(self, channels: int = 16, size: int = 8, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.channels: dict[str, int] = {"x": channels}
        self.size = size

    def constant(self, name: str, values: NDArray) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def op(self, op_type: str, inputs: list[str], name: str, channels: int | None = None, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self.channels[name] = self.channels.get(inputs[0], 0) if channels is None else channels
        return name

    def conv(self, x: str, name: str, out: int, kernel: int = 3, group: int = 1) -> str:
        shape = (out, self.channels[x] // group, kernel, kernel)
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        self.constant(f"{name}.weight", self.rng.normal(0, scale, shape).astype(np.float32))
        self.constant(f"{name}.bias", self.rng.normal(0, 0.1, out).astype(np.float32))
        weights = [f"{name}.weight", f"{name}.bias"]
        pads = [kernel // 2] * 4
        return self.op("Conv", [x, *weights], name, out, kernel_shape=[kernel] * 2, pads=pads, group=group)

    def relu(self, x: str, name: str) -> str:
        return self.op("Relu", [x], name)

    def silu(self, x: str, name: str) -> str:
        return self.op("Mul", [x, self.op("Sigmoid", [x], f"{name}.sigmoid")], name)

    def model(self, y: str, rank: int = 4) -> onnx.ModelProto:
        shape = ["n", self.channels["x"], self.size, self.size]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        answer = helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * rank)
        graph = helper.make_graph(self.nodes, "toy", [x], [answer], self.constants)
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
        onnx.checker.check_model(model, full_check=True)
        return model


def between(toy: Toy, build: Any) -> onnx.ModelProto:
    """`build(toy, tensor)` between a first and a last convolution, which never round."""
    first = toy.conv("x", "first", toy.channels["x"])
    return toy.model(toy.conv(build(toy, first), "last", 16))

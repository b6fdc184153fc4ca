"""Make `scanside/bench/gemm.onnx`: four large matrix products in a row, a file of a few hundred bytes.

    python -m benchmarks.make_gemm [OUT]

The weights are written as "this shape, filled with this value", which a runtime folds into a matrix when it loads: the
file stays small and the products are those of real weights. Each weight is 1 / size, so values stay what they were.
"""

from __future__ import annotations

import sys
from pathlib import Path

from onnx import TensorProto, checker, helper

SIZE = 2048
PRODUCTS = 4
OUT = Path(__file__).parents[1] / "scanside" / "bench" / "gemm.onnx"


def gemm_graph(size: int = SIZE, products: int = PRODUCTS) -> bytes:
    """The graph: input `a` float [rows, size], output `b` of the same shape, `rows` free."""
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1 / size])
    nodes = [helper.make_node("ConstantOfShape", ["shape"], [f"w{i}"], value=value) for i in range(products)]
    names = ["a", *(f"c{i}" for i in range(1, products)), "b"]
    nodes += [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(products)]
    graph = helper.make_graph(
        nodes,
        "gemm",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["rows", size])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["rows", size])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [size, size])],
    )
    model = helper.make_model(graph, producer_name="scanside", opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else OUT).write_bytes(gemm_graph())

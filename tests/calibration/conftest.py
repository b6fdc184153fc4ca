"""A pack of small real networks, with random weights: enough to round, to observe and to compare."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from scanside.pack import GoldenSpec, file_records, load_pack, write_pack
from tests.calibration.toy import Toy

PLANES = ("transverse", "sagittal", "coronal")
CROP = 32


def toy_segmenter() -> onnx.ModelProto:
    """Pixels -> 16 channels -> a residual block with its names as PyTorch gives them -> probability."""
    toy = Toy(channels=1, seed=1)
    toy.constant("scale", np.float32(1 / 255))
    toy.op("Cast", ["pixels"], "cast", 1, to=TensorProto.FLOAT)
    grey = toy.op("Mul", ["cast", "scale"], "grey")
    stem = toy.relu(toy.conv(grey, "encoder.stem", 16), "stem.relu")
    inner = toy.relu(toy.conv(stem, "encoder.blocks.0.conv1", 16), "inner")
    total = toy.op("Add", [toy.conv(inner, "encoder.blocks.0.conv2", 16), stem], "sum")
    deep = toy.silu(toy.conv(total, "encoder.blocks.1.conv", 16), "deep")
    toy.constant("full", np.float32(255))
    p = toy.op("Sigmoid", [toy.conv(deep, "head", 1)], "p")
    toy.op(
        "Cast", [toy.op("Round", [toy.op("Mul", [p, "full"], "levels")], "round")], "probability", to=TensorProto.UINT8
    )
    shape = ["batch", 1, "height", "width"]
    return finished(toy, {"pixels": shape}, ("probability", TensorProto.UINT8, shape))


def toy_classifier() -> onnx.ModelProto:
    """Three planes -> a convolution pair each -> sum -> one fully connected layer -> P(malignant)."""
    toy = Toy(channels=1, seed=2)
    toy.constant("scale", np.float32(1 / 255))
    toy.constant("axes", np.array([2, 3]))
    toy.constant("first", np.array(0))
    pooled = []
    for plane in PLANES:
        toy.op("Cast", [plane], f"{plane}.cast", 1, to=TensorProto.FLOAT)
        grey = toy.op("Mul", [f"{plane}.cast", "scale"], f"{plane}.grey")
        a = toy.relu(toy.conv(grey, f"branches.{plane}.conv1", 16), f"{plane}.a")
        b = toy.relu(toy.conv(a, f"branches.{plane}.layer1.0.conv1", 16), f"{plane}.b")
        pooled.append(toy.op("ReduceMean", [b, "axes"], f"{plane}.mean", keepdims=0))
    summed = toy.op("Sum", pooled, "fused", 16)
    toy.constant("fc.weight", toy.rng.normal(0, 1, (2, 16)).astype(np.float32))
    logits = toy.op("Gemm", [summed, "fc.weight"], "fc", 2, transB=1)
    toy.op("Gather", [toy.op("Softmax", [logits], "softmax", axis=1), "first"], "probability", axis=1)
    inputs = {plane: ["batch", 1, CROP, CROP] for plane in PLANES}
    return finished(toy, inputs, ("probability", TensorProto.FLOAT, ["batch"]))


def finished(toy: Toy, inputs: dict[str, list], output: tuple) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, shape in inputs.items()]
    graph = helper.make_graph(toy.nodes, "toy", values, [helper.make_tensor_value_info(*output)], toy.constants)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="session")
def toy_pack(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path) -> Path:
    """The tiny pack with the toy networks in it, and golden cases of their answers."""
    tiny = load_pack(tiny_pack)
    rng = np.random.default_rng(5)
    inputs = {
        "segmenter": {"pixels": rng.integers(0, 256, (2, 1, 32, 64)).astype(np.uint8)},
        "classifier": {plane: rng.integers(0, 256, (3, 1, CROP, CROP)).astype(np.uint8) for plane in PLANES},
    }
    contents: dict[str, bytes] = {}
    golden = []
    for network, make in (("segmenter", toy_segmenter), ("classifier", toy_classifier)):
        graph = make().SerializeToString(deterministic=True)
        session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        stream = io.BytesIO()
        np.savez(stream, **inputs[network], probability=session.run(None, inputs[network])[0])
        contents[f"{network}.onnx"], contents[f"{network}.npz"] = graph, stream.getvalue()
        golden.append(GoldenSpec(network, f"{network}.npz", max_error=1.0, mean_error=0.01))
    manifest = replace(
        tiny.manifest, name="toy", golden=tuple(golden), files=file_records(contents), card=None, checks=()
    )
    return write_pack(tmp_path_factory.mktemp("toy") / "pack", contents, manifest)

"""Graphs and predictors for the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from onnx import TensorProto, helper

from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.predictor import Predictor, load
from scanside.exam.volume import Volume
from scanside.pack import ClassifierSpec, load_pack


class DecodedFrames:
    """Frames decoded one by one, or failing at one."""

    def __init__(self, voxels: np.ndarray, *, fail_at: int | None = None) -> None:
        self.voxels = voxels
        self.fail_at = fail_at

    def read(self, k: int, out: np.ndarray) -> None:
        if k == self.fail_at:
            raise ZeroDivisionError(f"frame {k}")
        out[...] = self.voxels[k]


class Framed(Protocol):
    """The same volume, but decoded frame by frame like a file; reading frame `fail_at` raises ZeroDivisionError."""

    def __call__(self, volume: Volume, *, fail_at: int | None = None) -> Volume: ...


@pytest.fixture(scope="session")
def framed() -> Framed:
    def make(volume: Volume, *, fail_at: int | None = None) -> Volume:
        return Volume(volume.info, DecodedFrames(volume.source.voxels, fail_at=fail_at))  # type: ignore[attr-defined]

    return make


@pytest.fixture(scope="session")
def predictor(tiny_pack: Path) -> Iterator[Predictor]:
    with load(tiny_pack, device="cpu", precision="fp32", threads=2) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def networks(predictor: Predictor) -> tuple[Segmenter, Classifier]:
    return predictor.segmenter, predictor.classifier


@pytest.fixture(scope="session")
def nan_classifier(tiny_pack: Path) -> Classifier:
    """A classifier under the graph contract that answers 0 / 0."""
    spec = load_pack(tiny_pack).manifest.classifier
    planes = list(spec.inputs.values())
    nodes = [helper.make_node("Cast", [p], [f"{p}_f"], to=TensorProto.FLOAT) for p in planes]
    nodes += [
        helper.make_node("Sum", [f"{p}_f" for p in planes], ["all"]),
        helper.make_node("ReduceMean", ["all", "axes"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], [spec.output]),
    ]
    return Classifier(_graph(nodes, spec), spec, device="cpu", precision="fp32", threads=1)


def _graph(nodes: list, spec: ClassifierSpec) -> bytes:
    shape = ["batch", 1, spec.size, spec.size]
    graph = helper.make_graph(
        nodes,
        "nan",
        [helper.make_tensor_value_info(p, TensorProto.UINT8, shape) for p in spec.inputs.values()],
        [helper.make_tensor_value_info(spec.output, TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model.SerializeToString()

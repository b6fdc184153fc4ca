"""The tests for a GPU on the stand-in, so that what fails on a GPU is the GPU and not the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scanside.engine.tensorrt.module import TensorRt
from tests.engine.tensorrt import test_gpu
from tests.engine.tensorrt.test_load import on_cuda as on_tensorrt  # noqa: F401 - a fixture
from tests.engine.test_onnxruntime_cuda import on_cuda as on_provider  # noqa: F401 - a fixture


@pytest.fixture
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TensorRt:
    make: Callable[..., Any] = request.getfixturevalue("on_tensorrt")
    machine = make(seed=3, name="tensorrt_rtx")
    monkeypatch.setattr("scanside.engine.tensorrt.plans.require", lambda target=None: machine.trt)
    for module in (test_gpu.__name__, "scanside.engine.tensorrt.plans"):
        monkeypatch.setattr(f"{module}.shared_device", lambda: machine.device)
    return machine.trt


@pytest.fixture
def cuda_provider(request: pytest.FixtureRequest) -> None:
    make: Callable[..., Any] = request.getfixturevalue("on_provider")
    make(seed=3)


test_toy = test_gpu.test_a_toy_answers_as_onnx_runtime_does
test_inspector = test_gpu.test_the_inspector_lists_the_fused_layers
test_exam = test_gpu.test_an_exam_has_the_findings_of_the_processor
test_provider = test_gpu.test_the_cuda_provider_streams

"""What only a GPU can confirm: skipped without one, with the reason. Run it with `pytest -m gpu -rs`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scanside.engine.capabilities import capabilities, tensorrt_runtime
from scanside.engine.cuda import Owned, shared_device
from scanside.engine.cuda_runtime import CudaRuntime
from scanside.engine.device_volume import DeviceSections, DeviceVolume
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.pipeline import find_lesions
from scanside.engine.predictor import load
from scanside.engine.sections import Window, padded_shape
from scanside.engine.tensorrt.build import build_plan
from scanside.engine.tensorrt.module import TensorRt, require
from scanside.engine.tensorrt.plan import BuildOptions
from scanside.engine.tensorrt.plans import build_pack, target_of
from scanside.engine.tensorrt.session import Engine
from scanside.exam.geometry import Geometry
from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE
from scanside.exam.planes import Plane, SectionGrid
from scanside.pack import load_pack

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

pytestmark = pytest.mark.gpu


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRt:
    name, remark = tensorrt_runtime()
    if not name:
        pytest.skip(f"no GPU for TensorRT: {remark}")
    monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path))
    return require()


def toy(trt: TensorRt, graph: bytes, options: BuildOptions) -> Engine:
    device = shared_device()
    target = target_of(trt, device.compute_capability, device.driver)
    built = build_plan(trt, graph, options, target.name, where="toy")
    return Engine(trt, device, built.plan, where="toy fp32")


def test_a_toy_answers_as_onnx_runtime_does(
    trt: TensorRt, toy_graph: bytes, toy_options: BuildOptions, toy_answer: Callable[[np.ndarray], np.ndarray]
) -> None:
    runtime = CudaRuntime(toy(trt, toy_graph, toy_options), "fp32", {"height": 8, "width": 16})
    for count in (1, 4, 11):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 1, 8, 16), np.uint8)
        answers = [np.zeros_like(pixels) for _ in range(6)]
        pending = [runtime.submit({"pixels": pixels}, {"probability": answer}) for answer in answers]
        for one in pending:
            one.wait()
        for answer in answers:
            assert np.abs(answer.astype(int) - toy_answer(pixels)).max() <= 1
    assert runtime.fallbacks == ()
    runtime.close()


def test_the_inspector_lists_the_fused_layers(trt: TensorRt, toy_graph: bytes, toy_options: BuildOptions) -> None:
    assert json.loads(toy(trt, toy_graph, toy_options).information())["Layers"]


def test_the_shipped_pack_proves_itself(trt: TensorRt) -> None:
    """Golden cases within the pack's own limits, CUDA graphs in use, no remark but that a plan was built."""
    pack = load_pack()
    list(build_pack(pack, targets=("current",), precision="fp32"))
    with load(pack, device="cuda", precision="fp32") as predictor:
        assert all(result.passed for result in predictor.self_check())
        assert predictor.device.fallbacks == ()
        assert predictor.device.runtime == trt.runtime


def test_an_exam_has_the_findings_of_the_processor(trt: TensorRt, tiny_pack: Path, blob_volume: BlobVolume) -> None:
    list(build_pack(load_pack(tiny_pack), targets=("current",), precision="fp32"))
    with load(tiny_pack, device="cuda") as on_gpu, load(tiny_pack, device="cpu", precision="fp32") as on_processor:
        found = on_gpu.analyze(blob_volume.volume())
        expected = on_processor.analyze(blob_volume.volume())
    assert [lesion.malignant for lesion in found.lesions] == [lesion.malignant for lesion in expected.lesions]
    for one, other in zip(found.lesions, expected.lesions, strict=True):
        assert np.allclose(one.centroid_mm, other.centroid_mm, atol=1)
        assert one.probability == pytest.approx(other.probability, abs=1e-3)


@pytest.mark.parametrize("plane", list(Plane))
def test_sections_are_cut_as_on_the_processor(trt: TensorRt, plane: Plane) -> None:
    """The shipped PTX on a GPU, at the standard exam's size, on noise: every rounding occurs."""
    geometry = Geometry(STANDARD_SHAPE, tuple(mm / n for mm, n in zip(STANDARD_EXTENT_MM, STANDARD_SHAPE, strict=True)))
    spec = load_pack().manifest.segmenter
    grid = SectionGrid.over(geometry, plane, spec.pitch_mm, spec.every_mm)
    voxels = np.random.default_rng(1).integers(0, 256, STANDARD_SHAPE, np.uint8)
    size = padded_shape(grid.shape, spec.size_multiple)
    numbers = tuple(range(0, len(grid), 16))
    device = shared_device()
    volume = DeviceVolume(device, {plane: grid})
    with device.active():
        volume.begin(voxels)
        volume.upload(0, len(voxels))
        sections = DeviceSections(
            volume, Window(plane, numbers, (0, 0), size), tuple(grid.indices[list(numbers)].tolist())
        )
        owned = Owned(device)
        buffer, stream = owned.push(device.allocate(int(np.prod(sections.shape)))), owned.push(device.stream())
        cut = owned.pinned(sections.shape, sections.dtype)
        sections.make(buffer, stream)
        device.copy_out(cut, buffer, stream)
        stream.synchronize()
        for number, section in zip(numbers, cut[:, 0], strict=True):
            assert np.array_equal(section[: grid.shape[0], : grid.shape[1]], grid.section(voxels, number))
        owned.free()
    volume.close()


def test_the_cuda_provider_streams(tiny_pack: Path, blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime on the same buffers, where it was built with CUDA."""
    if not capabilities().cuda:
        pytest.skip("this ONNX Runtime has no CUDA provider")
    monkeypatch.setattr("scanside.engine.onnxruntime.capabilities", lambda: replace(capabilities(), tensorrt=""))
    pack, how = load_pack(tiny_pack), {"device": "cuda", "precision": "fp32"}
    segmenter = Segmenter(pack.graph_bytes("segmenter"), pack.manifest.segmenter, **how)
    classifier = Classifier(pack.graph_bytes("classifier"), pack.manifest.classifier, **how)
    found = find_lesions(blob_volume.volume(), segmenter, classifier, threads=2)
    assert all(isinstance(runtime, CudaRuntime) for runtime in segmenter.runtimes)
    assert [lesion.malignant for lesion in found.lesions] == [True, False]
    segmenter.close()
    classifier.close()

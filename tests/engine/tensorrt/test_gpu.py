"""What only a GPU can confirm: skipped without one, with the reason. Run it with `pytest -m gpu -rs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
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
    from scanside.engine.runtime import Runtime
    from scanside.report.model import Lesion
    from tests.conftest import BlobVolume

pytestmark = pytest.mark.gpu

Networks = tuple[Segmenter, Classifier]

GREY_LEVELS = 1
CENTROID_MM = 0.5
VOLUME = 0.02
DETECTION_SCORE = 0.005
PROBABILITY = 1e-3
KEPT_BYTES = 32 * 2**20
"""Less free memory than this after the same work once more is a leak."""


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRt:
    name, remark = tensorrt_runtime()
    if not name:
        pytest.skip(f"no GPU for TensorRT: {remark}")
    monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path))
    return require()


@pytest.fixture
def cuda_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's, where a TensorRT would come first."""
    if not capabilities().cuda:
        pytest.skip("this ONNX Runtime has no CUDA provider")
    without = replace(capabilities(), ask_tensorrt=lambda: ("", ""))
    monkeypatch.setattr("scanside.engine.onnxruntime.capabilities", lambda: without)


def toy(trt: TensorRt, graph: bytes, options: BuildOptions) -> Engine:
    device = shared_device()
    target = target_of(trt, device.compute_capability, device.driver)
    built = build_plan(trt, graph, options, target.name, where="toy")
    return Engine(trt, device, built.plan, where="toy fp32")


def assert_on_gpu(runtimes: Iterable[Runtime], *, fallbacks: tuple[str, ...] = (), graphs: bool = True) -> None:
    """All of them run on the GPU, as they should: full batches, CUDA graphs, nothing left out."""
    for runtime in runtimes:
        assert isinstance(runtime, CudaRuntime)
        assert runtime.fallbacks == fallbacks
        assert runtime.uses_graphs == graphs


def assert_alike(found: Sequence[Lesion], expected: Sequence[Lesion]) -> None:
    """The processor's lesions: sections may be cut one grey level apart, and kernels sum in another order."""
    assert [lesion.malignant for lesion in found] == [lesion.malignant for lesion in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.centroid_mm == pytest.approx(other.centroid_mm, abs=CENTROID_MM)
        assert one.volume_mm3 == pytest.approx(other.volume_mm3, rel=VOLUME)
        assert one.detection_score == pytest.approx(other.detection_score, abs=DETECTION_SCORE)
        assert one.frame_probabilities == pytest.approx(other.frame_probabilities, abs=PROBABILITY)


def test_a_toy_answers_as_onnx_runtime_does(
    trt: TensorRt, toy_graph: bytes, toy_options: BuildOptions, toy_answer: Callable[[np.ndarray], np.ndarray]
) -> None:
    runtime = CudaRuntime(toy(trt, toy_graph, toy_options), "fp32", {"height": 8, "width": 16})
    assert_on_gpu([runtime])
    for count in (1, 4, 11):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 1, 8, 16), np.uint8)
        answers = [np.zeros_like(pixels) for _ in range(6)]
        pending = [runtime.submit({"pixels": pixels}, {"probability": answer}) for answer in answers]
        for one in pending:
            one.wait()
        for answer in answers:
            assert np.abs(answer.astype(int) - toy_answer(pixels)).max() <= GREY_LEVELS
    runtime.close()


def test_the_inspector_lists_the_fused_layers(trt: TensorRt, toy_graph: bytes, toy_options: BuildOptions) -> None:
    with closing(toy(trt, toy_graph, toy_options)) as engine:
        assert json.loads(engine.information())["Layers"]


def test_the_shipped_pack_proves_itself(trt: TensorRt) -> None:
    """Golden cases within the pack's own limits, CUDA graphs in use, no remark."""
    pack = load_pack()
    list(build_pack(pack, targets=("current",), precision="fp32"))
    with load(pack, device="cuda", precision="fp32") as predictor:
        assert all(result.passed for result in predictor.self_check())
        assert predictor.device.fallbacks == ()
        assert predictor.device.runtime == trt.runtime
        assert_on_gpu((*predictor.segmenter.runtimes, predictor.classifier.runtime))


def test_closing_gives_the_weights_back(trt: TensorRt) -> None:
    """The shipped weights are many times the limit; what the driver and TensorRT load once for the process stays."""
    pack, free = load_pack(), []
    list(build_pack(pack, targets=("current",), precision="fp32"))
    device = shared_device()
    for _ in range(3):
        load(pack, device="cuda", precision="fp32").close()
        with device.active():
            free.append(device.free_bytes())
    assert min(free) >= free[0] - KEPT_BYTES


@pytest.mark.parametrize("policy", ["exact", "confirm"])
def test_an_exam_has_the_findings_of_the_processor(
    trt: TensorRt, tiny_pack: Path, blob_volume: BlobVolume, policy: str
) -> None:
    list(build_pack(load_pack(tiny_pack), targets=("current",), precision="fp32"))
    device = shared_device()
    with load(tiny_pack, device="cpu", precision="fp32", policy=policy) as on_processor:
        expected = on_processor.analyze(blob_volume.volume())
    with load(tiny_pack, device="cuda", precision="fp32", policy=policy) as on_gpu:
        found, free = [], []
        for _ in range(4):
            found.append(on_gpu.analyze(blob_volume.volume()))
            with device.active():
                free.append(device.free_bytes())
        assert_on_gpu((*on_gpu.segmenter.runtimes, on_gpu.classifier.runtime))
    for report in found:
        assert report.device.fallbacks == ()
        assert report.device.runtime == trt.runtime
        assert report.device.sections == expected.device.sections
        assert_alike(report.lesions, expected.lesions)
        assert report.lesions == found[0].lesions
    assert min(free) >= free[0] - KEPT_BYTES


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


def test_the_cuda_provider_streams(
    cuda_provider: None, tiny_pack: Path, blob_volume: BlobVolume, networks: Networks
) -> None:
    """ONNX Runtime on the same buffers."""
    pack, how = load_pack(tiny_pack), {"device": "cuda", "precision": "fp32"}
    segmenter = Segmenter(pack.graph_bytes("segmenter"), pack.manifest.segmenter, **how)
    classifier = Classifier(pack.graph_bytes("classifier"), pack.manifest.classifier, **how)
    found = find_lesions(blob_volume.volume(), segmenter, classifier, threads=2)
    assert found.fallbacks == ()
    no_graphs = "no CUDA graph: ONNX Runtime gives its kernels to the GPU one by one"
    assert_on_gpu((*segmenter.runtimes, classifier.runtime), fallbacks=(no_graphs,), graphs=False)
    assert_alike(found.lesions, find_lesions(blob_volume.volume(), *networks, threads=2).lesions)
    segmenter.close()
    classifier.close()

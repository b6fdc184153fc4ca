"""The CUDA provider's streaming over the stand-in: a fake ONNX Runtime whose sessions work on device memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from scanside.engine import onnxruntime as providers
from scanside.engine.capabilities import capabilities
from scanside.engine.cuda_runtime import CudaRuntime
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.onnxruntime import CUDA, OnnxRuntime, load_runtime
from scanside.engine.onnxruntime_cuda import CudaGraph
from scanside.engine.pipeline import find_lesions
from scanside.errors import EngineError
from scanside.pack import load_pack
from tests.engine.cuda_stand_in import StandInDevice

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

Networks = tuple[Segmenter, Classifier]


class FakeBinding:
    """Remembers what was bound, and refuses what ONNX Runtime would."""

    def __init__(self) -> None:
        self.bound: dict[str, tuple[np.dtype, tuple[int, ...], int]] = {}

    def bind_input(self, name: str, kind: str, number: int, dtype: type, shape: tuple, address: int) -> None:
        assert (kind, number) == ("cuda", 0)
        self.bound[name] = (np.dtype(dtype), tuple(shape), address)

    bind_output = bind_input


class FakeSession:
    """A session of the CPU provider that reads and writes the stand-in's memory when its stream comes to it."""

    def __init__(self, api: FakeOnnxRuntime, graph: bytes, options: Any, providers: list) -> None:
        self._api, self._providers = api, providers
        self._real = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self._real.get_inputs, self._real.get_outputs
        if isinstance(providers[0], tuple):
            self._stream = int(providers[0][1]["user_compute_stream"])
            assert providers[0][1]["use_tf32"] == "0"
            if api.answers:
                api.device.outlive(self, "session")

    def get_providers(self) -> list[str]:
        names = [entry[0] if isinstance(entry, tuple) else entry for entry in self._providers]
        return names if self._api.answers else ["CPUExecutionProvider"]

    def io_binding(self) -> FakeBinding:
        return FakeBinding()

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if self._api.refuses:
            raise RuntimeError("CUDA failure 700\nand more")
        if next(shape[0] for _, shape, _ in binding.bound.values()) > self._api.largest_batch:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 9")
        device, real = self._api.device, self._real

        def work() -> None:
            given = {node.name: device.read(*reversed_read(binding, node.name)) for node in real.get_inputs()}
            for node, answer in zip(real.get_outputs(), real.run(None, given), strict=True):
                np.copyto(device.read(*reversed_read(binding, node.name)), answer)

        device.submit(self._stream, work)


def reversed_read(binding: FakeBinding, name: str) -> tuple[int, np.dtype, tuple[int, ...]]:
    dtype, shape, address = binding.bound[name]
    return address, dtype, shape


class FakeOnnxRuntime(SimpleNamespace):
    """The module as far as it is used. `answers`: a GPU is there. `refuses`: runs fail. Larger batches find no room."""

    def __init__(self, device: StandInDevice) -> None:
        super().__init__(
            device=device,
            answers=True,
            refuses=False,
            largest_batch=1000,
            SessionOptions=onnxruntime.SessionOptions,
            RunOptions=onnxruntime.RunOptions,
            GraphOptimizationLevel=onnxruntime.GraphOptimizationLevel,
        )

    def InferenceSession(self, graph: bytes, options: Any, providers: list) -> FakeSession:  # noqa: N802
        return FakeSession(self, graph, options, providers)


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeOnnxRuntime]:
    """A machine with a CUDA provider and no TensorRT, whose GPU is a stand-in."""

    def make(**how: Any) -> FakeOnnxRuntime:
        api = FakeOnnxRuntime(StandInDevice(**how))
        here = replace(
            capabilities(), providers=("CUDAExecutionProvider", "CPUExecutionProvider"), ask_tensorrt=lambda: ("", "")
        )
        monkeypatch.setattr(providers, "capabilities", lambda: here)
        monkeypatch.setattr("scanside.engine.cuda.shared_device", lambda: api.device)
        monkeypatch.setattr(
            "scanside.engine.onnxruntime_cuda.CudaGraph",
            lambda *given: CudaGraph(*given, onnxruntime=api),
        )
        return api

    return make


def load_both(pack: Path) -> Networks:
    opened = load_pack(pack)
    return (
        Segmenter(opened.graph_bytes("segmenter"), opened.manifest.segmenter, device="cuda", precision="fp32"),
        Classifier(opened.graph_bytes("classifier"), opened.manifest.classifier, device="cuda", precision="fp32"),
    )


@pytest.mark.parametrize("policy", ["exact", "confirm"])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_an_exam_streams_through_the_cuda_provider(
    on_cuda: Callable[..., FakeOnnxRuntime],
    networks: Networks,
    tiny_pack: Path,
    blob_volume: BlobVolume,
    seed: int | None,
    policy: str,
) -> None:
    device = on_cuda(seed=seed).device
    gpu = load_both(tiny_pack)
    found = find_lesions(blob_volume.volume(), *gpu, threads=1, policy=policy)
    expected = find_lesions(blob_volume.volume(), *networks, threads=1, policy=policy)
    assert found.lesions == expected.lesions
    assert np.array_equal(found.mask.labels, expected.mask.labels)
    assert {runtime.name for runtime in gpu[0].runtimes} == {gpu[1].runtime.name} == {CUDA}
    assert all(isinstance(runtime, CudaRuntime) and runtime.in_flight == 4 for runtime in gpu[0].runtimes)
    made = device.made
    again = find_lesions(blob_volume.volume(), *gpu, threads=1, policy=policy)
    assert again.lesions == found.lesions
    assert device.made == made  # nothing is allocated after the first exam
    for network in gpu:
        network.close()
    assert not device.alive


def test_graphs_are_said_to_be_left_out(on_cuda: Callable[..., FakeOnnxRuntime], tiny_pack: Path) -> None:
    on_cuda()
    segmenter, classifier = load_both(tiny_pack)
    assert "no CUDA graph: ONNX Runtime gives its kernels to the GPU one by one" in classifier.runtime.fallbacks
    segmenter.close()
    classifier.close()


def test_no_gpu_behind_the_provider_is_one_error(on_cuda: Callable[..., FakeOnnxRuntime], tiny_pack: Path) -> None:
    api = on_cuda()
    api.answers = False
    with pytest.raises(EngineError, match="no GPU answered the CUDA provider"):
        load_both(tiny_pack)
    assert not api.device.alive


def test_a_run_that_fails_is_one_error(
    on_cuda: Callable[..., FakeOnnxRuntime], tiny_pack: Path, blob_volume: BlobVolume
) -> None:
    api = on_cuda()
    gpu = load_both(tiny_pack)
    gpu[0].runtime(64, 96)
    api.refuses = True
    with pytest.raises(EngineError, match=r"the graph failed; found CUDA failure 700$"):
        find_lesions(blob_volume.volume(), *gpu, threads=1)
    for network in gpu:
        network.close()
    assert not api.device.alive
    assert not [t for t in threading.enumerate() if t.name.startswith("scanside")]


def test_less_memory_means_smaller_batches(
    on_cuda: Callable[..., FakeOnnxRuntime], networks: Networks, tiny_pack: Path, blob_volume: BlobVolume
) -> None:
    api = on_cuda()
    api.largest_batch = 1
    gpu = load_both(tiny_pack)
    found = find_lesions(blob_volume.volume(), *gpu, threads=1)
    assert found.lesions == find_lesions(blob_volume.volume(), *networks, threads=1).lesions
    assert "batch 1 instead of 3: the GPU has no more room" in gpu[1].runtime.fallbacks
    api.largest_batch = 0
    with pytest.raises(EngineError, match="the GPU has no room for a single batch"):
        load_both(tiny_pack)
    for network in gpu:
        network.close()
    assert not api.device.alive


def test_without_pycuda_onnx_runtime_copies_by_itself_and_says_so(
    on_cuda: Callable[..., FakeOnnxRuntime], tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> StandInDevice:
        raise EngineError("PyCUDA is not installed", found="No module named 'pycuda'")

    on_cuda()
    monkeypatch.setattr("scanside.engine.cuda.shared_device", missing)
    monkeypatch.setattr(providers, "require_cuda", lambda session, graph: None)
    pack = load_pack(tiny_pack)
    runtime = load_runtime(
        pack.graph_bytes("classifier"), device="cuda", network="classifier", spec=pack.manifest.classifier
    )
    assert isinstance(runtime, OnnxRuntime)
    assert "no streaming: No module named 'pycuda'" in runtime.fallbacks
    assert runtime.gpu is None

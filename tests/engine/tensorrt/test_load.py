"""From a pack to a running TensorRT network, and `--device cuda`, on a fake module over the stand-in for CUDA."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scanside.engine import onnxruntime as ort
from scanside.engine.capabilities import capabilities
from scanside.engine.cuda_runtime import CudaRuntime
from scanside.engine.flow import Progress
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.onnxruntime import CUDA, choose
from scanside.engine.predictor import load
from scanside.engine.tensorrt.cache import PlanCache
from scanside.engine.tensorrt.load import load_tensorrt
from scanside.engine.tensorrt.plans import ensure_plan, key_of, options_of, target_of
from scanside.engine.tensorrt.profiles import Batch, standard_windows
from scanside.errors import Cancelled, EngineError, NotBuiltError, ParityError
from scanside.pack import load_pack
from scanside.study import analyze_volume_to_folder
from tests.engine.tensorrt.conftest import FakeRuntime

if TYPE_CHECKING:
    from tests.conftest import BlobVolume
    from tests.engine.tensorrt.conftest import Fake

DIMS = {"height": 64, "width": 160}


def built(
    machine: Fake,
    cache: PlanCache,
    pack: Path,
    *,
    driver: str = "13.0",
    batch: Batch | None = None,
    workspace_mb: int | None = None,
) -> None:
    """The plans of both networks of `pack`, as `scanside build` makes them."""
    opened = load_pack(pack)
    for network in ("segmenter", "classifier"):
        target = target_of(machine.trt, (8, 6), driver)
        options = options_of(getattr(opened.manifest, network), batch, workspace_mb)
        graph = opened.graph_bytes(network)
        key = key_of(machine.trt, target, network, "fp32", graph, options)
        ensure_plan(machine.trt, cache, key, graph, options, target)


def loaded(machine: Fake, cache: PlanCache, pack: Path) -> CudaRuntime:
    opened = load_pack(pack)
    return load_tensorrt(
        opened.graph_bytes("segmenter"),
        opened.manifest.segmenter,
        precision="fp32",
        dims=DIMS,
        cache=cache,
        trt=machine.trt,
        device=machine.device,
    )


def test_a_built_plan_runs(fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path) -> None:
    machine = fake()
    built(machine, plan_cache, tiny_pack)
    runtime = loaded(machine, plan_cache, tiny_pack)
    assert runtime.fallbacks == ()
    assert runtime.batch == 4
    assert runtime.inputs[0].shape == (None, 1, 64, 160)


def test_full_tensorrt_does_not_build_for_minutes_at_load(
    fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path
) -> None:
    machine = fake()
    with pytest.raises(EngineError, match="no plan of the segmenter fits here") as caught:
        loaded(machine, plan_cache, tiny_pack)
    assert "`scanside build [PACK] --target current --precision fp32`" in str(caught.value)
    built(machine, plan_cache, tiny_pack, driver="12.9")
    with pytest.raises(EngineError, match=r"driver 13\.0 \(there: 12\.9\)"):
        loaded(machine, plan_cache, tiny_pack)


def test_rtx_builds_at_load_and_says_why(fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path) -> None:
    machine = fake(name="tensorrt_rtx")
    runtime = loaded(machine, plan_cache, tiny_pack)
    (remark,) = runtime.fallbacks
    assert remark.startswith("the plan of the segmenter was built at load in ")
    assert remark.endswith("there was none")
    assert loaded(machine, plan_cache, tiny_pack).fallbacks == ()


def test_kernels_that_rtx_compiled_are_kept_for_the_next_process(
    fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path
) -> None:
    first = fake(name="tensorrt_rtx")
    loaded(first, plan_cache, tiny_pack)
    assert first.api.kernels_given == []
    (file,) = plan_cache.folder.glob("*.kernels")
    second = fake(name="tensorrt_rtx")  # another device object: another process
    loaded(second, plan_cache, tiny_pack)
    assert second.api.kernels_given == [b"kernels of this GPU"]
    file.write_bytes(file.read_bytes()[:-3])  # truncated: passed over, and written again
    third = fake(name="tensorrt_rtx")
    loaded(third, plan_cache, tiny_pack)
    assert third.api.kernels_given == []
    assert plan_cache.blob(file.name) == b"kernels of this GPU"


def test_a_plan_built_for_other_batches_is_used(
    fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path
) -> None:
    machine = fake()
    built(machine, plan_cache, tiny_pack, batch=Batch(1, 2, 2))
    assert loaded(machine, plan_cache, tiny_pack).batch == 2


def test_a_plan_built_with_less_scratch_memory_is_used(
    fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path
) -> None:
    machine = fake()
    built(machine, plan_cache, tiny_pack, workspace_mb=64)
    assert loaded(machine, plan_cache, tiny_pack).fallbacks == ()


@contextmanager
def before_windows() -> Iterator[None]:
    """Plans are built as they were before `confirm` had profiles of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scanside.engine.tensorrt.profiles.standard_windows", lambda spec: ())
        yield


def test_a_plan_without_profiles_for_windows_is_not_taken(
    fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path
) -> None:
    machine = fake()
    with before_windows():
        built(machine, plan_cache, tiny_pack)
    with pytest.raises(EngineError, match="no plan of the segmenter fits here") as caught:
        loaded(machine, plan_cache, tiny_pack)
    needed, there = str(caught.value).split(" (there: ")
    spec = load_pack(tiny_pack).manifest.segmenter
    assert standard_windows(spec)
    for height, width in standard_windows(spec):
        assert f"x 1 x {height} x {width}" in needed
        assert f"x 1 x {height} x {width}" not in there
    assert "`scanside build [PACK] --target current --precision fp32`" in there
    built(machine, plan_cache, tiny_pack)
    assert loaded(machine, plan_cache, tiny_pack).fallbacks == ()


def test_rtx_builds_a_plan_that_lacks_windows_again(
    fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path
) -> None:
    machine = fake(name="tensorrt_rtx")
    with before_windows():
        loaded(machine, plan_cache, tiny_pack).close()
    (remark,) = loaded(machine, plan_cache, tiny_pack).fallbacks
    assert "the one there differs in options 1:" in remark


def test_a_classifier_has_room_for_the_one_batch_that_is_under_way(
    on_cuda: Callable[..., Fake], tiny_pack: Path
) -> None:
    machine = on_cuda(name="tensorrt_rtx")
    pack = load_pack(tiny_pack)
    classifier = Classifier(pack.graph_bytes("classifier"), pack.manifest.classifier, device="cuda", precision="fp32")
    assert classifier.runtime.in_flight == 1
    assert machine.device.alive["context"] == 1
    classifier.close()


def test_one_engine_serves_all_sizes(fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path) -> None:
    machine = fake()
    built(machine, plan_cache, tiny_pack)
    one, other = loaded(machine, plan_cache, tiny_pack), loaded(machine, plan_cache, tiny_pack)
    assert one._network is other._network


# --- `--device cuda` ---


@pytest.fixture
def on_cuda(fake: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Fake]:
    """Make this machine one with TensorRT and a GPU."""

    def make(*, providers: tuple[str, ...] = ("CPUExecutionProvider",), **how: object) -> Fake:
        machine = fake(**how)
        # Without AVX-512 the processor runs the CPU provider, whose arithmetic the fake engine has too.
        found = machine.trt.runtime, ""
        here = replace(capabilities(), ask_tensorrt=lambda: found, providers=providers, flags=frozenset())
        monkeypatch.setattr(ort, "capabilities", lambda: here)
        monkeypatch.setattr("scanside.engine.predictor.capabilities", lambda: here)
        monkeypatch.setattr("scanside.engine.tensorrt.load.require", lambda: machine.trt)
        monkeypatch.setattr("scanside.engine.tensorrt.load.shared_device", lambda: machine.device)
        monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path / "cache"))
        return machine

    return make


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_an_exam_on_the_gpu_gives_the_findings_of_the_processor(
    on_cuda: Callable[..., Fake], tiny_pack: Path, blob_volume: BlobVolume, seed: int | None
) -> None:
    machine = on_cuda(seed=seed, name="tensorrt_rtx")
    with load(tiny_pack, device="cuda", threads=2) as on_gpu:
        found = on_gpu.analyze(blob_volume.volume())
        assert all(result.passed for result in on_gpu.self_check())
    with load(tiny_pack, device="cpu", precision="fp32", threads=2) as on_processor:
        expected = on_processor.analyze(blob_volume.volume())
    # Sections cut on the GPU differ by at most one grey level from the processor's (test_kernels).
    for ours, theirs in zip(found.lesions, expected.lesions, strict=True):
        assert ours.box_index == theirs.box_index
        assert ours.centroid_mm == pytest.approx(theirs.centroid_mm, abs=0.01)
        assert ours.detection_score == pytest.approx(theirs.detection_score, abs=0.001)
        assert ours.frame_probabilities == pytest.approx(theirs.frame_probabilities, abs=1e-6)
        assert (ours.malignant, ours.planes_seen, ours.frames) == (theirs.malignant, theirs.planes_seen, theirs.frames)
    assert np.array_equal(found.mask.labels, expected.mask.labels)
    assert (found.device.runtime, found.device.precision) == ("tensorrt-rtx/cuda", "fp32")
    assert found.device.name == "stand-in"
    remarks = " ".join(found.device.fallbacks)
    assert "the plan of the classifier was built at load" in remarks
    assert "the plan of the segmenter was built at load" in remarks
    assert machine.device.launches > 20
    assert not machine.device.alive


def test_a_stopped_exam_leaves_the_networks_usable(
    on_cuda: Callable[..., Fake], tiny_pack: Path, blob_volume: BlobVolume
) -> None:
    on_cuda(seed=3, name="tensorrt_rtx")
    cancel = threading.Event()

    def stop(step: Progress) -> None:
        if step.stage == "segment":
            cancel.set()
            threading.Event().wait(0.3)  # the stage is still busy when the stop arrives

    with load(tiny_pack, device="cuda", threads=2) as predictor:
        with pytest.raises(Cancelled):
            predictor.analyze(blob_volume.volume(), progress=stop, cancel=cancel)
        found = predictor.analyze(blob_volume.volume())
    assert [lesion.malignant for lesion in found.lesions] == [True, False]


def test_stopping_at_fifty_moments_leaves_no_part_of_a_report(
    on_cuda: Callable[..., Fake], tiny_pack: Path, blob_volume: BlobVolume, tmp_path: Path
) -> None:
    machine = on_cuda(seed=4, name="tensorrt_rtx")
    volume, steps = blob_volume.volume(), []
    with load(tiny_pack, device="cuda", threads=2) as predictor:
        analyze_volume_to_folder(predictor, volume, tmp_path / "whole", progress=steps.append)
        alive, names = machine.device.alive.copy(), {file.name for file in (tmp_path / "whole").iterdir()}
        rng, stopped = random.Random(5), 0
        for attempt in range(50):
            cancel, left, out = threading.Event(), iter(range(rng.randrange(len(steps)))), tmp_path / str(attempt)

            def stop(_: Progress, cancel: threading.Event = cancel, left: Iterator[int] = left) -> None:
                if next(left, None) is None:
                    cancel.set()

            try:
                analyze_volume_to_folder(predictor, volume, out, progress=stop, cancel=cancel)
            except Cancelled:
                stopped += 1
                assert not out.exists()
            else:
                assert {file.name for file in out.iterdir()} == names
            assert machine.device.alive == alive
        assert stopped > 25
        assert not list(tmp_path.glob(".*"))
    assert not machine.device.alive


@pytest.mark.parametrize("policy", ["exact", "confirm"])
def test_a_live_sweep_goes_up_as_it_comes(
    on_cuda: Callable[..., Fake], tiny_pack: Path, blob_volume: BlobVolume, policy: str
) -> None:
    machine = on_cuda(seed=6, name="tensorrt_rtx")
    volume = blob_volume.volume()
    frames = list(range(len(blob_volume.voxels)))
    with load(tiny_pack, device="cuda", policy=policy, threads=2) as predictor:
        expected = predictor.analyze(volume)
        before = machine.device.calls["copy_in"]
        with predictor.start(volume.geometry) as session:
            for k in frames[:-1]:
                session.push(blob_volume.voxels[k], k)
            for _ in range(1000):  # what has come goes up while the last frame is missing
                if machine.device.calls["copy_in"] - before >= len(frames) - 1:
                    break
                threading.Event().wait(0.01)
            else:
                pytest.fail("frames wait for the last one")
            session.push(blob_volume.voxels[-1])
            assert session.finish().lesions == expected.lesions


def test_a_fault_on_the_gpu_ends_the_exam_with_one_error(
    on_cuda: Callable[..., Fake], tiny_pack: Path, blob_volume: BlobVolume
) -> None:
    machine = on_cuda(name="tensorrt_rtx")
    with load(tiny_pack, device="cuda", threads=2) as predictor:
        machine.api.fault = True
        with pytest.raises(EngineError, match=r"work on the GPU failed.*an illegal instruction"):
            predictor.analyze(blob_volume.volume())


def test_golden_cases_catch_a_gpu_that_answers_wrong(
    on_cuda: Callable[..., Fake], tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = on_cuda(name="tensorrt_rtx")
    deserialize = FakeRuntime.deserialize_cuda_engine

    def wrong(self: FakeRuntime, plan: bytes) -> object:
        engine = deserialize(self, plan)
        answer = engine.session.run
        engine.session = type("Wrong", (), {"run": lambda self, names, given: [a // 2 for a in answer(names, given)]})()
        return engine

    monkeypatch.setattr(FakeRuntime, "deserialize_cuda_engine", wrong)
    with pytest.raises(EngineError, match="a golden case came out wrong"):
        load(tiny_pack, device="cuda")
    assert not machine.device.alive


@pytest.mark.parametrize("network", ["segmenter", "classifier"])
def test_a_network_that_does_not_load_leaves_nothing_of_the_other(
    on_cuda: Callable[..., Fake], tiny_pack: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    machine = on_cuda(name="tensorrt_rtx")
    deserialize = FakeRuntime.deserialize_cuda_engine

    def refusing(self: FakeRuntime, plan: bytes) -> object:
        engine = deserialize(self, plan)
        return engine if (len(engine.inputs) == 1) == (network == "classifier") else None

    monkeypatch.setattr(FakeRuntime, "deserialize_cuda_engine", refusing)
    with pytest.raises(EngineError, match="TensorRT refuses the plan"):
        load(tiny_pack, device="cuda")
    assert machine.device.freed
    assert not machine.device.alive


def test_a_graph_that_breaks_the_contract_leaves_nothing(on_cuda: Callable[..., Fake], tiny_pack: Path) -> None:
    machine = on_cuda(name="tensorrt_rtx")
    pack = load_pack(tiny_pack)
    spec = replace(pack.manifest.segmenter, output="another")
    with pytest.raises(EngineError, match="the graph's outputs are not what the manifest says"):
        Segmenter(pack.graph_bytes("segmenter"), spec, device="cuda", precision="fp32").runtime(64, 160)
    assert not machine.device.alive


def test_kernels_that_cannot_be_asked_for_leave_nothing(
    fake: Callable[..., Fake], plan_cache: PlanCache, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*given: object) -> None:
        raise ZeroDivisionError

    machine = fake(name="tensorrt_rtx")
    monkeypatch.setattr(PlanCache, "store_blob", damaged)
    with pytest.raises(ZeroDivisionError):
        loaded(machine, plan_cache, tiny_pack)
    assert not machine.device.alive


def test_without_a_plan_cuda_is_an_error_with_the_command(on_cuda: Callable[..., Fake], tiny_pack: Path) -> None:
    on_cuda()
    with pytest.raises(EngineError, match=r"no plan of the segmenter fits here.*scanside build"):
        load(tiny_pack, device="cuda")


def test_auto_stays_on_the_processor(on_cuda: Callable[..., Fake], tiny_pack: Path) -> None:
    on_cuda(name="tensorrt_rtx")
    with load(tiny_pack, device="auto", precision="fp32") as predictor:
        assert predictor.device.runtime.startswith("onnxruntime/")


def test_other_precisions_need_a_certificate_and_a_graph(on_cuda: Callable[..., Fake], tiny_pack: Path) -> None:
    on_cuda(name="tensorrt_rtx")
    with pytest.raises(ParityError, match="precision fp16 has no parity certificate"):
        load(tiny_pack, device="cuda", precision="fp16")
    with pytest.raises(NotBuiltError):
        load(tiny_pack, device="cuda", precision="bf16")


def test_the_rule_of_device_cuda() -> None:
    machine = replace(capabilities(), ask_tensorrt=lambda: ("", "PyCUDA is not installed"), providers=())
    with pytest.raises(EngineError, match=r"no usable CUDA provider.*PyCUDA is not installed"):
        choose(machine, "cuda")
    with_ort = replace(machine, providers=("CUDAExecutionProvider",))
    choice = choose(with_ort, "cuda")
    assert choice.runtime == CUDA
    assert choice.fallbacks == (f"{CUDA} instead of TensorRT: PyCUDA is not installed",)
    with_trt = replace(with_ort, ask_tensorrt=lambda: ("tensorrt/cuda", ""))
    assert choose(with_trt, "cuda").runtime == "tensorrt/cuda"
    assert choose(with_trt, "cuda", "fp16").precision == "fp16"
    assert choose(with_trt, "auto").runtime == CUDA
    with pytest.raises(NotBuiltError):
        choose(with_trt, "cuda", "bf16")

"""The whole pipeline on the stand-in: the volume goes up once, sections are cut there, and nothing is left behind."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scanside.engine.cuda import OutOfDeviceMemory
from scanside.engine.device_volume import DeviceVolume
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.pipeline import Findings, find_lesions
from scanside.engine.sessions import MOST_SIZES
from scanside.errors import Cancelled, EngineError
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.volume import Volume
from tests.engine.cuda_stand_in import StandInDevice

if TYPE_CHECKING:
    from tests.conftest import BlobVolume
    from tests.engine.conftest import Framed
    from tests.engine.tensorrt.conftest import Fake

Networks = tuple[Segmenter, Classifier]
OnGpu = Callable[["Fake"], Networks]
MakeFake = Callable[..., "Fake"]


def close(networks: Networks) -> None:
    for network in networks:
        network.close()


def assert_nothing_left(device: StandInDevice) -> None:
    assert not device.alive
    assert not [t for t in threading.enumerate() if t.name.startswith("scanside")]


def assert_alike(found: Findings, expected: Findings) -> None:
    """The same lesions; a pixel that was cut one grey level apart may move a probability a little."""
    assert [lesion.malignant for lesion in found.lesions] == [lesion.malignant for lesion in expected.lesions]
    for one, other in zip(found.lesions, expected.lesions, strict=True):
        assert one.box_index == other.box_index
        assert one.probability == pytest.approx(other.probability, abs=1e-3)


@pytest.mark.parametrize("policy", ["exact", "confirm"])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_the_findings_are_the_processors(
    fake: MakeFake,
    on_gpu: OnGpu,
    networks: Networks,
    blob_volume: BlobVolume,
    framed: Framed,
    seed: int | None,
    policy: str,
) -> None:
    expected = find_lesions(blob_volume.volume(), *networks, threads=1, policy=policy)
    machine = fake(seed)
    gpu = on_gpu(machine)
    found = find_lesions(framed(blob_volume.volume()), *gpu, threads=2, policy=policy)
    assert_alike(found, expected)
    assert found.sections == expected.sections
    assert found.fallbacks == ()
    again = find_lesions(framed(blob_volume.volume()), *gpu, threads=2, policy=policy)
    assert again.lesions == found.lesions
    assert np.array_equal(again.mask.labels, found.mask.labels)
    close(gpu)
    assert_nothing_left(machine.device)


def test_every_frame_goes_up_once_and_no_section_does(fake: MakeFake, on_gpu: OnGpu, blob_volume: BlobVolume) -> None:
    machine = fake(3)
    gpu = on_gpu(machine)
    find_lesions(blob_volume.volume(), *gpu, threads=1)
    before = machine.device.calls.copy()
    found = find_lesions(blob_volume.volume(), *gpu, threads=1)
    triplets = sum(event["name"] == "classify" and event["ph"] == "X" for event in found.trace)
    copies = machine.device.calls["copy_in"] - before["copy_in"]
    assert copies == len(blob_volume.voxels) + 3 * triplets
    close(gpu)


@pytest.mark.parametrize("policy", ["exact", "confirm"])
def test_nothing_is_allocated_after_the_first_exam(
    fake: MakeFake, on_gpu: OnGpu, blob_volume: BlobVolume, policy: str
) -> None:
    machine = fake(4)
    gpu = on_gpu(machine)
    find_lesions(blob_volume.volume(), *gpu, threads=1, policy=policy)
    made, used = machine.device.made, machine.device.used
    for _ in range(3):
        find_lesions(blob_volume.volume(), *gpu, threads=1, policy=policy)
    assert (machine.device.made, machine.device.used) == (made, used)
    close(gpu)
    assert_nothing_left(machine.device)


def test_both_slots_of_every_context_are_used(fake: MakeFake, on_gpu: OnGpu) -> None:
    gpu = on_gpu(fake(0))
    runtime = gpu[0].runtime(32, 64)
    workers = runtime._workers  # type: ignore[attr-defined]
    pixels = [np.full((1, 1, 32, 64), n, np.uint8) for n in range(runtime.in_flight)]
    answers = [np.full_like(p, 255) for p in pixels]
    under_way = [runtime.submit({"pixels": p}, {"probability": a}) for p, a in zip(pixels, answers, strict=True)]
    slots = [slot for worker in workers for slot in worker._slots]
    assert len(slots) == runtime.in_flight == 2 * len(workers) == 4
    assert all(slot.job is not None for slot in slots)
    for pending in under_way:
        pending.wait()
    alone = np.empty_like(answers[0])
    for given, answer in zip(pixels, answers, strict=True):
        runtime.run({"pixels": given}, {"probability": alone})
        assert np.array_equal(answer, alone)
    close(gpu)


def test_exams_of_many_sizes_hold_the_memory_of_a_few(fake: MakeFake, on_gpu: OnGpu, blob_volume: BlobVolume) -> None:
    machine = fake(7)
    gpu = on_gpu(machine)
    contexts, most = [], 2 * MOST_SIZES
    for depth in range(40, 240, 32):
        voxels = np.zeros((4, depth, 40), np.uint8)
        voxels[:, 5:9, 5:9] = 200
        find_lesions(Volume.from_array(voxels, (1.0, 1.0, 1.0)), *gpu, threads=1)
        contexts.append(machine.device.alive["context"])
    assert max(contexts) == contexts[-1] == most + 1  # and the classifier's
    assert machine.device.freed.count("context") > 0
    assert "engine" not in machine.device.freed  # shared by the sizes that stay
    close(gpu)
    assert_nothing_left(machine.device)


def test_black_frames_are_not_cut_there(
    fake: MakeFake, on_gpu: OnGpu, networks: Networks, blob_volume: BlobVolume
) -> None:
    voxels = blob_volume.voxels.copy()
    voxels[:4], voxels[:, :2], voxels[..., -3:] = 0, 0, 0
    volume = Volume.from_array(voxels, blob_volume.volume().geometry.spacing_mm)
    gpu = on_gpu(fake(1))
    found, expected = find_lesions(volume, *gpu, threads=1), find_lesions(volume, *networks, threads=1)
    assert_alike(found, expected)
    assert found.blank_sections == expected.blank_sections
    assert all(found.blank_sections.values())
    close(gpu)


def test_a_gpu_without_room_for_the_volume_is_told_and_runs(
    fake: MakeFake, on_gpu: OnGpu, networks: Networks, blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = fake(2)
    gpu = on_gpu(machine)
    allocate, size = StandInDevice.allocate, blob_volume.voxels.size

    def small(self: StandInDevice, nbytes: int):  # type: ignore[no-untyped-def]
        if nbytes == size:
            raise OutOfDeviceMemory("device memory cannot be had", found="9 bytes free")
        return allocate(self, nbytes)

    monkeypatch.setattr(StandInDevice, "allocate", small)
    found = find_lesions(blob_volume.volume(), *gpu, threads=1)
    expected = find_lesions(blob_volume.volume(), *networks, threads=1)
    assert found.lesions == expected.lesions
    assert found.fallbacks == ("sections are cut on the processor: device memory cannot be had: 9 bytes free",)
    close(gpu)
    assert_nothing_left(machine.device)


def test_another_geometry_takes_the_place_of_the_last(
    fake: MakeFake, on_gpu: OnGpu, networks: Networks, blob_volume: BlobVolume
) -> None:
    machine = fake(5)
    gpu = on_gpu(machine)
    find_lesions(blob_volume.volume(), *gpu, threads=1)
    other = Volume.from_array(np.ascontiguousarray(blob_volume.voxels[:, ::2]), (1.0, 1.0, 1.0))
    found = find_lesions(other, *gpu, threads=1)
    assert_alike(found, find_lesions(other, *networks, threads=1))
    assert sum(buffer.nbytes == blob_volume.voxels.size for buffer in machine.device.buffers.values()) == 0
    close(gpu)
    assert_nothing_left(machine.device)


@pytest.mark.parametrize("policy", ["exact", "confirm"])
def test_stopping_at_any_moment_leaves_nothing(
    fake: MakeFake, on_gpu: OnGpu, blob_volume: BlobVolume, framed: Framed, policy: str
) -> None:
    machine = fake(6)
    gpu = on_gpu(machine)
    steps = 0

    def count(progress: object) -> None:
        nonlocal steps
        steps += 1

    find_lesions(framed(blob_volume.volume()), *gpu, threads=2, policy=policy, progress=count)
    made, used, all_steps = machine.device.made, machine.device.used, steps
    rng = random.Random(1)
    stopped = 0
    for _ in range(25):
        cancel, left = threading.Event(), iter(range(rng.randrange(all_steps)))

        def stop(progress: object, cancel: threading.Event = cancel, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                cancel.set()

        try:
            find_lesions(framed(blob_volume.volume()), *gpu, threads=2, policy=policy, progress=stop, cancel=cancel)
        except Cancelled:
            stopped += 1
        assert (machine.device.made, machine.device.used) == (made, used)
    assert stopped > 5
    find_lesions(blob_volume.volume(), *gpu, threads=1, policy=policy)
    close(gpu)
    assert_nothing_left(machine.device)


def attempt(machine: Fake, on_gpu: OnGpu, volume: Volume) -> Findings | EngineError:
    """Load, analyse, close; what was found, or the one error."""
    networks: Networks | tuple[()] = ()
    try:
        networks = on_gpu(machine)
        return find_lesions(volume, *networks, threads=1)
    except EngineError as error:
        return error
    finally:
        for network in networks:
            network.close()


@pytest.mark.parametrize("fault", [EngineError, OutOfDeviceMemory])
def test_a_fault_at_any_call_is_one_error_or_a_declared_fallback(
    fake: MakeFake, on_gpu: OnGpu, blob_volume: BlobVolume, networks: Networks, fault: type[EngineError]
) -> None:
    expected = find_lesions(blob_volume.volume(), *networks, threads=1)
    whole = fake(0)
    assert isinstance(attempt(whole, on_gpu, blob_volume.volume()), Findings)
    calls = whole.device.calls.total()
    failed = 0
    for number in sorted(random.Random(fault.__name__).sample(range(calls), 40)):
        machine = fake(0, fail_at=number, fault=fault)
        found = attempt(machine, on_gpu, blob_volume.volume())
        if isinstance(found, EngineError):
            failed += 1
        else:
            assert_alike(found, expected)
        assert_nothing_left(machine.device)
    assert failed > 10


@pytest.mark.parametrize("fault", [EngineError, OutOfDeviceMemory])
def test_room_for_a_volume_is_given_back_at_any_fault(blob_volume: BlobVolume, fault: type[EngineError]) -> None:
    geometry = blob_volume.volume().geometry
    grids = {plane: SectionGrid.over(geometry, plane, 1.0, 1.0) for plane in Plane}

    def use(device: StandInDevice) -> None:
        volume = DeviceVolume(device, grids)
        try:
            volume.begin(blob_volume.voxels)
            volume.upload(0, 3)
        finally:
            volume.close()

    whole = StandInDevice(1)
    use(whole)
    for number in range(whole.calls.total()):
        device = StandInDevice(1, fail_at=number, fault=fault)
        with pytest.raises(fault, match=f"call {number} failed"):
            use(device)
        assert_nothing_left(device)

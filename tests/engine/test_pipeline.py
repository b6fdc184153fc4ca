"""The whole pipeline on tiny volumes: what it finds, and that nothing but the exam decides it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scanside.engine.flow import STAGES, Progress
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.pipeline import Findings, find_lesions
from scanside.errors import Cancelled, EngineError
from scanside.exam.planes import Plane
from scanside.exam.volume import Volume
from scanside.pack import load_pack

if TYPE_CHECKING:
    from tests.conftest import BlobVolume
    from tests.engine.conftest import Framed


def scanside_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("scanside")]


@pytest.fixture(scope="module")
def reference(blob_volume: BlobVolume, networks: tuple[Segmenter, Classifier]) -> Findings:
    return find_lesions(blob_volume.volume(), *networks, threads=1)


def assert_same(a: Findings, b: Findings) -> None:
    assert a.lesions == b.lesions
    assert np.array_equal(a.mask.labels, b.mask.labels)


def test_both_blobs_are_found_in_place(reference: Findings, blob_volume: BlobVolume) -> None:
    assert [lesion.malignant for lesion in reference.lesions] == [True, False]  # the brighter one is surer
    truth = sorted(
        zip(blob_volume.malignant, blob_volume.boxes_mm, blob_volume.centroids_mm, strict=True), key=lambda t: -t[0]
    )
    for lesion, (malignant, box, centroid) in zip(reference.lesions, truth, strict=True):
        assert lesion.malignant is malignant
        assert np.abs(np.subtract(lesion.box_mm.min, box.min)).max() <= 1
        assert np.abs(np.subtract(lesion.box_mm.max, box.max)).max() <= 1
        assert np.abs(np.subtract(lesion.centroid_mm, centroid)).max() <= 0.5
        assert set(lesion.planes_seen) == {"transverse", "sagittal", "coronal"}
        assert lesion.probability == pytest.approx(np.mean(lesion.frame_probabilities))
        assert len(lesion.frame_probabilities) == len(lesion.frames["coronal"]) == 4
        assert lesion.diameters_mm == lesion.box_mm.size
        assert lesion.box_index == blob_volume.volume().geometry.box_index_from_mm(lesion.box_mm)
    assert set(np.unique(reference.mask.labels)) == {0, 1, 2}
    assert reference.mask.pitch_mm == 1.0


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.7), (2.0, 0.4, 0.9), (0.5, 1.0, 0.3)])
def test_a_box_is_found_at_its_mm_in_any_spacing(
    spacing: tuple[float, float, float], networks: tuple[Segmenter, Classifier]
) -> None:
    extent, low, high = (22.0, 18.0, 26.0), np.array([6.0, 4.0, 12.0]), np.array([16.0, 12.0, 21.0])
    shape = tuple(round(e / s) for e, s in zip(extent, spacing, strict=True))
    centres = np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    inside = np.logical_and.reduce([(c >= a) & (c < b) for c, a, b in zip(centres, low, high, strict=True)])
    volume = Volume.from_array(np.where(inside, 235, 50).astype(np.uint8), spacing)
    (lesion,) = find_lesions(volume, *networks, threads=1).lesions
    assert np.abs(np.subtract(lesion.box_mm.min, low)).max() <= max(1.0, *spacing)
    assert np.abs(np.subtract(lesion.box_mm.max, high)).max() <= max(1.0, *spacing)
    assert np.abs(np.subtract(lesion.centroid_mm, (low + high) / 2)).max() <= 0.8
    assert lesion.malignant


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (7, 3), (500, 2)])
def test_batches_threads_and_arrival_change_nothing(
    blob_volume: BlobVolume, reference: Findings, tiny_pack: Path, batch: int, threads: int, framed: Framed
) -> None:
    pack = load_pack(tiny_pack)
    how = {"device": "cpu", "precision": "fp32", "threads": threads}
    segmenter = Segmenter(
        pack.graph_bytes("segmenter"), replace(pack.manifest.segmenter, batch=batch, size_multiple=64), **how
    )
    classifier = Classifier(pack.graph_bytes("classifier"), replace(pack.manifest.classifier, batch=batch), **how)
    found = find_lesions(framed(blob_volume.volume()), segmenter, classifier, threads=threads)
    assert_same(found, reference)
    assert np.array_equal(found.voxels, blob_volume.voxels)


def test_fewer_planes_are_possible(
    blob_volume: BlobVolume, networks: tuple[Segmenter, Classifier], tiny_pack: Path
) -> None:
    pack = load_pack(tiny_pack)
    spec = replace(pack.manifest.segmenter, planes=("transverse",))
    segmenter = Segmenter(pack.graph_bytes("segmenter"), spec, device="cpu", precision="fp32", threads=1)
    found = find_lesions(blob_volume.volume(), segmenter, networks[1], threads=1)
    assert [lesion.planes_seen for lesion in found.lesions] == [("transverse",)] * 2


def test_time_trace_and_progress(
    blob_volume: BlobVolume, networks: tuple[Segmenter, Classifier], framed: Framed
) -> None:
    steps: list[Progress] = []
    found = find_lesions(framed(blob_volume.volume()), *networks, threads=2, progress=steps.append)
    last = {step.stage: step for step in steps}
    assert set(last) == {"decode", "segment", "link", "classify"}
    assert all(step.done == step.total for step in last.values())
    assert last["decode"].total == 24
    assert last["classify"].total == 8
    assert set(found.busy_ms) == set(STAGES)
    assert min(found.busy_ms.values()) > 0
    assert found.total_ms > found.busy_ms["segment"]
    sections = sum(e["args"]["count"] for e in found.trace if e["ph"] == "X" and e["name"] == "segment")
    assert sections == last["segment"].total


@pytest.mark.parametrize("policy", ["exact", "confirm"])
@pytest.mark.parametrize("seed", range(3))
def test_black_sections_change_nothing(
    blob_volume: BlobVolume,
    networks: tuple[Segmenter, Classifier],
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    voxels = blob_volume.voxels.copy()
    voxels[rng.random(len(voxels)) < 0.3] = 0  # frames that never came
    voxels[:, : rng.integers(3)] = 0
    voxels[..., -rng.integers(1, 9) :] = 0
    volume = Volume.from_array(voxels, blob_volume.volume().geometry.spacing_mm)
    found = find_lesions(volume, *networks, threads=1, policy=policy)
    assert found.blank_sections[Plane.TRANSVERSE] > 0
    asked = sum(e["args"]["seen"] for e in found.trace if e["ph"] == "X" and e["name"] == "segment")
    assert asked == sum(found.sections.values()) - sum(found.blank_sections.values())
    monkeypatch.setattr("cv2.hasNonZero", lambda pixels: True)
    every = find_lesions(volume, *networks, threads=1, policy=policy)
    assert_same(found, every)
    assert found.sections == every.sections
    assert not any(every.blank_sections.values())


@pytest.mark.parametrize("value", [0, 90])
def test_a_picture_of_nothing_is_said(networks: tuple[Segmenter, Classifier], value: int) -> None:
    volume = Volume.from_array(np.full((6, 20, 30), value, np.uint8), (1.0, 1.0, 1.0))
    found = find_lesions(volume, *networks, threads=1)
    assert found.lesions == ()
    assert not found.mask.labels.any()
    assert f"value {value}" in found.warnings[0]


def test_a_volume_of_one_voxel(networks: tuple[Segmenter, Classifier]) -> None:
    volume = Volume.from_array(np.full((1, 1, 1), 50, np.uint8), (1.0, 1.0, 1.0))
    assert find_lesions(volume, *networks, threads=1).lesions == ()


@pytest.mark.parametrize("stage", ["decode", "segment", "link", "classify"])
def test_cancelling_at_any_stage_leaves_no_thread(
    blob_volume: BlobVolume, networks: tuple[Segmenter, Classifier], stage: str, framed: Framed
) -> None:
    cancel = threading.Event()

    def progress(step: Progress) -> None:
        if step.stage == stage:
            cancel.set()
            threading.Event().wait(0.15)  # the stage is still busy when the stop arrives

    with pytest.raises(Cancelled):
        find_lesions(framed(blob_volume.volume()), *networks, threads=2, progress=progress, cancel=cancel)
    assert scanside_threads() == []


class Broken:
    """Stands in for one method of a network or module and fails at its second call."""

    def __init__(self, real, error: Exception) -> None:
        self.real, self.error, self.calls = real, error, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls > 1:
            raise self.error
        return self.real(*args, **kwargs)


@pytest.mark.parametrize(
    "where",
    [
        "scanside.exam.planes.SectionGrid.section_of",
        "scanside.engine.networks.Segmenter.submit",
        "scanside.engine.support.Support.add",
        "scanside.engine.support.Support.plane",
        "scanside.engine.triplets.crop",
        "scanside.engine.networks.Classifier.run",
    ],
)
def test_an_error_in_any_stage_surfaces_once_and_ends_all_threads(
    blob_volume: BlobVolume,
    networks: tuple[Segmenter, Classifier],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    framed: Framed,
) -> None:
    from pkgutil import resolve_name

    owner, name = where.rsplit(".", 1)
    broken = Broken(getattr(resolve_name(owner), name), ArithmeticError(where))
    monkeypatch.setattr(where, lambda *args, **kwargs: broken(*args, **kwargs))
    with pytest.raises(ArithmeticError, match=name):
        find_lesions(framed(blob_volume.volume()), *networks, threads=2)
    assert scanside_threads() == []


def test_a_frame_that_fails_surfaces(
    blob_volume: BlobVolume, networks: tuple[Segmenter, Classifier], framed: Framed
) -> None:
    with pytest.raises(ZeroDivisionError, match="frame 13"):
        find_lesions(framed(blob_volume.volume(), fail_at=13), *networks, threads=2)
    assert scanside_threads() == []


def test_nan_from_a_network_names_the_graph(
    blob_volume: BlobVolume, networks: tuple[Segmenter, Classifier], nan_classifier: Classifier
) -> None:
    with pytest.raises(EngineError, match=r"classifier\.onnx: probability: .* found nan") as failed:
        find_lesions(blob_volume.volume(), networks[0], nan_classifier, threads=1)
    assert failed.value.exit_code == 4
    assert scanside_threads() == []

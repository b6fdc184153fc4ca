"""Policy `confirm`: where it looks at everything it is `exact`; where it looks less, what it may lose is stated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scanside.engine.confirm import Look
from scanside.engine.flow import Flow
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.pipeline import Findings, find_lesions
from scanside.engine.regions import Region
from scanside.engine.runtime import DONE, Pending
from scanside.engine.sections import Arrivals, HostVolume, Reformatter, Source
from scanside.engine.slots import SlotState
from scanside.engine.support import section_geometry
from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.volume import Volume
from scanside.pack import load_pack

if TYPE_CHECKING:
    from tests.conftest import BlobVolume
    from tests.engine.conftest import Framed

Networks = tuple[Segmenter, Classifier]


def lesions(found: Findings) -> list:
    return [(v.box_mm, v.detection_score, v.frame_probabilities) for v in found.lesions]


class Answers:
    """Stands in for the segmenter: what each plane answers of grey values, told by the shape of its sections."""

    def __init__(self, real: Segmenter, geometry: Geometry, rules: dict[Plane, Callable], **changes: object) -> None:
        self.spec = replace(real.spec, size_multiple=1, **changes)  # type: ignore[arg-type]
        self.planes = real.planes
        grids = {p: SectionGrid.over(geometry, p, self.spec.pitch_mm, self.spec.every_mm) for p in Plane}
        self._rules = {grids[plane].shape: rule for plane, rule in rules.items()}
        assert len(self._rules) == 3

    def run(self, pixels: np.ndarray, probability: np.ndarray) -> None:
        probability[...] = self._rules[pixels.shape[2:]](pixels)  # type: ignore[index]

    def submit(self, pixels: np.ndarray, probability: np.ndarray) -> Pending:
        self.run(pixels, probability)
        return DONE

    def in_flight(self, height: int, width: int) -> int:
        return 1

    def source(self, grids: object, voxels: np.ndarray) -> AbstractContextManager[Source]:
        return nullcontext(HostVolume(voxels))

    def blank(self, height: int, width: int) -> np.ndarray:
        answer = np.empty((1, 1, height, width), np.uint8)
        self.run(np.zeros_like(answer), answer)
        return answer[0, 0]


def above(grey: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: np.where(pixels >= grey, 255, 0)


def box_in(shape: tuple[int, int, int], *boxes: tuple[tuple, tuple, int]) -> Volume:
    voxels = np.full(shape, 40, np.uint8)
    for low, high, grey in boxes:
        voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = grey
    return Volume.from_array(voxels, (1.0, 1.0, 1.0))


def test_it_finds_what_exact_finds_with_fewer_sections(blob_volume: BlobVolume, networks: Networks) -> None:
    exact = find_lesions(blob_volume.volume(), *networks, threads=1)
    found = find_lesions(blob_volume.volume(), *networks, threads=1, policy="confirm")
    assert found.sections[Plane.TRANSVERSE] == exact.sections[Plane.TRANSVERSE]
    assert found.sections[Plane.SAGITTAL] < exact.sections[Plane.SAGITTAL] / 2
    assert found.sections[Plane.CORONAL] < exact.sections[Plane.CORONAL] / 1.5
    for mine, theirs in zip(found.lesions, exact.lesions, strict=True):
        assert mine.malignant == theirs.malignant
        assert mine.planes_seen == theirs.planes_seen
        assert np.abs(np.subtract(mine.box_mm.min, theirs.box_mm.min)).max() <= 1.0
        assert np.abs(np.subtract(mine.box_mm.max, theirs.box_mm.max)).max() <= 1.0
        assert mine.detection_score == pytest.approx(theirs.detection_score, abs=0.03)


@pytest.mark.parametrize("smoothing_mm", [0.0, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_looking_at_every_slice_through_whole_sections_it_is_exact(
    networks: Networks, monkeypatch: pytest.MonkeyPatch, seed: int, smoothing_mm: float
) -> None:
    monkeypatch.setattr("scanside.engine.confirm.EVERY_SLICES", 1)
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(5):
        low = rng.integers(0, (60, 40, 48))
        boxes.append((tuple(low), tuple(low + rng.integers(5, 12, 3)), int(rng.integers(150, 250))))
    volume = box_in((70, 52, 60), *boxes)
    segmenter = Answers(
        networks[0],
        volume.geometry,
        dict.fromkeys(Plane, lambda pixels: np.clip((pixels.astype(int) - 120) * 4, 0, 255)),
        smoothing_mm=smoothing_mm,
    )
    exact = find_lesions(volume, segmenter, networks[1], threads=1)  # type: ignore[arg-type]
    found = find_lesions(volume, segmenter, networks[1], threads=1, policy="confirm")  # type: ignore[arg-type]
    assert lesions(exact)
    assert lesions(found) == lesions(exact)
    assert np.array_equal(found.mask.labels, exact.mask.labels)


def test_a_lesion_beyond_its_candidate_is_extended(networks: Networks) -> None:
    core, shell = ((30, 22, 26), (38, 30, 34), 230), ((24, 8, 8), (44, 44, 52), 150)
    volume = box_in((70, 52, 60), shell, core)
    rules = {Plane.TRANSVERSE: above(200), Plane.SAGITTAL: above(100), Plane.CORONAL: above(100)}
    segmenter = Answers(networks[0], volume.geometry, rules)
    exact = find_lesions(volume, segmenter, networks[1], threads=1)  # type: ignore[arg-type]
    found = find_lesions(volume, segmenter, networks[1], threads=1, policy="confirm")  # type: ignore[arg-type]
    assert exact.lesions[0].box_mm.size == (20.0, 36.0, 44.0)
    (lesion,) = found.lesions  # looking at every second slice may move a side by one cell
    assert np.abs(np.subtract(lesion.box_mm.min, exact.lesions[0].box_mm.min)).max() <= 1
    assert np.abs(np.subtract(lesion.box_mm.max, exact.lesions[0].box_mm.max)).max() <= 1
    assert lesion.detection_score == pytest.approx(exact.lesions[0].detection_score, abs=0.02)


def test_a_candidate_that_the_other_planes_deny_is_refuted(networks: Networks) -> None:
    volume = box_in((70, 52, 60), ((30, 22, 26), (38, 30, 34), 230))
    rules = {Plane.TRANSVERSE: above(200), Plane.SAGITTAL: above(255), Plane.CORONAL: above(255)}
    segmenter = Answers(networks[0], volume.geometry, rules)
    found = find_lesions(volume, segmenter, networks[1], threads=1, policy="confirm")  # type: ignore[arg-type]
    assert found.lesions == ()
    assert found.sections[Plane.SAGITTAL] > 0


def test_a_lesion_that_no_transverse_section_shows_is_missed_and_costs_nothing(networks: Networks) -> None:
    volume = box_in((70, 52, 60), ((30, 22, 26), (38, 30, 34), 230))
    rules = {Plane.TRANSVERSE: above(255), Plane.SAGITTAL: above(200), Plane.CORONAL: above(200)}
    segmenter = Answers(networks[0], volume.geometry, rules)
    assert find_lesions(volume, segmenter, networks[1], threads=1).lesions  # type: ignore[arg-type]
    found = find_lesions(volume, segmenter, networks[1], threads=1, policy="confirm")  # type: ignore[arg-type]
    assert found.lesions == ()
    assert set(found.sections) == {Plane.TRANSVERSE}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("policy", ["exact", "confirm"])
def test_batches_threads_and_arrival_change_nothing(
    blob_volume: BlobVolume,
    networks: Networks,
    tiny_pack: Path,
    framed: Framed,
    policy: str,
    batch: int,
    threads: int,
) -> None:
    reference = find_lesions(blob_volume.volume(), *networks, threads=1, policy=policy)
    pack = load_pack(tiny_pack)
    how = {"device": "cpu", "precision": "fp32", "threads": threads}
    segmenter = Segmenter(pack.graph_bytes("segmenter"), replace(pack.manifest.segmenter, batch=batch), **how)
    classifier = Classifier(pack.graph_bytes("classifier"), replace(pack.manifest.classifier, batch=batch), **how)
    found = find_lesions(framed(blob_volume.volume()), segmenter, classifier, threads=threads, policy=policy)
    assert lesions(found) == lesions(reference)
    assert np.array_equal(found.mask.labels, reference.mask.labels)
    assert found.sections == reference.sections


def test_with_the_transverse_plane_alone_it_is_exact(
    blob_volume: BlobVolume, networks: Networks, tiny_pack: Path
) -> None:
    pack = load_pack(tiny_pack)
    spec = replace(pack.manifest.segmenter, planes=("transverse",))
    segmenter = Segmenter(pack.graph_bytes("segmenter"), spec, device="cpu", precision="fp32", threads=1)
    exact, found = (
        find_lesions(blob_volume.volume(), segmenter, networks[1], threads=1, policy=policy)
        for policy in ("exact", "confirm")
    )
    assert lesions(found) == lesions(exact)


@pytest.mark.parametrize("value", [0, 90, 255])
def test_a_picture_of_nothing(networks: Networks, value: int) -> None:
    volume = Volume.from_array(np.full((6, 20, 30), value, np.uint8), (1.0, 1.0, 1.0))
    found = find_lesions(volume, *networks, threads=1, policy="confirm")
    exact = find_lesions(volume, *networks, threads=1)
    assert [v.box_mm for v in found.lesions] == [v.box_mm for v in exact.lesions]


@pytest.mark.parametrize(
    ("low", "high"), [((90, 20, 60), (104, 34, 76)), ((0, 0, 0), (9, 9, 9)), ((5, 2, 3), (150, 30, 40))]
)
def test_a_window_is_a_part_of_its_section_and_needs_no_other_frames(low: tuple, high: tuple) -> None:
    geometry = Geometry((240, 90, 150), (0.8, 0.5, 1.1))
    grids = {plane: SectionGrid.over(geometry, plane, 0.7, 0.5) for plane in Plane}
    spec = replace(load_pack(Path(__file__).parents[1] / "packs" / "tiny").manifest.segmenter, pitch_mm=0.7)
    look = Look(Region(low, high), grids, (Plane.SAGITTAL, Plane.CORONAL), section_geometry(geometry, 0.7), spec)
    voxels = np.random.default_rng(1).integers(0, 256, geometry.shape, dtype=np.uint8)
    early = np.random.default_rng(2).integers(0, 256, geometry.shape, dtype=np.uint8)
    first, end = look.frames
    early[first:end] = voxels[first:end]
    flow = Flow()
    reformatter = Reformatter(flow, grids, batch=4, size_multiple=32)
    for window in look.windows:
        grid, seen = grids[window.plane], []
        top, left = window.corner
        rows, columns = (min(a, b) for a, b in zip(window.shape, grid.shape, strict=True))
        for axis, corner, size in zip((grid.plane.rows, grid.plane.columns), window.corner, window.shape, strict=True):
            assert corner <= low[axis]
            assert high[axis] <= corner + size
        for batch in reformatter.cut(HostVolume(early), window, Arrivals(flow, len(voxels))):
            for i in range(batch.count):
                section = grid.section(voxels, window.sections[batch.first + i])
                assert np.array_equal(
                    batch.pixels[i, 0, :rows, :columns], section[top : top + rows, left : left + columns]
                )
                assert not batch.pixels[i, 0, rows:].any()
                assert not batch.pixels[i, 0, :, columns:].any()
                seen.append(window.sections[batch.first + i])
            batch.slot.enter(SlotState.RUNNING)
            batch.slot.enter(SlotState.DONE)
            batch.release()
        assert tuple(seen) == window.sections
    if high[0] - low[0] < 96:
        assert end - first < len(voxels)

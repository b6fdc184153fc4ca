"""3-D linking against scipy's labelling with the same neighbourhood, and what candidates say of themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from scanside.engine.link import MAX_CANDIDATES, label_objects, link
from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane

NEIGHBOURS = np.zeros((3, 3, 3), bool)
NEIGHBOURS[1] = True
NEIGHBOURS[:, 1, 1] = True


def random_map(seed: int, shape: tuple[int, int, int], density: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < density, rng.integers(128, 256, shape), rng.integers(0, 128, shape)).astype(
        np.uint8
    )


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 11), st.integers(1, 10)),
    density=st.floats(0.02, 0.7),
)
def test_objects_equal_the_oracle(seed: int, shape: tuple[int, int, int], density: float) -> None:
    fused = random_map(seed, shape, density)
    other = random_map(seed + 1, shape, 0.5)
    expected, count = ndimage.label(fused >= 128, NEIGHBOURS)
    found = label_objects(fused, 128, (other,))
    assert len(found.voxels) == count
    pairs = set(zip(expected.ravel().tolist(), found.labels.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    for i in range(count):
        inside = np.argwhere(found.labels == i + 1)
        assert found.boxes[i, 0].tolist() == inside.min(axis=0).tolist()
        assert found.boxes[i, 1].tolist() == (inside.max(axis=0) + 1).tolist()
        assert found.voxels[i] == len(inside)
        weights = fused[found.labels == i + 1].astype(float)
        moments = (inside * weights[:, None]).sum(axis=0)
        expected_sums = [weights.sum(), other[found.labels == i + 1].sum(dtype=float), *moments]
        assert found.sums[i] == pytest.approx(expected_sums)


def linked(fused: np.ndarray, pitch: float = 1.0, min_lesion_mm: float = 0.0, planes: dict | None = None):
    geometry = Geometry(fused.shape, (pitch,) * 3)
    planes = {Plane.TRANSVERSE: fused} if planes is None else planes
    return link(fused, planes, geometry, geometry.extent_mm, level=128, min_lesion_mm=min_lesion_mm)


def test_diagonals_join_inside_a_section_but_not_across_sections() -> None:
    fused = np.zeros((2, 4, 4), np.uint8)
    fused[0, 0, 0] = fused[0, 1, 1] = 200  # joined by a corner
    fused[1, 2, 2] = 250  # only diagonal to the section before
    assert [c.volume_mm3 for c in linked(fused).candidates] == [1, 2]


def test_a_candidate_in_mm() -> None:
    fused = np.zeros((6, 8, 10), np.uint8)
    fused[1:4, 2:6, 3:9] = 200
    shy = np.where(fused > 0, 100, 0).astype(np.uint8)
    (one,) = linked(fused, 0.5, planes={Plane.TRANSVERSE: fused, Plane.CORONAL: shy}).candidates
    assert one.box_mm.min == (0.5, 1.0, 1.5)
    assert one.box_mm.max == (2.0, 3.0, 4.5)
    assert one.centroid_mm == pytest.approx((1.25, 2.0, 3.0))
    assert one.volume_mm3 == pytest.approx(3 * 4 * 6 * 0.125)
    assert one.detection_score == pytest.approx(200 / 255)
    assert one.planes_seen == (Plane.TRANSVERSE,)
    assert one.plane_scores[Plane.CORONAL] == pytest.approx(100 / 255)


def test_boxes_end_at_the_volume() -> None:
    fused = np.full((3, 3, 3), 255, np.uint8)
    geometry = Geometry(fused.shape, (1.0, 1.0, 1.0))
    (one,) = link(fused, {}, geometry, (2.6, 3.4, 3.0), level=128, min_lesion_mm=0).candidates
    assert one.box_mm.max == (2.6, 3.0, 3.0)


def test_the_smallest_lesion_is_a_ball_of_that_diameter() -> None:
    fused = np.zeros((5, 5, 5), np.uint8)
    fused[1:4, 1:4, 1:4] = 255  # 27 mm3
    diameter = (27 * 6 / math.pi) ** (1 / 3)
    assert len(linked(fused, min_lesion_mm=diameter - 0.001).candidates) == 1
    assert linked(fused, min_lesion_mm=diameter + 0.001).candidates == ()


def test_surest_first_then_by_position_and_labels_follow() -> None:
    fused = np.zeros((3, 1, 9), np.uint8)
    fused[0, 0, 6] = fused[0, 0, 0] = 150
    fused[2, 0, 4] = 250
    result = linked(fused)
    assert [c.box_mm.min for c in result.candidates] == [(2, 0, 4), (0, 0, 0), (0, 0, 6)]
    assert [c.id for c in result.candidates] == [1, 2, 3]
    assert result.labels.dtype == np.uint16
    assert [int(result.labels[k, 0, c]) for k, c in ((2, 4), (0, 0), (0, 6))] == [1, 2, 3]
    assert np.count_nonzero(result.labels) == 3


def test_too_many_candidates_keep_the_surest() -> None:
    fused = np.zeros((1, 40, 40), np.uint8)
    fused[0, ::2, ::2] = 130
    fused[0, 20, 20] = 255
    result = linked(fused)
    assert len(result.candidates) == MAX_CANDIDATES
    assert result.dropped == 400 - MAX_CANDIDATES
    assert result.candidates[0].box_mm.min == (0, 20, 20)
    assert result.labels.max() == MAX_CANDIDATES


def test_nothing_found() -> None:
    result = linked(np.zeros((3, 4, 5), np.uint8))
    assert result.candidates == ()
    assert not result.labels.any()


def test_objects_below_the_detection_score_are_dropped() -> None:
    fused = np.zeros((8, 8, 16), np.uint8)
    fused[2:5, 2:5, 2:5], fused[2:5, 2:5, 9:12] = 250, 140
    geometry = Geometry(fused.shape, (1.0, 1.0, 1.0))
    found = link(
        fused, {}, geometry, geometry.extent_mm, level=128, min_lesion_mm=0, min_detection_score=0.6
    ).candidates
    assert [candidate.detection_score for candidate in found] == [pytest.approx(250 / 255)]
    assert found[0].centroid_mm == pytest.approx((3.5, 3.5, 3.5))

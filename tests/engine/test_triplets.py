"""Triplets: which slices, how wide, in which order."""

from __future__ import annotations

import numpy as np
import pytest

from scanside.engine.triplets import CropRule, triplet_batches
from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import MIN_CROP_SIDE_MM, Plane, crop, crop_side_mm, triplet_indices

GEOMETRY = Geometry((40, 50, 60), (0.5, 0.2, 0.4))
BOX = Box((5.0, 2.0, 4.0), (15.0, 8.0, 20.0))


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, GEOMETRY.shape, dtype=np.uint8)


def test_slices_are_the_centres_of_equal_parts_of_the_middle() -> None:
    indices = triplet_indices(GEOMETRY, BOX, 3)
    # Transverse: the middle 60 % of 5 to 15 mm is 7 to 13 mm; parts of 2 mm have centres 8, 10, 12 mm.
    assert indices[Plane.TRANSVERSE] == (16, 20, 24)
    assert indices[Plane.CORONAL] == tuple(int(mm / 0.2 + 1e-9) for mm in (3.8, 5.0, 6.2))
    assert indices[Plane.SAGITTAL] == tuple(int(mm / 0.4 + 1e-9) for mm in (8.8, 12.0, 15.2))


def test_a_tiny_lesion_repeats_slices_inside_the_volume() -> None:
    indices = triplet_indices(GEOMETRY, Box((19.9, 9.9, 23.9), (20.0, 10.0, 24.0)), 5)
    assert indices == {Plane.TRANSVERSE: (39,) * 5, Plane.SAGITTAL: (59,) * 5, Plane.CORONAL: (49,) * 5}


def test_the_crop_is_as_wide_as_the_longer_side_times_the_margin() -> None:
    assert crop_side_mm(BOX, Plane.TRANSVERSE, 1.25) == pytest.approx(16 * 1.25)
    assert crop_side_mm(BOX, Plane.SAGITTAL, 1.25) == pytest.approx(10 * 1.25)
    assert crop_side_mm(BOX, Plane.CORONAL, 1.5) == pytest.approx(16 * 1.5)
    assert crop_side_mm(Box((0, 0, 0), (1, 2, 3)), Plane.TRANSVERSE, 1.25) == MIN_CROP_SIDE_MM


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_batches_hold_every_triplet_in_order(voxels: np.ndarray, batch: int) -> None:
    boxes = [BOX, Box((1.0, 1.0, 1.0), (4.0, 4.0, 4.0))]
    rule = CropRule(frames=3, margin=1.25, size=16)
    batches = list(triplet_batches(voxels, GEOMETRY, boxes, rule, batch))
    assert [b.count for b in batches] == [min(batch, 6 - i) for i in range(0, 6, batch)]
    for plane in Plane:
        together = np.concatenate([b.crops[plane] for b in batches])
        expected = [
            crop(
                voxels, GEOMETRY, plane, index, box, side_mm=crop_side_mm(box, plane, rule.margin), size=rule.size
            ).pixels
            for box in boxes
            for index in triplet_indices(GEOMETRY, box, rule.frames)[plane]
        ]
        assert np.array_equal(together[:, 0], expected)


def test_no_lesion_no_batch(voxels: np.ndarray) -> None:
    assert list(triplet_batches(voxels, GEOMETRY, [], CropRule(2, 1.0, 8), 4)) == []

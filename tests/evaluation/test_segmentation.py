"""Dice and HD95 against brute force over all surface voxels, and the rule for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from scanside.errors import UsageError
from scanside.evaluation.segmentation import dice, hd95

SPACING = (0.5, 0.2, 0.9)


def surface(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Voxels with a face neighbour outside, one by one."""
    found = []
    for place in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = place.copy()
                other[axis] += step
                outside = (other < 0).any() or (other >= mask.shape).any()
                if outside or not mask[tuple(other)]:
                    found.append(tuple(place))
    return np.unique(np.array(found), axis=0)


def brute_hd95(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, ...]) -> float:
    distance = cdist(surface(a) * spacing, surface(b) * spacing)
    return max(np.percentile(distance.min(axis=1), 95), np.percentile(distance.min(axis=0), 95))


def blob(seed: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for _ in range(2):
        low = [rng.integers(0, n) for n in shape]
        mask[tuple(slice(a, a + rng.integers(1, 5)) for a in low)] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(6, 7, 5), (9, 8)]))
def test_hd95_is_brute_force(seed: int, shape: tuple[int, ...]) -> None:
    a, b = blob(seed, shape), blob(seed + 1, shape)
    spacing = SPACING[: len(shape)]
    assert hd95(a, b, spacing) == pytest.approx(brute_hd95(a, b, spacing))
    assert hd95(a, b, spacing) == hd95(b, a, spacing)


def test_hd95_of_single_voxels_is_their_distance_in_mm() -> None:
    a, b = np.zeros((5, 5, 5), bool), np.zeros((5, 5, 5), bool)
    a[0, 0, 0] = b[3, 4, 0] = True
    assert hd95(a, b, (1.0, 0.5, 9.0)) == pytest.approx(math.hypot(3, 2))


def test_equal_masks_agree() -> None:
    mask = blob(3, (6, 6, 6))
    assert (dice(mask, mask), hd95(mask, mask, SPACING)) == (1, 0)


def test_dice_by_hand() -> None:
    assert dice([1, 1, 1, 0], [0, 1, 1, 1]) == pytest.approx(4 / 6)
    assert dice([1, 0], [0, 1]) == 0


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((4, 5), bool)
    assert (dice(empty, empty), hd95(empty, empty, (1, 1))) == (1, 0)


def test_one_empty_mask_is_as_far_as_the_grid_is_wide() -> None:
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    for a, b in ((empty, full), (full, empty)):
        assert dice(a, b) == 0
        assert hd95(a, b, (0.75, 0.8)) == pytest.approx(5.0)  # 3 mm by 4 mm


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="two shapes"):
        dice([1, 0], [1, 0, 0])
    with pytest.raises(UsageError, match="spacing"):
        hd95(np.ones((2, 2)), np.ones((2, 2)), (1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="spacing"):
        hd95(np.ones((2, 2)), np.ones((2, 2)), (1.0, 0.0))

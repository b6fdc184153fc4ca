from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanside.training.augment import brightness, corner_near, texture, window


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    image = rng.integers(1, 255, (50, 70), dtype=np.uint8)
    return image, (image > 128).astype(np.uint8)


def test_scale_1_copies_pixels(picture):
    image, mask = picture
    cut, cut_mask = window(image, mask, (5, 9), 1.0, 32, (False, False))
    np.testing.assert_array_equal(cut, image[5:37, 9:41])
    np.testing.assert_array_equal(cut_mask, mask[5:37, 9:41])


def test_flips_mirror_the_window(picture):
    image, mask = picture
    both = window(image, mask, (5, 9), 1.0, 32, (True, True))
    np.testing.assert_array_equal(both[0], image[5:37, 9:41][::-1, ::-1])
    np.testing.assert_array_equal(both[1], mask[5:37, 9:41][::-1, ::-1])
    across = window(image, mask, (5, 9), 1.0, 32, (False, True))
    np.testing.assert_array_equal(across[0], image[5:37, 9:41][:, ::-1])


def test_outside_is_zero(picture):
    image, mask = picture
    cut, cut_mask = window(image, mask, (0, 0), 1.0, 96, (False, False))
    assert cut[50:].max() == cut[:, 70:].max() == cut_mask[50:].max() == 0
    np.testing.assert_array_equal(cut[:50, :70], image)


def test_scale_enlarges_image_and_mask_together():
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 24:44] = 1
    cut, cut_mask = window(mask * np.uint8(200), mask, (12, 16), 1.5, 48, (False, False))
    np.testing.assert_array_equal(cut_mask, cut >= 100)
    assert cut_mask.sum() == pytest.approx(1.5**2 * mask.sum(), rel=0.05)
    assert np.argwhere(cut_mask).mean(0) == pytest.approx([(30 - 12) * 1.5 - 0.5, (34 - 16) * 1.5 - 0.5], abs=0.6)


@given(st.integers(0, 10_000), st.floats(0, 90), st.floats(0, 250), st.sampled_from([(91, 233), (255, 233), (60, 80)]))
def test_corner_keeps_the_centre_inside_and_the_window_in_the_image(seed, row, column, shape):
    centre = (min(row, shape[0] - 1), min(column, shape[1] - 1))
    corner = corner_near(np.random.default_rng(seed), centre, shape, 96)
    for at, low, n in zip(centre, corner, shape, strict=True):
        assert low == round(low)
        assert low == 0 if n <= 96 else 0 <= low <= n - 96
        assert low <= at < low + max(96, n)


@pytest.mark.parametrize("change", [brightness, texture])
def test_black_stays_black_and_draws_repeat(change):
    image = np.full((40, 40), 120, np.uint8)
    image[20:] = 0
    for seed in range(30):
        out = change(image, np.random.default_rng(seed))
        assert out.dtype == np.uint8
        assert out.shape == image.shape
        assert out[24:].max() == 0
        np.testing.assert_array_equal(out, change(image, np.random.default_rng(seed)))


def test_changes_change():
    image = np.random.default_rng(1).integers(60, 180, (40, 40), dtype=np.uint8)
    changed = [texture(brightness(image, np.random.default_rng(s)), np.random.default_rng(s)) for s in range(8)]
    assert sum(not np.array_equal(image, c) for c in changed) == 8

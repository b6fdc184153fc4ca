"""A lesion made alone is the one of the whole exam, voxel for voxel."""

import numpy as np
import pytest

from scanside.errors import UsageError
from scanside.exam.geometry import Box
from scanside.exam.phantom import Acquisition, Population, make_lesion, make_phantom

SHAPE, EXTENT_MM = (60, 160, 180), (50.0, 50.0, 50.0)


def narrow(box_mm: Box) -> Box:
    low, high = (tuple(c + s * 9 for c in box_mm.centre) for s in (-1, 1))
    return Box(low, high)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [1, 2, 6])
def test_a_lesion_alone_is_that_of_the_whole_exam(seed: int) -> None:
    """One grey level of rounding in a few voxels is allowed: vectorised arithmetic depends on where a row starts."""
    whole = make_phantom(seed, shape=SHAPE, extent_mm=EXTENT_MM, lesions=1)
    alone = make_lesion(seed, shape=SHAPE, extent_mm=EXTENT_MM, window_mm=narrow)
    assert alone.voxels.shape < whole.voxels.shape
    known, found = whole.truth[0], alone.truth[0]
    corner = np.subtract(known.box_index.min, found.box_index.min).astype(int)
    window = tuple(slice(int(a), int(a) + n) for a, n in zip(corner, alone.voxels.shape, strict=True))
    apart = np.abs(whole.voxels[window].astype(int) - alone.voxels)
    assert apart.max() <= 1
    assert np.mean(apart > 0) < 1e-3
    np.testing.assert_array_equal(whole.mask[window], alone.mask)
    assert (found.volume_mm3, found.diameters_mm, found.kind) == (known.volume_mm3, known.diameters_mm, known.kind)
    spacing = np.array(whole.geometry.spacing_mm)
    np.testing.assert_allclose(np.subtract(known.centroid_mm, found.centroid_mm), corner * spacing, atol=1e-3)
    np.testing.assert_allclose(np.subtract(whole.nipple_mm, alone.nipple_mm), corner * spacing, atol=1e-6)


def test_the_window_is_48_mm_a_side_and_cut_at_the_exam_s_borders() -> None:
    extent = (90.0, 50.0, 90.0)
    lesion = make_lesion(3, shape=(90, 100, 180), extent_mm=extent, population=Population(malignant_share=0.0))
    for side, whole in zip(lesion.geometry.extent_mm, extent, strict=True):
        assert side <= min(whole, 50.0) + 1
    assert max(lesion.geometry.extent_mm) >= 40
    assert lesion.truth[0].malignant is False


def test_a_window_smaller_than_the_lesion_still_holds_it() -> None:
    lesion = make_lesion(1, shape=SHAPE, extent_mm=EXTENT_MM, window_mm=lambda box: Box(box.centre, box.centre))
    assert lesion.truth[0].box_index.min == (0, 0, 0)
    assert lesion.truth[0].box_index.max == lesion.geometry.shape
    assert lesion.truth[0].volume_mm3 == pytest.approx((lesion.mask > 0).sum() * lesion.geometry.voxel_mm3, abs=1e-3)


def test_another_acquisition_and_population_are_passed_on() -> None:
    dark = make_lesion(1, shape=SHAPE, extent_mm=EXTENT_MM, acquisition=Acquisition(gain_db=20.0), window_mm=narrow)
    bright = make_lesion(1, shape=SHAPE, extent_mm=EXTENT_MM, acquisition=Acquisition(gain_db=40.0), window_mm=narrow)
    assert bright.voxels.mean() > dark.voxels.mean() + 30
    assert np.array_equal(bright.mask, dark.mask)
    for share in (0.0, 1.0):
        population = Population(malignant_share=share)
        lesion = make_lesion(4, shape=SHAPE, extent_mm=EXTENT_MM, population=population, window_mm=narrow)
        assert lesion.truth[0].malignant == bool(share)


def test_where_no_lesion_fits_another_seed_is_taken_or_it_is_refused() -> None:
    with pytest.raises(UsageError, match="no lesion fits"):
        make_lesion(1, shape=(20, 40, 40), extent_mm=(12.0, 4.0, 12.0))


@pytest.mark.parametrize(("seed", "shape", "words"), [(-1, SHAPE, "negative"), (1, (40, 81, 80), "even")])
def test_impossible_lesions_are_refused(seed: int, shape: tuple, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_lesion(seed, shape=shape, extent_mm=EXTENT_MM)

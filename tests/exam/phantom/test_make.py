"""The phantom as a whole: reproducible, truthful about its lesions, and made of ultrasound speckle."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanside.errors import UsageError
from scanside.exam.geometry import Box
from scanside.exam.phantom import Acquisition, Phantom, make_phantom
from scanside.exam.phantom.make import MAX_LESIONS

SHAPE, EXTENT_MM = (40, 150, 160), (60.0, 45.0, 60.0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(21, shape=SHAPE, extent_mm=EXTENT_MM, lesions=2)


def digest(phantom: Phantom) -> str:
    return hashlib.sha256(phantom.voxels.tobytes() + phantom.mask.tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads(phantom: Phantom) -> None:
    again = make_phantom(21, shape=SHAPE, extent_mm=EXTENT_MM, lesions=2, threads=1)
    assert digest(again) == digest(phantom)
    assert again.truth == phantom.truth


def test_another_seed_gives_another_breast(phantom: Phantom) -> None:
    other = make_phantom(22, shape=SHAPE, extent_mm=EXTENT_MM, lesions=2)
    assert np.mean(other.voxels != phantom.voxels) > 0.5


def test_truth_is_what_the_mask_holds(phantom: Phantom) -> None:
    assert phantom.truth
    assert set(np.unique(phantom.mask)) == {0, *(lesion.id for lesion in phantom.truth)}
    spacing = np.array(phantom.geometry.spacing_mm)
    for lesion in phantom.truth:
        points = np.argwhere(phantom.mask == lesion.id)
        assert lesion.box_index == Box(tuple(points.min(0)), tuple(points.max(0) + 1))
        np.testing.assert_allclose(lesion.centroid_mm, (points.mean(0) + 0.5) * spacing, atol=1e-3)
        np.testing.assert_allclose(lesion.volume_mm3, len(points) * spacing.prod(), rtol=1e-3)
        np.testing.assert_allclose(lesion.box_mm.min, lesion.box_index.min * spacing)


def test_lesions_are_darker_than_what_surrounds_them() -> None:
    darker = 0
    total = 0
    for seed in range(4):
        phantom = make_phantom(seed, shape=SHAPE, extent_mm=EXTENT_MM, lesions=2)
        for lesion in phantom.truth:
            low, high = (np.array(side, int) for side in (lesion.box_index.min, lesion.box_index.max))
            around = tuple(slice(max(0, a - 4), b + 4) for a, b in zip(low, high, strict=True))
            voxels, mask = phantom.voxels[around], phantom.mask[around]
            darker += voxels[mask == lesion.id].mean() < voxels[mask == 0].mean()
            total += 1
    assert total >= 4
    assert darker / total >= 0.7


def test_the_speckle_is_fully_developed() -> None:
    """Log-compressed Rayleigh envelopes have a standard deviation of 5.57 dB, whatever the mean (Goodman)."""
    from scanside.exam.phantom.speckle import Acquisition, Beam

    acquisition = Acquisition(noise_floor_db=-200, depth_loss_db_per_mm=0, gain_db=40, dynamic_range_db=80)
    beam = Beam(acquisition, (400, 400), (0.5, 0.1, 0.2))
    rng = np.random.default_rng(0)
    echo = np.zeros((400, 400), np.float32)
    picture = beam.picture([beam.scatter(rng, echo) for _ in range(2 * beam.halo + 1)], rng)
    assert np.mean(picture == 0) < 0.001
    deviation_db = picture.astype(float).std() * acquisition.dynamic_range_db / 255
    assert deviation_db == pytest.approx(5.57, abs=0.25)
    # The mean of the log of a unit-power exponential is -2.51 dB: gain and variance are calibrated.
    assert picture.mean() * 80 / 255 == pytest.approx(40 - 2.51, abs=0.3)


def test_speckle_is_wider_away_from_the_focus_and_anisotropic() -> None:
    from scanside.exam.phantom.speckle import Acquisition, Beam

    beam = Beam(Acquisition(focus_mm=10, noise_floor_db=-200, depth_loss_db_per_mm=0), (600, 300), (0.5, 0.1, 0.2))
    rng = np.random.default_rng(1)
    echo = np.zeros((600, 300), np.float32)
    picture = beam.picture([beam.scatter(rng, echo) for _ in range(2 * beam.halo + 1)], rng).astype(float)

    def correlation(rows: slice, axis: int, lag: int) -> float:
        part = picture[rows] - picture[rows].mean()
        moved = np.roll(part, lag, axis)
        return float((part * moved).mean() / part.var())

    focus, far = slice(60, 140), slice(520, 600)
    assert correlation(far, 1, 3) > correlation(focus, 1, 3) + 0.1
    assert correlation(focus, 1, 2) > correlation(focus, 0, 4)  # 0.4 mm either way: axial resolution is finer


def test_no_lesions_is_a_phantom_too() -> None:
    phantom = make_phantom(3, shape=(12, 60, 64), extent_mm=(20, 40, 30), lesions=0)
    assert phantom.truth == ()
    assert not phantom.mask.any()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**9), lesions=st.integers(0, 3), frames=st.integers(8, 30))
def test_boxes_lie_inside_and_bodies_do_not_touch(seed: int, lesions: int, frames: int) -> None:
    phantom = make_phantom(seed, shape=(frames, 64, 70), extent_mm=(50, 40, 50), lesions=lesions, threads=1)
    assert len(phantom.truth) <= lesions
    for lesion in phantom.truth:
        assert all(
            0 <= a < b <= n
            for a, b, n in zip(lesion.box_index.min, lesion.box_index.max, phantom.geometry.shape, strict=True)
        )
    assert phantom.voxels.dtype == np.uint8
    assert phantom.voxels.std() > 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": (4, 100, 100)}, "8 voxels"),
        ({"lesions": -1}, "lesion count"),
        ({"lesions": MAX_LESIONS + 1}, "lesion count"),
        ({"extent_mm": (0.0, 60.0, 154.0)}, "sweep spacing"),
    ],
)
def test_impossible_phantoms_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(Exception, match=words) as caught:
        make_phantom(1, **arguments)
    assert caught.value.exit_code in (2, 3)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="negative"):
        make_phantom(-1)


def test_the_phantom_of_a_seed_is_the_one_it_always_was() -> None:
    """Trained weights and committed tables name seeds. One level of rounding differs between processors at most."""
    golden = np.load(Path(__file__).parent / "golden_seed22.npz")
    phantom = make_phantom(22, shape=(12, 64, 72), extent_mm=(50.0, 45.0, 50.0), lesions=2)
    apart = np.abs(phantom.voxels.astype(int) - golden["voxels"])
    assert apart.max() <= 1
    assert np.mean(apart > 0) < 1e-3
    assert np.mean(phantom.mask != golden["mask"]) < 1e-4


def test_another_probe_and_gain_change_the_picture_as_they_should() -> None:
    def picture(**changes: float) -> np.ndarray:
        acquisition = replace(Acquisition(), **changes)
        return make_phantom(5, shape=SHAPE, extent_mm=EXTENT_MM, lesions=1, acquisition=acquisition).voxels

    plain = picture()
    assert picture(gain_db=39.5).mean() > plain.mean() + 15
    assert np.mean(picture(noise_floor_db=-10.0) < 20) < 0.5 * np.mean(plain < 20)
    fine = Acquisition().at_frequency(1.5)
    assert (fine.axial_mm, fine.lateral_mm) == pytest.approx((0.13 / 1.5, 0.24 / 1.5))
    assert fine.depth_loss_db_per_mm > Acquisition().depth_loss_db_per_mm
    finer = make_phantom(5, shape=SHAPE, extent_mm=EXTENT_MM, lesions=1, acquisition=fine).voxels
    deep, shallow = slice(120, 150), slice(10, 40)
    fall = lambda v: v[:, shallow].mean() - v[:, deep].mean()  # noqa: E731
    assert fall(finer.astype(float)) > fall(plain.astype(float))


def test_a_site_s_acquisition_varies_around_it() -> None:
    site = replace(Acquisition(), gain_db=50.0, depth_loss_db_per_mm=0.24, axial_mm=0.2)
    drawn = [site.drawn(np.random.default_rng(s)) for s in range(200)]
    assert np.mean([a.gain_db for a in drawn]) == pytest.approx(50, abs=0.5)
    assert np.mean([a.depth_loss_db_per_mm for a in drawn]) == pytest.approx(0.26, abs=0.01)
    assert all(0.17 <= a.axial_mm <= 0.24 for a in drawn)
    assert all(a.focus_mm == site.focus_mm for a in drawn)

"""Sections and crops: what is at a place in mm is found at that place, in every plane."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane, SectionGrid, crop, resample

settings.register_profile("exam", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("exam")

planes = st.sampled_from(list(Plane))
PLANES = pytest.mark.parametrize("plane", list(Plane))


def area_weights(n: int, native_mm: float, pitch_mm: float, count: int) -> np.ndarray:
    """Brute force, (count, n): the share of each native pixel in each output pixel; by area, or linear when growing."""
    weights = np.zeros((count, n))
    for o in range(count):
        if native_mm <= pitch_mm:
            low, high = o * pitch_mm, min((o + 1) * pitch_mm, n * native_mm)
            for i in range(n):
                weights[o, i] = max(0.0, min(high, (i + 1) * native_mm) - max(low, i * native_mm))
        else:
            at = np.clip((o + 0.5) * pitch_mm / native_mm - 0.5, 0, n - 1)
            i = min(int(at), n - 2) if n > 1 else 0
            weights[o, i] += 1 - (at - i)
            if n > 1:
                weights[o, i + 1] += at - i
        if weights[o].sum() < 1e-9 * pitch_mm:
            weights[o, -1] = 1
        weights[o] /= weights[o].sum()
    return weights


@settings(max_examples=80)
@given(
    st.tuples(st.integers(2, 60), st.integers(2, 60)),
    st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)),
    st.floats(0.2, 1.2),
    st.integers(0, 2**32 - 1),
)
def test_resampling_is_the_mean_over_the_area_of_a_pixel(shape, native_mm, pitch_mm, seed):
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    # Whole pixels only: a last one that is covered in part is tested by itself.
    out = tuple(int(n * mm / pitch_mm + 1e-9) for n, mm in zip(shape, native_mm, strict=True))
    assume(min(out) >= 1)
    assume(all(round(n * mm / pitch_mm) != n or mm == pitch_mm for n, mm in zip(shape, native_mm, strict=True)))
    rows, columns = (area_weights(n, mm, pitch_mm, o) for n, mm, o in zip(shape, native_mm, out, strict=True))
    expected = rows @ image.astype(float) @ columns.T
    found = resample(image, native_mm, pitch_mm, out)
    assert found.shape == out
    np.testing.assert_allclose(found, expected, atol=1.6)  # rounded to 8 bits, twice when an axis grows


def test_resampling_to_the_same_grid_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (31, 47), dtype=np.uint8)
    np.testing.assert_array_equal(resample(image, (0.3, 0.3), 0.3, image.shape), image)


def test_a_pixel_covered_in_part_shows_the_covered_part():
    image = np.array([[10, 10, 10, 10, 10, 250, 250]] * 2, np.uint8)
    np.testing.assert_array_equal(resample(image, (1.0, 1.0), 2.5, (1, 3)), [[10, 10, 250]])


def test_a_single_thin_frame_still_gives_a_section():
    geometry = Geometry((1, 40, 50), (0.2, 0.1, 0.2))
    voxels = np.full(geometry.shape, 90, np.uint8)
    for plane in Plane:
        section = SectionGrid.over(geometry, plane, 0.66, 0.5).section(voxels, 0)
        assert min(section.shape) >= 1
        assert (section == 90).all()


@settings(max_examples=40)
@given(st.integers(1, 80), st.floats(0.05, 1.0), st.floats(0.2, 1.2), st.integers(0, 2**32 - 1))
def test_no_pixel_is_ever_more_than_half_a_pixel_off(n, native_mm, pitch_mm, seed):
    """An edge at a random place is found where it is, sizes that barely change included."""
    edge = int(np.random.default_rng(seed).integers(0, n + 1))
    image = np.where(np.arange(n) < edge, 255, 0).astype(np.uint8)[None].repeat(3, axis=0)
    count = round(n * native_mm / pitch_mm)
    assume(count >= 1)
    found = resample(image, (pitch_mm, native_mm), pitch_mm, (3, count))[0] / 255
    assert abs(found.sum() * pitch_mm - edge * native_mm) <= 0.5 * max(pitch_mm, native_mm) + 0.02 * pitch_mm


def test_a_missing_last_row_repeats_its_edge():
    image = np.array([[10, 20], [30, 40]], np.uint8)
    np.testing.assert_array_equal(resample(image, (1.0, 1.0), 1.0, (3, 3)), [[10, 20, 20], [30, 40, 40], [30, 40, 40]])


@PLANES
def test_a_plane_names_its_axes(plane):
    assert {plane.normal, plane.rows, plane.columns} == {0, 1, 2}
    voxels = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    index = 3
    native = plane.slice(voxels, index)
    assert native.shape == (voxels.shape[plane.rows], voxels.shape[plane.columns])
    for r, c in ((0, 0), (1, 2), (native.shape[0] - 1, native.shape[1] - 1)):
        at = [0, 0, 0]
        at[plane.normal], at[plane.rows], at[plane.columns] = index, r, c
        assert native[r, c] == voxels[tuple(at)]


def test_the_planes_are_those_of_the_paper():
    axes = ("sweep", "depth", "lateral")
    named = {p.value: tuple(axes[a] for a in (p.normal, p.rows, p.columns)) for p in Plane}
    assert named == {
        "transverse": ("sweep", "depth", "lateral"),
        "sagittal": ("lateral", "depth", "sweep"),
        "coronal": ("depth", "sweep", "lateral"),
    }


def test_the_standard_exam_has_746_sections():
    geometry = Geometry((318, 600, 800), (168 / 318, 60 / 600, 154 / 800))
    grids = {plane: SectionGrid.over(geometry, plane, 0.66, 0.5) for plane in Plane}
    assert {plane.value: len(grid) for plane, grid in grids.items()} == {
        "transverse": 318, "sagittal": 308, "coronal": 120,
    }  # fmt: skip


@given(planes, st.tuples(*[st.integers(1, 300)] * 3), st.tuples(*[st.floats(0.05, 1.0)] * 3), st.floats(0.1, 2.0))
def test_sections_are_evenly_spread_and_never_closer_than_frames(plane, shape, spacing, every_mm):
    geometry = Geometry(shape, spacing)
    grid = SectionGrid.over(geometry, plane, 0.66, every_mm)
    native, n = spacing[plane.normal], shape[plane.normal]
    assert 1 <= len(grid) <= n
    assert np.all(np.diff(grid.indices) >= 1)
    ideal = (np.arange(len(grid)) + 0.5) * n * native / len(grid)
    assert np.all(np.abs((grid.indices + 0.5) * native - ideal) <= native / 2 + 1e-6)
    step = n * native / len(grid)
    assert step <= 1.5 * max(every_mm, native) + 1e-9 or len(grid) == 1


def l_phantom(geometry: Geometry, corner_mm: np.ndarray, arm_mm: float, thick_mm: float) -> np.ndarray:
    """An L in every plane: three arms of three lengths from one corner, so that no flip or swap maps it on itself."""
    voxels = np.zeros(geometry.shape, np.uint8)
    for axis, factor in enumerate((1.0, 1.6, 2.3)):
        size = np.full(3, thick_mm)
        size[axis] = arm_mm * factor
        box = geometry.box_index_from_mm(Box(tuple(corner_mm), tuple(corner_mm + size)))
        voxels[tuple(slice(int(a), int(b)) for a, b in zip(box.min, box.max, strict=True))] = 200
    return voxels


def centroid_mm(weights: np.ndarray, row_mm: np.ndarray, column_mm: np.ndarray) -> tuple[float, float]:
    weights = weights.astype(float)
    return (weights.sum(1) @ row_mm / weights.sum(), weights.sum(0) @ column_mm / weights.sum())


@settings(max_examples=60)
@given(
    planes,
    st.tuples(st.integers(24, 40), st.integers(40, 70), st.integers(40, 70)),
    st.tuples(st.floats(0.3, 0.8), st.floats(0.07, 0.3), st.floats(0.1, 0.4)),
    st.floats(0.15, 0.9),
    st.integers(0, 2**32 - 1),
)
def test_an_asymmetric_phantom_is_found_in_place_in_every_section(plane, shape, spacing, pitch_mm, seed):
    geometry = Geometry(shape, spacing)
    extent = np.array(geometry.extent_mm)
    arm = extent.min() * 0.25
    corner = np.random.default_rng(seed).uniform(0.1, 0.3, 3) * extent
    voxels = l_phantom(geometry, corner, arm, arm * 0.4)
    grid = SectionGrid.over(geometry, plane, pitch_mm, 0.5)
    axes = (plane.rows, plane.columns)
    assume(all(round(shape[a] * spacing[a] / pitch_mm) != shape[a] for a in axes))
    weights = [area_weights(shape[a], spacing[a], pitch_mm, n) for a, n in zip(axes, grid.shape, strict=True)]
    row_mm, column_mm = ((np.arange(n) + 0.5) * pitch_mm for n in grid.shape)
    native_row_mm, native_column_mm = ((np.arange(shape[a]) + 0.5) * spacing[a] for a in axes)
    for s, index in enumerate(grid.indices):
        native = np.moveaxis(voxels, plane.normal, 0)[index]
        native = native if plane.rows < plane.columns else native.T
        section = grid.section(voxels, s)
        np.testing.assert_allclose(section, weights[0] @ native.astype(float) @ weights[1].T, atol=1.6)
        if native.any() and section.any():
            expected = centroid_mm(native, native_row_mm, native_column_mm)
            tolerance = 0.5 * max(pitch_mm, *(spacing[a] for a in axes))
            np.testing.assert_allclose(centroid_mm(section, row_mm, column_mm), expected, atol=tolerance)


@PLANES
def test_a_section_is_padded_into_a_larger_buffer(plane):
    geometry = Geometry((12, 40, 50), (0.5, 0.1, 0.2))
    voxels = np.random.default_rng(0).integers(1, 256, geometry.shape, dtype=np.uint8)
    grid = SectionGrid.over(geometry, plane, 0.4, 0.5)
    buffer = np.full((grid.shape[0] + 5, grid.shape[1] + 7), 99, np.uint8)
    assert grid.section(voxels, 1, out=buffer) is buffer
    np.testing.assert_array_equal(buffer[: grid.shape[0], : grid.shape[1]], grid.section(voxels, 1))
    assert not buffer[grid.shape[0] :].any()
    assert not buffer[:, grid.shape[1] :].any()


@settings(max_examples=60)
@given(
    planes,
    st.tuples(st.floats(0.3, 0.8), st.floats(0.07, 0.3), st.floats(0.1, 0.4)),
    st.integers(24, 96),
    st.floats(4.0, 14.0),
    st.integers(0, 2**32 - 1),
)
def test_an_asymmetric_phantom_is_found_in_place_in_every_crop(plane, spacing, size, side_mm, seed):
    random = np.random.default_rng(seed)
    geometry = Geometry((36, 70, 60), spacing)
    extent = np.array(geometry.extent_mm)
    corner = random.uniform(0.2, 0.5, 3) * extent
    arm = min(side_mm / 6, extent.min() / 8)
    voxels = l_phantom(geometry, corner, arm, arm * 0.5)
    lit = np.argwhere(voxels)
    index = int(lit[len(lit) // 2][plane.normal])
    native = plane.slice(voxels, index)
    centre = geometry.mm_from_index(lit.mean(axis=0)) + random.uniform(-0.5, 0.5, 3)
    found = crop(voxels, geometry, plane, index, Box(tuple(centre - 1), tuple(centre + 1)), side_mm=side_mm, size=size)
    assert found.pixels.shape == (size, size)
    (r0, r1), (c0, c1) = found.window_mm
    for (low, high), axis in (((r0, r1), plane.rows), ((c0, c1), plane.columns)):
        assert abs((low + high) / 2 - centre[axis]) <= spacing[axis]
        assert abs((high - low) - side_mm) <= spacing[axis] + 1e-9
    row_mm = r0 + (np.arange(size) + 0.5) * (r1 - r0) / size
    column_mm = c0 + (np.arange(size) + 0.5) * (c1 - c0) / size
    native_row_mm = (np.arange(native.shape[0]) + 0.5) * spacing[plane.rows]
    native_column_mm = (np.arange(native.shape[1]) + 0.5) * spacing[plane.columns]
    inside = (native_row_mm > r0) & (native_row_mm < r1), (native_column_mm > c0) & (native_column_mm < c1)
    assume(native[np.ix_(*inside)].sum() == native.sum())
    expected = centroid_mm(native, native_row_mm, native_column_mm)
    found_mm = centroid_mm(found.pixels, row_mm, column_mm)
    assert abs(found_mm[0] - expected[0]) <= 0.5 * max((r1 - r0) / size, spacing[plane.rows])
    assert abs(found_mm[1] - expected[1]) <= 0.5 * max((c1 - c0) / size, spacing[plane.columns])


@pytest.mark.parametrize("fine", ["rows", "columns"])
def test_a_crop_is_averaged_along_the_axis_that_shrinks_alone(fine):
    """48 native pixels to 16 along the fine axis, 12 to 16 along the coarse one."""
    spacing = (1.0, 0.125, 0.5) if fine == "rows" else (1.0, 0.5, 0.125)
    geometry = Geometry((1, 48, 12) if fine == "rows" else (1, 12, 48), spacing)
    voxels = np.random.default_rng(0).integers(0, 256, geometry.shape, dtype=np.uint8)
    found = crop(voxels, geometry, Plane.TRANSVERSE, 0, Box((0, 2, 2), (1, 4, 4)), side_mm=6.0, size=16)
    native = voxels[0].astype(float)
    averaged = area_weights(48, 6 / 48, 6 / 16, 16) @ (native if fine == "rows" else native.T)
    across = found.pixels if fine == "rows" else found.pixels.T
    # Columns 0 and 3 of every 4 lie wholly inside one native pixel, whatever the interpolation between pixels.
    np.testing.assert_allclose(across[:, 0::4], averaged[:, 0::3], atol=1.6)
    np.testing.assert_allclose(across[:, 3::4], averaged[:, 2::3], atol=1.6)


@PLANES
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_crop_beyond_the_edge_is_black_there_and_knows_its_window(plane, shift):
    geometry = Geometry((20, 20, 20), (0.5, 0.5, 0.5))
    voxels = np.full(geometry.shape, 180, np.uint8)
    centre = [5.0, 5.0, 5.0]
    centre[plane.rows] = 0.0 if shift < 0 else 10.0
    box = Box(tuple(c - 1 for c in centre), tuple(c + 1 for c in centre))
    found = crop(voxels, geometry, plane, 10, box, side_mm=8.0, size=16)
    middle = centre[plane.rows]
    assert found.window_mm == ((middle - 4, middle + 4), (1.0, 9.0))
    outside, inside = (found.pixels[:8], found.pixels[8:]) if shift < 0 else (found.pixels[8:], found.pixels[:8])
    assert (outside == 0).all()
    assert (inside == 180).all()
    assert (found.plane, found.index) == (plane, 10)


@PLANES
def test_a_crop_wholly_outside_is_black(plane):
    geometry = Geometry((20, 20, 20), (0.5, 0.5, 0.5))
    voxels = np.full(geometry.shape, 180, np.uint8)
    for centre in ((90.0,) * 3, (-90.0,) * 3):
        box = Box(tuple(c - 1 for c in centre), tuple(c + 1 for c in centre))
        assert not crop(voxels, geometry, plane, 0, box, side_mm=4.0, size=8).pixels.any()


@PLANES
def test_a_crop_at_native_size_is_the_voxels_themselves(plane):
    geometry = Geometry((20, 30, 40), (0.5, 0.5, 0.5))
    voxels = np.random.default_rng(0).integers(0, 256, geometry.shape, dtype=np.uint8)
    found = crop(voxels, geometry, plane, 7, Box((4, 4, 4), (6, 6, 6)), side_mm=5.0, size=10)
    assert found.window_mm == ((2.5, 7.5), (2.5, 7.5))
    np.testing.assert_array_equal(found.pixels, plane.slice(voxels, 7)[5:15, 5:15])

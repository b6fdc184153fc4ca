"""Index, mm and patient: exact both ways, in every orientation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scanside.errors import GeometryError
from scanside.exam.geometry import Box, Geometry

settings.register_profile("exam", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("exam")

ORIENTATIONS = [
    np.diag(signs)[:, list(order)]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]
shapes = st.tuples(*[st.integers(1, 900)] * 3)
spacings = st.tuples(*[st.floats(0.0051, 19.99)] * 3)
points = st.tuples(*[st.floats(-50.0, 950.0)] * 3)
origins = st.tuples(*[st.floats(-400.0, 400.0)] * 3)


def rigid(rotation: np.ndarray, origin: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, origin
    return matrix


def test_there_are_48_axis_orientations():
    assert len({o.tobytes() for o in ORIENTATIONS}) == 48


@given(shapes, spacings, points)
def test_index_and_mm_are_inverse(shape, spacing, index):
    geometry = Geometry(shape, spacing)
    np.testing.assert_allclose(geometry.index_from_mm(geometry.mm_from_index(index)), index, rtol=1e-12, atol=1e-9)


@given(shapes, spacings)
def test_mm_frame_starts_at_the_corner_and_ends_at_the_extent(shape, spacing):
    geometry = Geometry(shape, spacing)
    np.testing.assert_allclose(geometry.mm_from_index((-0.5, -0.5, -0.5)), 0, atol=1e-12)
    np.testing.assert_allclose(geometry.mm_from_index(np.subtract(shape, 0.5)), geometry.extent_mm, rtol=1e-12)
    np.testing.assert_allclose(geometry.mm_from_index((0, 0, 0)), np.divide(spacing, 2), rtol=1e-12)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
@settings(max_examples=10)
@given(spacings, origins, points)
def test_index_and_patient_are_inverse_in_every_orientation(orientation, spacing, origin, index):
    geometry = Geometry((30, 40, 50), spacing, rigid(orientation, origin))
    patient = geometry.patient_from_index(index)
    np.testing.assert_allclose(patient, orientation @ geometry.mm_from_index(index) + origin, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(geometry.index_from_patient(patient), index, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
@settings(max_examples=10)
@given(spacings, origins)
def test_voxel_affine_round_trip_in_every_orientation(orientation, spacing, origin):
    """An affine of voxel centres, as files state it, gives back the same points."""
    affine = rigid(orientation * spacing, origin)
    geometry = Geometry.from_voxel_affine((30, 40, 50), affine)
    np.testing.assert_allclose(geometry.spacing_mm, spacing, rtol=1e-12)
    for index in ((0, 0, 0), (29, 39, 49), (3, 17, 5)):
        np.testing.assert_allclose(
            geometry.patient_from_index(index), affine[:3, :3] @ index + origin, rtol=1e-12, atol=1e-9
        )


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), spacings, origins)
def test_oblique_orientations_round_trip(seed, spacing, origin):
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    geometry = Geometry.from_voxel_affine((30, 40, 50), rigid(rotation * spacing, origin))
    index = np.random.default_rng(seed).uniform(-10, 60, (20, 3))
    np.testing.assert_allclose(geometry.index_from_patient(geometry.patient_from_index(index)), index, atol=1e-6)
    np.testing.assert_allclose(geometry.patient_from_index((0, 0, 0)), origin, atol=1e-9)


@given(shapes, spacings, st.data())
def test_index_boxes_come_back_from_mm_exactly(shape, spacing, data):
    geometry = Geometry(shape, spacing)
    low = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    high = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(low, shape, strict=True))
    assert geometry.box_index_from_mm(geometry.box_mm_from_index(Box(low, high))) == Box(low, high)


@given(st.tuples(*[st.integers(1, 60)] * 3), spacings, st.data())
def test_an_index_box_is_the_smallest_that_holds_the_mm_box(shape, spacing, data):
    geometry = Geometry(shape, spacing)
    low, high = [], []
    for extent in geometry.extent_mm:
        a, b = sorted(data.draw(st.tuples(*[st.floats(0, 1)] * 2)))
        low.append(a * extent)
        high.append(max(b, min(1.0, a + 0.01)) * extent)
    index = geometry.box_index_from_mm(Box(tuple(low), tuple(high)))
    for axis in range(3):
        size, n = geometry.spacing_mm[axis], shape[axis]
        assert 0 <= index.min[axis] < index.max[axis] <= n
        assert index.min[axis] * size <= low[axis] + 1e-6 * size or index.min[axis] == n - 1
        assert index.max[axis] * size >= high[axis] - 1e-6 * size
        if index.max[axis] - index.min[axis] > 1:
            assert (index.min[axis] + 1) * size > low[axis]
            assert (index.max[axis] - 1) * size < high[axis]


def test_boxes_outside_the_volume_are_clipped_to_a_voxel():
    geometry = Geometry((10, 20, 30), (0.5, 0.1, 0.2))
    assert geometry.box_index_from_mm(Box((-9, -9, -9), (-8, -8, -8))) == Box((0, 0, 0), (1, 1, 1))
    assert geometry.box_index_from_mm(Box((90, 90, 90), (91, 91, 91))) == Box((9, 19, 29), (10, 20, 30))
    assert geometry.box_index_from_mm(Box((-9, -9, -9), (91, 91, 91))) == Box((0, 0, 0), (10, 20, 30))


def test_box_size_and_centre():
    box = Box((1, 2, 3), (3, 6, 9))
    assert box.size == (2, 4, 6)
    assert box.centre == (2, 4, 6)


@pytest.mark.parametrize("bad", [0, -0.2, float("nan"), float("inf"), -float("inf"), 1e9, 1e-9])
@pytest.mark.parametrize("axis", range(3))
def test_unusable_spacing_names_its_axis_and_the_remedy(bad, axis):
    spacing = [0.5, 0.1, 0.2]
    spacing[axis] = bad
    with pytest.raises(GeometryError) as caught:
        Geometry((10, 10, 10), tuple(spacing))
    assert ("sweep", "depth", "lateral")[axis] in str(caught.value)
    assert "--spacing" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, -1, 1), (1, 1), (1, 1, 1, 1)])
def test_a_volume_has_three_axes_with_voxels(shape):
    with pytest.raises(GeometryError, match="three axes"):
        Geometry(shape, (1, 1, 1))


@pytest.mark.parametrize("matrix", [
    np.eye(3), np.diag([2.0, 1, 1, 1]), np.zeros((4, 4)), np.full((4, 4), np.nan),
    np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
])  # fmt: skip
def test_a_transform_that_is_not_rigid_is_refused(matrix):
    with pytest.raises(GeometryError, match="rigid"):
        Geometry((2, 2, 2), (1, 1, 1), matrix)


def test_an_affine_with_an_axis_of_no_length_is_refused():
    with pytest.raises(GeometryError, match="no length"):
        Geometry.from_voxel_affine((2, 2, 2), np.diag([1.0, 0, 1, 1]))


def test_without_an_orientation_there_is_no_patient():
    geometry = Geometry((2, 2, 2), (1, 1, 1))
    with pytest.raises(GeometryError, match="orientation"):
        geometry.patient_from_index((0, 0, 0))
    with pytest.raises(GeometryError, match="orientation"):
        geometry.index_from_patient((0, 0, 0))


def test_equality_and_sizes():
    geometry = Geometry((2, 3, 4), (0.5, 0.25, 2.0), np.eye(4))
    assert geometry == Geometry((2, 3, 4), (0.5, 0.25, 2.0), np.eye(4))
    assert geometry != Geometry((2, 3, 4), (0.5, 0.25, 2.0))
    assert geometry != Geometry((2, 3, 4), (0.5, 0.25, 2.0), np.diag([1.0, 1, -1, 1]))
    assert geometry.extent_mm == (1.0, 0.75, 8.0)
    assert geometry.voxel_mm3 == 0.25
    assert geometry.bytes == 24


def test_the_transform_cannot_be_changed_from_outside():
    matrix = np.eye(4)
    geometry = Geometry((2, 2, 2), (1, 1, 1), matrix)
    matrix[0, 3] = 99
    assert geometry.patient_from_index((0, 0, 0))[0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        geometry.patient_from_mm[0, 3] = 1

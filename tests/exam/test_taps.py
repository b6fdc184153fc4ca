"""The weights of sections give `SectionGrid.section`'s pixels within one grey level, whatever the geometry."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.taps import SectionTaps, Taps


def matrix(taps: Taps) -> np.ndarray:
    """float64 [pixels, native]."""
    whole = np.zeros((len(taps.first), taps.native))
    for pixel, (first, weights) in enumerate(zip(taps.first.tolist(), taps.weights, strict=True)):
        for t, weight in enumerate(weights):
            whole[pixel, min(first + t, taps.native - 1)] += weight
    return whole


def resampled(taps: SectionTaps, native: np.ndarray) -> np.ndarray:
    rows, columns = matrix(taps.rows), matrix(taps.columns)
    if taps.rows.grows:
        products = np.floor(4 * rows[:, :, None] * native[None])
        made = np.floor((products.sum(axis=1) + 2) / 4)
    else:
        made = rows @ native.astype(np.float64)
        made = np.rint(made) if taps.rounded else made
    made = made @ columns.T
    return np.floor((np.floor(4 * made) + 2) / 4) if taps.columns.grows else np.rint(made)


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 40) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.05, 3.0) for _ in range(3))),
    pitch=st.floats(0.2, 1.5),
    plane=st.sampled_from(list(Plane)),
    seed=st.integers(0, 10),
)
def test_weights_are_what_resampling_does(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], pitch: float, plane: Plane, seed: int
) -> None:
    grid = SectionGrid.over(Geometry(shape, spacing), plane, pitch, 1.0)
    voxels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    taps = SectionTaps.of(grid)
    for axis in (taps.rows, taps.columns):
        np.testing.assert_allclose(axis.weights.sum(axis=1), 1, atol=2e-3)  # OpenCV leaves out less than 1e-3
    section = grid.section(voxels, 0)
    made = resampled(taps, plane.slice(voxels, int(grid.indices[0])))
    assert made.shape == section.shape
    assert np.abs(made - section).max() <= 1


@settings(max_examples=200, deadline=None)
@given(native=st.integers(2, 60), spacing=st.floats(0.1, 3.0), data=st.data())
def test_what_pixels_need_is_all_they_are_made_of(native: int, spacing: float, data: st.DataObject) -> None:
    geometry = Geometry((native, 3, 3), (spacing, 1.0, 1.0))
    taps = SectionTaps.of(SectionGrid.over(geometry, Plane.CORONAL, 0.7, 1.0)).rows
    begin = data.draw(st.integers(0, len(taps.first) - 1))
    end = data.draw(st.integers(begin + 1, len(taps.first) + 3))
    used = np.flatnonzero(matrix(taps)[begin:end].any(axis=0))
    assert taps.needs(begin, end) == (used[0], used[-1] + 1)

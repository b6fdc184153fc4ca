"""Gathering sections on the grid: right places for any spacing, padding ignored, gaps filled, planes averaged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from scanside.engine.components import level_of
from scanside.engine.link import link
from scanside.engine.support import Support, section_geometry
from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane, SectionGrid

SPACINGS = [(1.0, 1.0, 1.0), (0.53, 0.2, 0.31), (1.7, 0.4, 0.9), (0.25, 0.25, 0.25)]


def grids_of(geometry: Geometry, pitch: float, every: float) -> dict[Plane, SectionGrid]:
    return {plane: SectionGrid.over(geometry, plane, pitch, every) for plane in Plane}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("pitch", "every"), [(0.66, 0.5), (0.5, 1.1), (1.0, 1.0)])
def test_a_box_is_found_where_it_is(spacing: tuple[float, float, float], pitch: float, every: float) -> None:
    extent = (17.0, 11.0, 23.0)
    shape = tuple(round(e / s) for e, s in zip(extent, spacing, strict=True))
    geometry = Geometry(shape, spacing)
    low, high = np.array([5.0, 3.0, 12.0]), np.array([11.0, 8.0, 18.0])
    centres = [(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)]
    inside = [(c >= a) & (c < b) for c, a, b in zip(centres, low, high, strict=True)]
    voxels = (inside[0][:, None, None] & inside[1][:, None] & inside[2]).astype(np.uint8) * 255
    grids = grids_of(geometry, pitch, every)
    support = Support(grids)
    for plane, grid in grids.items():
        for s in range(len(grid)):
            support.add(plane, s, grid.section(voxels, s)[None])
    planes = {plane: support.plane(plane) for plane in support.planes}
    found = link(
        support.fused(planes.values()), planes, support.geometry, geometry.extent_mm, level=128, min_lesion_mm=1
    )
    (one,) = found.candidates
    tolerance = max(pitch, every, *spacing)
    assert np.abs(np.subtract(one.box_mm.min, low)).max() <= tolerance
    assert np.abs(np.subtract(one.box_mm.max, high)).max() <= tolerance
    assert np.abs(np.subtract(one.centroid_mm, (low + high) / 2)).max() <= tolerance / 2
    assert set(one.planes_seen) == set(Plane)


def test_the_grid_has_the_shape_of_its_sections() -> None:
    geometry = Geometry((318, 600, 800), (168 / 318, 0.1, 154 / 800))
    grid = section_geometry(geometry, 0.66)
    assert grid.shape == (255, 91, 233)
    for plane, sections in grids_of(geometry, 0.66, 0.5).items():
        assert sections.shape == (grid.shape[plane.rows], grid.shape[plane.columns])


def test_several_sections_in_a_slice_are_averaged_and_padding_is_ignored() -> None:
    geometry = Geometry((4, 2, 3), (0.5, 1.0, 1.0))
    grids = {Plane.TRANSVERSE: SectionGrid.over(geometry, Plane.TRANSVERSE, 1.0, 0.5)}
    support = Support(grids)
    sections = np.full((4, 32, 32), 255, np.uint8)
    sections[:, :2, :3] = np.array([10, 21, 100, 201], np.uint8)[:, None, None]
    support.add(Plane.TRANSVERSE, 0, sections[:1])
    support.add(Plane.TRANSVERSE, 1, sections[1:])
    plane = support.plane(Plane.TRANSVERSE)
    assert plane.shape == (2, 2, 3)
    assert np.unique(plane[0]).tolist() == [16]  # 15.5, half up
    assert np.unique(plane[1]).tolist() == [151]


def test_a_slice_without_a_section_takes_the_nearest() -> None:
    geometry = Geometry((3, 4, 4), (3.0, 1.0, 1.0))
    grids = {Plane.TRANSVERSE: SectionGrid.over(geometry, Plane.TRANSVERSE, 1.0, 1.0)}
    support = Support(grids)
    support.add(Plane.TRANSVERSE, 0, np.array([10, 20, 30], np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2))
    assert support.plane(Plane.TRANSVERSE)[:, 0, 0].tolist() == [10, 10, 10, 20, 20, 20, 30, 30, 30]


def test_planes_vote() -> None:
    geometry = Geometry((2, 2, 2), (1.0, 1.0, 1.0))
    support = Support(grids_of(geometry, 1.0, 1.0))
    for plane, value in zip(Plane, (200, 201, 0), strict=True):
        support.add(plane, 0, np.full((2, 2, 2), value, np.uint8))
    fused = support.fused(support.plane(plane) for plane in Plane)
    assert np.unique(fused).tolist() == [134]  # 401 / 3 rounded
    assert fused.max() >= level_of(0.5)


def test_only_planes_that_looked_vote() -> None:
    support = Support(grids_of(Geometry((2, 2, 2), (1.0, 1.0, 1.0)), 1.0, 1.0))
    support.add(Plane.SAGITTAL, 0, np.full((2, 2, 2), 80, np.uint8))
    assert support.planes == (Plane.SAGITTAL,)


@pytest.mark.parametrize("sigma_mm", [0.5, 1.1])
def test_smoothing_is_a_gaussian_along_all_axes(sigma_mm: float) -> None:
    geometry = Geometry((20, 18, 22), (1.0, 1.0, 1.0))
    support = Support({p: SectionGrid.over(geometry, p, 0.5, 0.5) for p in Plane})
    fused = np.random.default_rng(0).integers(0, 256, support.geometry.shape).astype(np.uint8)
    expected = gaussian_filter(fused.astype(float), sigma_mm / 0.5, mode="nearest", truncate=3.0)
    assert np.abs(support.smoothed(fused, sigma_mm) - expected).max() < 1.5
    assert support.smoothed(fused, 0.0) is fused

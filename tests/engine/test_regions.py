"""Regions along the sweep: certain early, the same as seen from the end, and around every candidate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from scanside.engine.components import level_of
from scanside.engine.link import label_objects
from scanside.engine.regions import SCORE_MARGIN, Region, Watch, margin_cells
from scanside.engine.support import Smoothing, Support
from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane, SectionGrid
from scanside.pack.manifest import SegmenterSpec

SPEC = SegmenterSpec(
    graph="g.onnx",
    architecture="none",
    input="i",
    output="o",
    pitch_mm=1.0,
    every_mm=0.6,
    planes=("transverse", "sagittal", "coronal"),
    threshold=0.5,
    min_lesion_mm=3.0,
    min_detection_score=0.6,
    smoothing_mm=0.8,
    batch=4,
    size_multiple=8,
    mean=0.0,
    std=1.0,
)


def blobs(rng: np.random.Generator, shape: tuple[int, int, int], count: int) -> np.ndarray:
    """Sections with smooth bright blobs, some touching, uint8."""
    noise = np.zeros(shape)
    for _ in range(count):
        place = tuple(int(rng.integers(0, n)) for n in shape)
        noise[place] = rng.uniform(60, 500)
    smooth = gaussian_filter(noise, rng.uniform(1.5, 2.5, 3)) * 60
    return np.clip(smooth, 0, 255).astype(np.uint8)


def watched(sections: np.ndarray, steps: list[int], spec: SegmenterSpec = SPEC) -> list[tuple[int, Region]]:
    """(sections seen, region) of every region, when sections come in portions ending at `steps`."""
    geometry = Geometry(sections.shape, (0.6, 1.0, 1.0))  # type: ignore[arg-type]
    grid = SectionGrid.over(geometry, Plane.TRANSVERSE, spec.pitch_mm, spec.every_mm)
    assert len(grid) == len(sections)
    support = Support({Plane.TRANSVERSE: grid})
    watch = Watch(support, spec)
    found, first = [], 0
    for end in [*steps, len(sections)]:
        support.add(Plane.TRANSVERSE, first, sections[first:end])
        found += [(end, region) for region in watch.advance(end)]
        first = end
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.sampled_from([0.0, 0.8, 1.4]), st.data())
def test_regions_do_not_depend_on_the_portions(seed: int, count: int, smoothing: float, data: st.DataObject) -> None:
    spec = replace(SPEC, smoothing_mm=smoothing)
    sections = blobs(np.random.default_rng(seed), (60, 24, 28), count)
    steps = sorted(data.draw(st.sets(st.integers(1, 59), max_size=12)))
    at_once = [region for _, region in watched(sections, [], spec)]
    in_portions = [region for _, region in watched(sections, steps, spec)]
    assert sorted(in_portions, key=lambda r: (r.low, r.high)) == at_once
    for i, region in enumerate(at_once):
        assert not any(region.touches(other) for other in at_once[i + 1 :])


@pytest.mark.parametrize("seed", range(6))
def test_regions_hold_every_candidate_with_its_margin_and_nothing_else(seed: int) -> None:
    sections = blobs(np.random.default_rng(seed), (60, 24, 28), 9)
    geometry = Geometry(sections.shape, (0.6, 1.0, 1.0))  # type: ignore[arg-type]
    grid = SectionGrid.over(geometry, Plane.TRANSVERSE, SPEC.pitch_mm, SPEC.every_mm)
    support = Support({Plane.TRANSVERSE: grid})
    support.add(Plane.TRANSVERSE, 0, sections)
    smooth = support.smoothed(support.plane(Plane.TRANSVERSE), SPEC.smoothing_mm)
    objects = label_objects(smooth, level_of(SPEC.threshold))
    scores = objects.sums[:, 0] / objects.voxels / 255
    large = objects.voxels >= np.pi / 6 * SPEC.min_lesion_mm**3
    candidates = objects.boxes[large & (scores >= SPEC.min_detection_score - SCORE_MARGIN)]
    regions = [region for _, region in watched(sections, [7, 30])]
    margin, shape = margin_cells(SPEC), np.array(support.geometry.shape)
    held = set()
    for low, high in candidates:
        wide_low, wide_high = np.maximum(low - margin, 0), np.minimum(high + margin, shape)
        (holder,) = [r for r in regions if (r.low <= wide_low).all() and (r.high >= wide_high).all()]
        held.add(holder)
    assert held == set(regions)


def test_a_region_is_given_before_the_sweep_ends() -> None:
    sections = np.zeros((120, 24, 28), np.uint8)
    sections[10:22, 8:16, 10:18] = 255
    given_at, region = watched(sections, list(range(1, 120)))[0]
    assert region.low[1:] == (8 - margin_cells(SPEC), 10 - margin_cells(SPEC))
    assert given_at < 50


def test_an_object_that_goes_on_holds_back_what_it_may_join() -> None:
    sections = np.zeros((120, 24, 28), np.uint8)
    sections[10:22, 4:10, 4:10] = 255
    sections[12:100, 16:22, 20:26] = 255  # begins before the first ends, so their regions may touch
    given = watched(sections, list(range(1, 120)))
    assert all(at > 100 for at, _ in given)


def test_smoothing_in_portions_is_smoothing_at_once() -> None:
    sections = np.random.default_rng(3).integers(0, 256, (40, 37, 51), dtype=np.uint8)
    smoothing = Smoothing(0.8, 0.66)
    whole = smoothing.along_sweep(smoothing.in_sections(sections))
    part = smoothing.along_sweep(smoothing.in_sections(sections[5:25]))
    assert np.array_equal(
        part[smoothing.radius : -smoothing.radius], whole[5 + smoothing.radius : 25 - smoothing.radius]
    )

"""Reformatting in batches gives exactly SectionGrid's sections, in order, as frames arrive."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanside.engine.flow import Flow, Stopped
from scanside.engine.sections import BLOCK_COLUMNS, Arrivals, HostVolume, Reformatter, native_slices, padded_shape
from scanside.engine.slots import SlotState
from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane, SectionGrid

GEOMETRY = Geometry((11, 37, 2 * BLOCK_COLUMNS + 9), (0.8, 0.3, 0.11))
GRIDS = {plane: SectionGrid.over(GEOMETRY, plane, 0.5, 0.4) for plane in Plane}


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, GEOMETRY.shape, dtype=np.uint8)


@pytest.mark.parametrize("plane", list(Plane))
def test_native_slices_equal_the_planes(voxels: np.ndarray, plane: Plane) -> None:
    slices = list(native_slices(voxels, plane, GRIDS[plane].indices.tolist()))
    assert len(slices) == len(GRIDS[plane])
    for index, native in zip(GRIDS[plane].indices.tolist(), slices, strict=True):
        assert native.flags.c_contiguous
        assert np.array_equal(native, plane.slice(voxels, index))


def test_one_lateral_alone() -> None:
    thin = np.random.default_rng(1).integers(0, 256, (5, 6, 1), dtype=np.uint8)
    grid = SectionGrid.over(Geometry(thin.shape, (1.0, 1.0, 1.0)), Plane.SAGITTAL, 1.0, 1.0)
    (native,) = native_slices(thin, grid.plane, grid.indices.tolist())
    assert np.array_equal(native, thin[:, :, 0].T)


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_batches_are_padded_sections_in_order(voxels: np.ndarray, batch: int) -> None:
    flow = Flow()
    reformatter = Reformatter(flow, GRIDS, batch=batch, size_multiple=32)
    arrivals = Arrivals(flow, len(voxels))
    arrivals.mark_all()
    seen, largest = [], 0
    for cut in reformatter.batches(HostVolume(voxels), arrivals, Plane):
        grid = GRIDS[cut.plane]
        assert cut.pixels.shape == cut.probability.shape == (cut.count, 1, *padded_shape(grid.shape, 32))
        for i in range(cut.count):
            expected = np.zeros(cut.pixels.shape[2:], np.uint8)
            expected[: grid.shape[0], : grid.shape[1]] = grid.section(voxels, cut.first + i)
            assert np.array_equal(cut.pixels[i, 0], expected)
            seen.append((cut.plane, cut.first + i))
        cut.pixels[...] = 255  # a used buffer is dirty
        for state in (SlotState.RUNNING, SlotState.DONE):
            cut.slot.enter(state)
        cut.release()
        largest = max(largest, cut.pixels.size)
    assert largest <= batch * min(np.prod(padded_shape(grid.shape, 32)) for grid in GRIDS.values()) or batch == 1
    assert seen == [(plane, s) for plane in Plane for s in range(len(GRIDS[plane]))]
    assert reformatter.total == len(seen)


def test_transverse_sections_are_cut_before_the_last_frame_is_there(voxels: np.ndarray) -> None:
    flow = Flow()
    arrivals = Arrivals(flow, len(voxels))
    batches = Reformatter(flow, GRIDS, batch=2, size_multiple=32).batches(HostVolume(voxels), arrivals, Plane)
    for k in (1, 0):
        arrivals.mark(k)
    first = next(batches)
    assert (first.plane, first.first, first.count) == (Plane.TRANSVERSE, 0, 2)


@given(shown=st.lists(st.booleans(), min_size=1, max_size=12), batch=st.integers(1, 13))
def test_what_is_seen_is_packed_and_answers_go_back_to_their_rows(shown: list[bool], batch: int) -> None:
    voxels = np.zeros((len(shown), 4, 4), np.uint8)
    voxels[shown] = 1 + np.flatnonzero(shown)[:, None, None]
    grids = {Plane.TRANSVERSE: SectionGrid.over(Geometry(voxels.shape, (1.0, 1.0, 1.0)), Plane.TRANSVERSE, 1.0, 1.0)}
    flow = Flow()
    arrivals = Arrivals(flow, len(voxels))
    arrivals.mark_all()
    answers: list[int] = []
    for cut in Reformatter(flow, grids, batch=batch, size_multiple=4).batches(HostVolume(voxels), arrivals, grids):
        assert cut.pixels.all()
        cut.probability[: len(cut.seen)] = 2 * cut.pixels
        cut.probability[len(cut.seen) :] = 99  # left over from another batch
        cut.spread(np.full((4, 4), 200, np.uint8))
        answers += cut.probability[:, 0, 0, 0].tolist()
        assert (cut.probability == cut.probability[:, :, :1, :1]).all()
        for state in (SlotState.RUNNING, SlotState.DONE):
            cut.slot.enter(state)
        cut.release()
    assert answers == [2 * (k + 1) if here else 200 for k, here in enumerate(shown)]


def test_a_stop_ends_the_wait_for_frames(voxels: np.ndarray) -> None:
    flow = Flow()
    arrivals = Arrivals(flow, len(voxels))
    timer = threading.Timer(0.05, flow.fail, [ValueError("stop")])
    timer.start()
    with pytest.raises(Stopped):
        arrivals.wait_all()
    timer.join()


@pytest.mark.parametrize(
    ("shape", "multiple", "padded"), [((91, 233), 32, (96, 256)), ((64, 32), 32, (64, 32)), ((1, 1), 5, (5, 5))]
)
def test_padded_shape(shape: tuple[int, int], multiple: int, padded: tuple[int, int]) -> None:
    assert padded_shape(shape, multiple) == padded

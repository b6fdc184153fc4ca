"""Policy `confirm`: all transverse sections, then sagittal and coronal ones only where they can change the answer.

The transverse answers alone give candidates, by the pack's own threshold and smallest size and a detection score that
is `regions.SCORE_MARGIN` lower. Around each lies a region (`regions.Watch`). Of a region every second grid slice is
looked at in the sagittal and in the coronal plane, each through a window of one of a few sizes around the region
(networks see no more than that while they are trained); a slice between takes the nearest one looked at. There the
planes vote as in `exact`, and the same linking decides: the vote confirms a candidate, refutes it, or extends it. What
reaches the edge of its region widens the region, which is then looked at again. Outside all regions there is no lesion:
a lesion that the transverse sections do not show at all is what this policy can miss.

A region's windows need only the frames of its own part of the sweep, so in a live sweep most regions are done before
the last frame. Every answer depends on its region alone, not on when it was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scanside.engine.components import level_of
from scanside.engine.flow import Channel, Flow
from scanside.engine.link import Linked, link
from scanside.engine.regions import Region, Watch, margin_cells
from scanside.engine.sections import Arrivals, Reformatter, SectionBatch, Source, Window, padded_shape
from scanside.engine.support import Smoothing, Support, in_volume, positions, vote
from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane, SectionGrid
from scanside.pack.manifest import SegmenterSpec

EVERY_SLICES = 2
WINDOW_SIDES = (96, 160)
"""Sides of the windows in pixels; a larger region takes whole sections."""
MOST_GROWTHS = 3
"""By the margin, then twice, then four times as far."""
MOST_REGIONS = 100_000
_FRAMES_POLL_S = 0.02
_FRAME_MARGIN = 2
"""Frames beyond a window that resampling may touch."""


class Confirm:
    """One run under `confirm`; see `engine.pipeline.Looking`."""

    def __init__(
        self, flow: Flow, grids: Mapping[Plane, SectionGrid], spec: SegmenterSpec, reformatter: Reformatter
    ) -> None:
        self._flow, self._spec, self._reformatter, self._grids = flow, spec, reformatter, grids
        self._others = tuple(plane for plane in grids if plane is not Plane.TRANSVERSE)
        self._extent_mm = grids[Plane.TRANSVERSE].geometry.extent_mm
        self.support = Support({Plane.TRANSVERSE: grids[Plane.TRANSVERSE]})
        self.sections: Counter[Plane] = Counter()
        self._watch = Watch(self.support, spec)
        self._smoothing = Smoothing(spec.smoothing_mm, spec.pitch_mm)
        self._asked: Channel[Look] = flow.channel(MOST_REGIONS)
        self._pending = 0
        self._settled: list[tuple[Region, Mapping[Plane, NDArray[np.uint8]]]] = []
        self._planned = len(grids[Plane.TRANSVERSE])

    @property
    def total(self) -> int:
        """Sections wanted so far."""
        return self._planned

    def stages(self, source: Source, arrivals: Arrivals, cut: Channel[SectionBatch]) -> None:
        def transverse() -> None:
            for batch in self._reformatter.batches(source, arrivals, (Plane.TRANSVERSE,)):
                cut.put(batch)

        def regions() -> None:
            waiting: list[Look] = []
            while True:
                look = self._asked.poll() if waiting else self._asked.get()
                if look is not None:
                    waiting.append(look)
                elif not waiting:
                    return
                here = next((look for look in waiting if arrivals.has(*look.frames)), None)
                if here is not None:
                    waiting.remove(here)
                    for window in here.windows:
                        for batch in self._reformatter.cut(source, window, arrivals):
                            cut.put(batch)
                elif look is None:
                    self._flow.stopping.wait(_FRAMES_POLL_S)

        self._flow.stage("reformat", transverse)
        self._flow.stage("regions", regions, closes=cut)  # ends last: it is closed when nothing is asked any more

    def gather(self, answered: Channel[SectionBatch]) -> Iterator[Linked]:
        """A result whenever a region has shown a lesion, and the whole at the end."""
        transverse = len(self._grids[Plane.TRANSVERSE])
        latest: Linked | None = None  # what the settled regions show: every new one is shown at once
        for batch in answered:
            plane, look = batch.plane, batch.window.owner
            shown = False
            with self._flow.trace.span("components", plane=plane.value, first=batch.first, count=batch.count):
                self.sections[plane] += batch.count
                if look is None:
                    self.support.add(plane, batch.first, batch.probability[:, 0])
                else:
                    look.add(batch)
                batch.release()
                if look is None:
                    for region in self._watch.advance(self.sections[plane]):
                        shown |= self._ask(region)
                elif look.complete:
                    self._pending -= 1
                    shown = self._judge(look)
            if self.sections[Plane.TRANSVERSE] == transverse and not self._pending:
                self._asked.close()
            if shown:
                latest = self._linked()
                yield latest
        yield latest or self._linked()

    def _ask(self, region: Region) -> bool:
        """Have a region looked at; True when there is nothing to wait for and it shows a lesion."""
        look = Look(region, self._grids, self._others, self.support.geometry, self._spec)
        self._planned += sum(len(window.sections) for window in look.windows)
        if look.complete:
            return self._judge(look)
        self._pending += 1
        self._asked.put(look)
        return False

    def _judge(self, look: Look) -> bool:
        """The vote in one region: whether it shows a lesion. One that reaches the region's edge has it widened."""
        region, answers = look.region, look.answers()
        first, end = region.low[0], region.high[0]
        rows, columns = region.slices[1:]
        answers[Plane.TRANSVERSE] = self.support.slices(Plane.TRANSVERSE, first, end)[:, rows, columns]
        smooth = self._smoothing.along_sweep(self._smoothing.in_sections(vote(answers.values())))
        shape = self.support.geometry.shape
        here = Geometry(region.shape, self.support.geometry.spacing_mm)
        found = self._link(smooth, answers, here, here.extent_mm).labels
        if not found.any():
            return False
        inside = [np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        reach, step = self._smoothing.radius + 1, margin_cells(self._spec) << region.grown
        below = tuple(step * (low > 0 and i[0] < reach) for i, low in zip(inside, region.low, strict=True))
        above = tuple(
            step * (high < n and i[-1] >= size - reach)
            for i, high, n, size in zip(inside, region.high, shape, region.shape, strict=True)
        )
        if any((*below, *above)) and region.grown < MOST_GROWTHS:
            return self._ask(replace(region.widened(below, above, shape), grown=region.grown + 1))  # type: ignore[arg-type]
        self._settled.append((region, answers))
        return True

    def _linked(self) -> Linked:
        """Lesions in the regions that are settled."""
        with self._flow.trace.span("link", regions=len(self._settled)):
            geometry = self.support.geometry
            fused = np.zeros(geometry.shape, np.uint8)
            planes = {plane: np.zeros(geometry.shape, np.uint8) for plane in self._grids}
            for region, answers in sorted(self._settled, key=lambda settled: (settled[0].low, settled[0].high)):
                fused[region.slices] = vote(answers.values())
                for plane, answer in answers.items():
                    planes[plane][region.slices] = answer
            smooth = self.support.smoothed(fused, self._spec.smoothing_mm)
            return self._link(smooth, planes, geometry, self._extent_mm)

    def _link(
        self,
        smooth: NDArray[np.uint8],
        planes: Mapping[Plane, NDArray[np.uint8]],
        geometry: Geometry,
        extent_mm: tuple[float, float, float],
    ) -> Linked:
        spec = self._spec
        return link(
            smooth,
            planes,
            geometry,
            extent_mm,
            level=level_of(spec.threshold),
            min_lesion_mm=spec.min_lesion_mm,
            min_detection_score=spec.min_detection_score,
        )


class Look:
    """What is to be seen of one region in the other planes, and what has been answered.

    `frames` is the half-open range of frames that its windows need.
    """

    def __init__(
        self,
        region: Region,
        grids: Mapping[Plane, SectionGrid],
        planes: tuple[Plane, ...],
        geometry: Geometry,
        spec: SegmenterSpec,
    ) -> None:
        self.region = region
        self._slices = {plane: _looked_at(region, plane) for plane in planes}
        side = _side(region, planes)
        self.windows = tuple(
            _window(self, grids[plane], self._slices[plane], geometry, spec.size_multiple, side) for plane in planes
        )
        self.frames = _frames(self.windows, grids)
        self._maps = {
            window.plane: np.zeros((len(window.sections), *self._extent(window.plane)), np.uint8)
            for window in self.windows
        }
        self._missing = sum(len(window.sections) for window in self.windows)

    @property
    def complete(self) -> bool:
        """Whether everything has been answered."""
        return self._missing == 0

    def add(self, batch: SectionBatch) -> None:
        """Keep the region's part of a batch's probabilities."""
        plane = batch.plane
        top, left = (
            self.region.low[axis] - corner
            for axis, corner in zip((plane.rows, plane.columns), batch.window.corner, strict=True)
        )
        rows, columns = self._extent(plane)
        self._maps[plane][batch.first : batch.first + batch.count] = batch.probability[
            :, 0, top : top + rows, left : left + columns
        ]
        self._missing -= batch.count

    def answers(self) -> dict[Plane, NDArray[np.uint8]]:
        """What each plane says, uint8 of the region's shape; a slice between takes the nearest one looked at."""
        whole = {}
        for plane, slices in self._slices.items():
            cells = np.arange(self.region.low[plane.normal], self.region.high[plane.normal])
            nearest = np.abs(cells[:, None] - np.array(slices)[None, :]).argmin(axis=1)
            whole[plane] = np.ascontiguousarray(self._maps[plane][nearest].transpose(in_volume(plane)))
        return whole

    def _extent(self, plane: Plane) -> tuple[int, int]:
        return self.region.shape[plane.rows], self.region.shape[plane.columns]


def _looked_at(region: Region, plane: Plane) -> tuple[int, ...]:
    low, high = region.low[plane.normal], region.high[plane.normal]
    return tuple(range(min(low + EVERY_SLICES // 2, high - 1), high, EVERY_SLICES))


def _side(region: Region, planes: tuple[Plane, ...]) -> int | None:
    """The window's side for all planes of a region; None is whole sections."""
    largest = max((region.shape[axis] for plane in planes for axis in (plane.rows, plane.columns)), default=0)
    return next((side for side in WINDOW_SIDES if largest <= side), None)


def _window(
    look: Look, grid: SectionGrid, slices: tuple[int, ...], geometry: Geometry, multiple: int, side: int | None
) -> Window:
    """The window of one plane around a region: moved inside the section, whole along an axis that is no longer."""
    plane = grid.plane
    nearest = np.abs(positions(grid, geometry)[None, :] - np.array(slices)[:, None]).argmin(axis=1)
    whole = padded_shape(grid.shape, multiple)
    shape = whole if side is None else window_shape(whole, side, multiple)
    corner = []
    for axis, size, length in zip((plane.rows, plane.columns), grid.shape, shape, strict=True):
        middle = (look.region.low[axis] + look.region.high[axis]) // 2
        corner.append(min(max(0, middle - length // 2), max(0, size - length)))
    return Window(plane, tuple(nearest.tolist()), (corner[0], corner[1]), shape, look)


def window_shape(section: tuple[int, int], side: int, multiple: int) -> tuple[int, int]:
    """(height, width) of a window of `side` pixels in padded sections of this shape: whole along a shorter axis."""
    height, width = (min(whole, -(-side // multiple) * multiple) for whole in section)
    return height, width


def _frames(windows: tuple[Window, ...], grids: Mapping[Plane, SectionGrid]) -> tuple[int, int]:
    """Half-open range of frames that the pixels of `windows` are made of."""
    first, end = grids[Plane.TRANSVERSE].geometry.shape[0], 0
    for window in windows:
        grid = grids[window.plane]
        along = 0 if window.plane.rows == 0 else 1
        scale = grid.pitch_mm / grid.geometry.spacing_mm[0]
        begin, length = window.corner[along], window.shape[along]
        first = min(first, int(begin * scale) - _FRAME_MARGIN)
        last = grid.geometry.shape[0] if begin + length >= grid.shape[along] else int((begin + length) * scale)
        end = max(end, last + _FRAME_MARGIN)
    return max(0, first), min(grids[Plane.TRANSVERSE].geometry.shape[0], end)

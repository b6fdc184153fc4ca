"""Where policy `confirm` looks: regions around what the transverse sections alone would call a lesion.

Regions are boxes on the section grid. They come out as the sweep goes on and depend on the transverse answers alone,
never on when those arrive: a region is given once nothing that is still to come could touch it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scanside.engine.components import level_of
from scanside.engine.link import Linker
from scanside.engine.support import Smoothing, Support
from scanside.exam.planes import Plane
from scanside.pack.manifest import SegmenterSpec

SCORE_MARGIN = 0.05
"""A candidate's mean transverse probability may be this much below the pack's detection score."""
MARGIN_MM = 4.0
"""What a region holds beyond its candidate on every side, at least."""

Index = tuple[int, int, int]


@dataclass(frozen=True)
class Region:
    """A half-open box on the section grid, in sweep, depth, lateral order; `grown` counts how often it was widened."""

    low: Index
    high: Index
    grown: int = 0

    @property
    def shape(self) -> Index:
        return tuple(b - a for a, b in zip(self.low, self.high, strict=True))  # type: ignore[return-value]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index of an array on the section grid."""
        return tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))  # type: ignore[return-value]

    def touches(self, other: Region) -> bool:
        """Whether the boxes have a cell in common."""
        return all(a < d and c < b for a, b, c, d in zip(self.low, self.high, other.low, other.high, strict=True))

    def joined(self, other: Region) -> Region:
        """The smallest region around both."""
        return Region(
            tuple(map(min, self.low, other.low)),  # type: ignore[arg-type]
            tuple(map(max, self.high, other.high)),  # type: ignore[arg-type]
        )

    def widened(self, below: Index, above: Index, shape: Index) -> Region:
        """Wider by so many cells on each side, inside a grid of `shape`."""
        low = tuple(max(0, a - n) for a, n in zip(self.low, below, strict=True))
        high = tuple(min(size, b + n) for b, n, size in zip(self.high, above, shape, strict=True))
        return replace(self, low=low, high=high)  # type: ignore[arg-type]


def margin_cells(spec: SegmenterSpec) -> int:
    """`MARGIN_MM` in cells of the section grid, but always more than smoothing reaches."""
    return max(math.ceil(MARGIN_MM / spec.pitch_mm), Smoothing(spec.smoothing_mm, spec.pitch_mm).radius + 1)


class Watch:
    """Follows the transverse sections along the sweep and gives regions as soon as they are certain.

    Parameters
    ----------
    support : Support
        Where the transverse answers are gathered.
    spec : SegmenterSpec
        Threshold, smallest lesion, detection score and smoothing.
    """

    def __init__(self, support: Support, spec: SegmenterSpec) -> None:
        self._support = support
        self._shape = support.geometry.shape
        self._margin = margin_cells(spec)
        self._smoothing = Smoothing(spec.smoothing_mm, spec.pitch_mm)
        self._smallest_cells = math.pi / 6 * spec.min_lesion_mm**3 / support.geometry.voxel_mm3 - 1e-9
        self._score = 255 * (spec.min_detection_score - SCORE_MARGIN)
        self._linker = Linker(level_of(spec.threshold))
        self._smooth = np.empty(self._shape, np.float32)
        self._known = self._linked = 0
        self._rows: list[NDArray[np.float64]] = []
        """For each component (low 3, high 3, cells, sum of probability)."""
        self._given: set[int] = set()

    def advance(self, sections: int) -> list[Region]:
        """New regions, when the first `sections` transverse sections have been answered; in sweep order."""
        known = self._support.known(Plane.TRANSVERSE, sections)
        if known > self._known:
            new = self._support.slices(Plane.TRANSVERSE, self._known, known)
            self._smooth[self._known : known] = self._smoothing.in_sections(new)
            self._known = known
        self._link(known if known == self._shape[0] else known - self._smoothing.radius)
        return self._certain()

    def _link(self, end: int) -> None:
        """Link the smoothed sections before `end`."""
        if end <= self._linked:
            return
        radius = self._smoothing.radius
        first, last = max(0, self._linked - radius), min(self._shape[0], end + radius)
        smooth = self._smoothing.along_sweep(self._smooth[first:last].copy())
        for k in range(self._linked, end):
            section = smooth[k - first]
            found = self._linker.add(section)
            (sums,) = found.sums(section)
            for (top, left, bottom, right), cells, total in zip(found.boxes, found.areas, sums, strict=True):
                self._rows.append(np.array([k, top, left, k + 1, bottom, right, cells, total], np.float64))
        self._linked = end

    def _certain(self) -> list[Region]:
        if not self._rows:
            return []
        roots = self._linker.roots()
        objects, owner = np.unique(roots, return_inverse=True)
        table = np.stack(self._rows)
        low, high = np.full((len(objects), 3), np.inf), np.zeros((len(objects), 3))
        np.minimum.at(low, owner, table[:, :3])
        np.maximum.at(high, owner, table[:, 3:6])
        cells, total = (np.bincount(owner, table[:, column]) for column in (6, 7))
        frontier = self._shape[0]
        unfinished = np.zeros(len(objects), bool)
        if self._linked < self._shape[0]:
            unfinished = np.isin(objects, roots[len(roots) - self._linker.open :])
            frontier = int(min(self._linked, low[unfinished, 0].min(initial=np.inf))) - self._margin
        wanted = ~unfinished & (cells >= self._smallest_cells) & (total >= self._score * cells)
        regions: list[tuple[Region, set[int]]] = []
        around = (self._margin,) * 3
        for i in np.flatnonzero(wanted).tolist():
            if objects[i] not in self._given:
                box = Region(tuple(low[i].astype(int).tolist()), tuple(high[i].astype(int).tolist()))
                _add(regions, box.widened(around, around, self._shape), {int(objects[i])})
        # A region that is still open may grow sideways when it is joined with what comes: nothing beside it is certain.
        while (open_ := min((r.low[0] for r, _ in regions if r.high[0] > frontier), default=frontier)) < frontier:
            frontier = open_
        certain = [(region, members) for region, members in regions if region.high[0] <= frontier]
        for _, members in certain:
            self._given |= members
        return sorted((region for region, _ in certain), key=lambda region: (region.low, region.high))


def _add(regions: list[tuple[Region, set[int]]], region: Region, members: set[int]) -> None:
    """Add a region, joined with all it touches, and with what the joined one touches, until nothing touches."""
    for i, (other, theirs) in enumerate(regions):
        if region.touches(other):
            del regions[i]
            _add(regions, region.joined(other), members | theirs)
            return
    regions.append((region, members))

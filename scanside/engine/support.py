"""What the three planes say of every place: their sections' probabilities gathered on one isotropic grid.

The grid's axes are the volume's, its pitch the segmenter's, its corner the volume's corner. A section belongs to the
grid slice that holds its centre; several sections in one slice are averaged, and a slice that no section falls into
takes the nearest one that has any. The planes then vote: the fused probability is the mean over the planes that looked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane, SectionGrid

_EDGE = cv2.BORDER_REPLICATE
_COLUMNS = 8192


def section_geometry(geometry: Geometry, pitch_mm: float) -> Geometry:
    """The isotropic grid of `pitch_mm` over a volume, in the shape its sections have."""
    transverse = SectionGrid.over(geometry, Plane.TRANSVERSE, pitch_mm, pitch_mm)
    coronal = SectionGrid.over(geometry, Plane.CORONAL, pitch_mm, pitch_mm)
    shape = (coronal.shape[0], *transverse.shape)
    return Geometry(shape, (pitch_mm, pitch_mm, pitch_mm), geometry.patient_from_mm)


class Support:
    """Gathers probabilities, section by section, in any order.

    Parameters
    ----------
    grids : mapping of Plane to SectionGrid
        The planes that will be looked at, all of one volume and one pitch.
    """

    def __init__(self, grids: Mapping[Plane, SectionGrid]) -> None:
        first = next(iter(grids.values()))
        self.geometry = section_geometry(first.geometry, first.pitch_mm)
        self._slices = {plane: self._slice_of_section(grid) for plane, grid in grids.items()}
        self._sources = {p: _sources(self._slices[p], self.geometry.shape[p.normal]) for p in grids}
        self._needed = {p: _needed(self._slices[p], self._sources[p]) for p in grids}
        self._counts = {p: np.zeros(self.geometry.shape[p.normal], np.uint32) for p in grids}
        self._sums = {
            plane: np.zeros((len(self._counts[plane]), *grid.shape), _sum_dtype(self._slices[plane]))
            for plane, grid in grids.items()
        }

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes that have given at least one section."""
        return tuple(plane for plane, counts in self._counts.items() if counts.any())

    def add(self, plane: Plane, first: int, probability: NDArray[np.uint8]) -> None:
        """Add sections `first`, `first + 1`, ... of `plane`.

        `probability` is uint8 (sections, height, width); padding beyond the section's shape is ignored.
        """
        sums, counts = self._sums[plane], self._counts[plane]
        rows, columns = sums.shape[1:]
        for s, section in enumerate(probability, start=first):
            k = self._slices[plane][s]
            sums[k] += section[:rows, :columns]
            counts[k] += 1

    def plane(self, plane: Plane) -> NDArray[np.uint8]:
        """What `plane` alone says: uint8 (sweep, depth, lateral) on `geometry`; 0 where it has not looked."""
        mean = self.slices(plane, 0, len(self._counts[plane]))
        return np.ascontiguousarray(mean.transpose(in_volume(plane)))

    def slices(self, plane: Plane, first: int, end: int) -> NDArray[np.uint8]:
        """Grid slices `first` to `end` of what `plane` says, uint8 (end - first, rows, columns)."""
        sums, counts = self._sums[plane], self._counts[plane]
        mean = np.empty((end - first, *sums.shape[1:]), np.uint8)
        for k, source in enumerate(self._sources[plane][first:end].tolist()):
            n = int(counts[source])
            mean[k] = sums[source] if n <= 1 else (sums[source].astype(np.uint32) + n // 2) // n
        return mean

    def known(self, plane: Plane, sections: int) -> int:
        """How many grid slices, from the first on, are final when the first `sections` of `plane` have been added."""
        return int(np.searchsorted(self._needed[plane], sections, side="right"))

    def fused(self, planes: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The mean of several planes' answers, rounded half up."""
        return vote(planes)

    def smoothed(self, fused: NDArray[np.uint8], sigma_mm: float) -> NDArray[np.uint8]:
        """`fused` after a Gaussian of standard deviation `sigma_mm` along all three axes: neighbours vote too.

        Speckle that one section takes for a lesion is outvoted; a faint lesion seen in many sections holds together.
        """
        if sigma_mm == 0:
            return fused
        smoothing = Smoothing(sigma_mm, self.geometry.spacing_mm[0])
        return smoothing.along_sweep(smoothing.in_sections(fused))

    def _slice_of_section(self, grid: SectionGrid) -> list[int]:
        nearest = np.floor(positions(grid, self.geometry) + 0.5)
        return np.clip(nearest, 0, self.geometry.shape[grid.plane.normal] - 1).astype(int).tolist()


def positions(grid: SectionGrid, geometry: Geometry) -> NDArray[np.float64]:
    """Where the sections of `grid` lie along their normal, in fractional slices of the section grid `geometry`."""
    axis = grid.plane.normal
    voxels = np.zeros((len(grid), 3))
    voxels[:, axis] = grid.indices
    return geometry.index_from_mm(grid.geometry.mm_from_index(voxels))[:, axis]


def vote(planes: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The mean of several planes' answers on the same cells, rounded half up."""
    answers = list(planes)
    total = np.zeros(answers[0].shape, np.uint16)
    for answer in answers:
        total += answer
    total += np.uint16(len(answers) // 2)
    total //= np.uint16(len(answers))
    return total.astype(np.uint8)


class Smoothing:
    """The Gaussian of `Support.smoothed` in its two steps, for sections that come one after the other."""

    def __init__(self, sigma_mm: float, pitch_mm: float) -> None:
        self._sigma = sigma_mm / pitch_mm
        self.radius = math.ceil(3 * self._sigma)
        """Cells in each direction that have a say."""
        self._size = 2 * self.radius + 1

    def in_sections(self, sections: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Each section (rows, columns) smoothed by itself."""
        smooth = sections.astype(np.float32)
        if self.radius:
            for section in smooth:
                section[...] = cv2.GaussianBlur(section, (self._size, self._size), self._sigma, borderType=_EDGE)
        return smooth

    def along_sweep(self, sections: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The sections of `in_sections` smoothed across one another, rounded. `sections` is overwritten."""
        flat = sections.reshape(len(sections), -1)
        for first in range(0, flat.shape[1], _COLUMNS) if self.radius else ():
            columns = np.ascontiguousarray(flat[:, first : first + _COLUMNS])
            flat[:, first : first + _COLUMNS] = cv2.GaussianBlur(
                columns, (1, self._size), self._sigma, borderType=_EDGE
            )
        return np.rint(sections).astype(np.uint8)


def in_volume(plane: Plane) -> tuple[int, int, int]:
    """The transposition of (slice, row, column) of `plane` to (sweep, depth, lateral)."""
    a, b, c = np.argsort([plane.normal, plane.rows, plane.columns]).tolist()
    return a, b, c


def _sources(slices: list[int], count: int) -> NDArray[np.intp]:
    """For each of `count` grid slices the nearest one that some section falls into."""
    filled = np.unique(slices)
    return filled[np.abs(np.arange(count)[:, None] - filled[None, :]).argmin(axis=1)]


def _needed(slices: list[int], sources: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each grid slice, how many sections must be there before it and all slices before it are final."""
    last = {k: s + 1 for s, k in enumerate(slices)}
    return np.maximum.accumulate([last[source] for source in sources.tolist()])


def _sum_dtype(slices: list[int]) -> type[np.unsignedinteger]:
    return np.uint16 if np.bincount(slices).max() * 255 <= np.iinfo(np.uint16).max else np.uint32

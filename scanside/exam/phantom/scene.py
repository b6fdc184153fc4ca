"""Everything of a synthetic exam that is fixed before the first frame is drawn, and the drawing of frames."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box, Geometry
from scanside.exam.phantom.anatomy import Anatomy, Raster
from scanside.exam.phantom.descriptors import Population
from scanside.exam.phantom.fields import Image
from scanside.exam.phantom.lesions import Lesion, LesionPainter, draw_lesion
from scanside.exam.phantom.speckle import Acquisition, Beam

_TRIES = 400


@dataclass(frozen=True)
class TruthLesion:
    """What is really there; axes as in report.json (sweep, depth, lateral)."""

    id: int
    box_index: Box
    box_mm: Box
    centroid_mm: tuple[float, float, float]
    malignant: bool
    kind: str
    diameters_mm: tuple[float, float, float]
    volume_mm3: float
    descriptors: dict[str, float | int]


class Scene:
    """One exam's tissue, lesions and beam, on its whole grid or (see `cut`) on a part of every frame."""

    def __init__(
        self,
        seed: int,
        geometry: Geometry,
        lesions: int | None,
        acquisition: Acquisition | None,
        population: Population,
    ) -> None:
        rng = np.random.default_rng([seed, 0])
        self.seed = seed
        self.geometry = geometry
        sweep, depth, lateral = geometry.shape
        # The tissue is drawn at half the resolution of the frame; speckle and truth have all of it.
        coarse = (max(8, (depth + 1) // 2), max(8, (lateral + 1) // 2))
        extent = geometry.extent_mm
        self.raster = Raster.over(extent[1:], coarse)
        self.sweep_mm = (np.arange(sweep) + 0.5) * geometry.spacing_mm[0]
        self.anatomy = Anatomy(rng, extent, self.sweep_mm, self.raster)
        self.nipple_mm = self.anatomy.nipple_mm
        count = int(rng.integers(1, 4)) if lesions is None else lesions
        self.lesions = _place(rng, self.anatomy, geometry, count, population)
        self.painters = [LesionPainter(lesion) for lesion in self.lesions]
        self.beam = Beam(acquisition or Acquisition().drawn(rng), (depth, lateral), geometry.spacing_mm)
        self._inner = np.s_[0:depth, 0:lateral]

    def cut(self, rows: slice, columns: slice) -> Scene:
        """The scene whose frames are `rows` and `columns` of this one's, the same pixels for the same seed.

        Frames need an even number of rows and columns: the tissue is drawn on every second one.
        """
        part = copy.copy(self)
        outer = []
        for inner, reach, n in zip((rows, columns), self.beam.reach, self.beam.shape, strict=True):
            # Wide enough that neither the beam nor the resampling of the tissue sees the cut.
            low, high = inner.start - reach - 4, inner.stop + reach + 4
            outer.append(slice(max(0, low - low % 2), min(n, high + high % 2)))
        coarse = [slice(s.start // 2, s.stop // 2) for s in outer]
        part.raster = self.raster.cut(*coarse)
        part.anatomy = self.anatomy.cut(*coarse)
        part.beam = self.beam.cut(*outer)
        r, c = (slice(i.start - o.start, i.stop - o.start) for i, o in zip((rows, columns), outer, strict=True))
        part._inner = (r, c)
        return part

    def render(self, first: int, last: int, voxels: NDArray[np.uint8]) -> None:
        """Draw frames [first, last) into `voxels` [last - first, rows, columns]."""
        halo, n = self.beam.halo, self.geometry.shape[0]
        window = [self._scatter(k, n) for k in range(first - halo, first + halo)]
        for k in range(first, last):
            window.append(self._scatter(k + halo, n))
            voxels[k - first] = self.beam.picture(window, np.random.default_rng([self.seed, 2, k]))[self._inner]
            window.pop(0)

    def _scatter(self, k: int, n: int) -> Image:
        """Scatterers of frame `k`; beyond the ends the tissue repeats with fresh scatterers."""
        inside = min(max(k, 0), n - 1)
        echo = self.anatomy.echo_db(inside)
        for painter in self.painters:
            painter.paint(echo, float(self.sweep_mm[inside]), self.raster.depth_mm, self.raster.lateral_mm)
        full = np.asarray(cv2.resize(echo, self.beam.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        return self.beam.scatter(np.random.default_rng([self.seed, 1, k + n]), full)

    def body_index(self, lesion: Lesion) -> Box:
        """The index box that holds the lesion's body."""
        return self.geometry.box_index_from_mm(lesion.body_mm(2.0))

    def draw_truth(self, first: int, last: int, mask: NDArray[np.uint8]) -> None:
        """Draw the ids of the lesions of frames [first, last) into `mask` [last - first, depth, lateral]."""
        for painter in self.painters:
            body = self.body_index(painter.lesion)
            (low, r0, c0), (high, r1, c1) = ((int(v) for v in side) for side in (body.min, body.max))
            for k in range(max(first, low), min(last, high)):
                mask[k - first, r0:r1, c0:c1][self._inside(painter, k, (r0, r1), (c0, c1))] = painter.lesion.id

    def body_mask(self, painter: LesionPainter) -> NDArray[np.bool_]:
        """Where the lesion's body is, over `body_index`."""
        body = self.body_index(painter.lesion)
        (low, r0, c0), (high, r1, c1) = ((int(v) for v in side) for side in (body.min, body.max))
        return np.stack([self._inside(painter, k, (r0, r1), (c0, c1)) for k in range(low, high)])

    def _inside(
        self, painter: LesionPainter, k: int, rows: tuple[int, int], columns: tuple[int, int]
    ) -> NDArray[np.bool_]:
        spacing = self.geometry.spacing_mm
        depth = ((np.arange(*rows, dtype=np.float32) + 0.5) * np.float32(spacing[1]))[:, None]
        lateral = ((np.arange(*columns, dtype=np.float32) + 0.5) * np.float32(spacing[2]))[None, :]
        return painter.inside(float(self.sweep_mm[k]), depth, lateral)


def truth_of(lesion: Lesion, mask: NDArray[np.bool_], corner: NDArray[np.int_], geometry: Geometry) -> TruthLesion:
    """What is measured on a lesion's mask, whose first voxel has the index `corner` in `geometry`."""
    points = np.argwhere(mask)
    box = Box(tuple((points.min(0) + corner).tolist()), tuple((points.max(0) + 1 + corner).tolist()))
    box_mm = geometry.box_mm_from_index(box)
    centroid = geometry.mm_from_index(points.mean(0) + corner)
    return TruthLesion(
        lesion.id,
        box,
        box_mm,
        tuple(round(float(c), 4) for c in centroid),  # type: ignore[arg-type]
        lesion.malignant,
        lesion.kind,
        tuple(round(s, 4) for s in box_mm.size),  # type: ignore[arg-type]
        round(len(points) * geometry.voxel_mm3, 3),
        lesion.descriptors.plain(),
    )


def _place(
    rng: np.random.Generator, anatomy: Anatomy, geometry: Geometry, count: int, population: Population
) -> list[Lesion]:
    """Lesions of Table 1's sizes in fat and gland, apart from each other, the borders and unreadable columns."""
    placed: list[Lesion] = []
    extent = geometry.extent_mm
    for _ in range(count):
        malignant = population.draw_malignant(rng)
        size = min(population.draw_size_mm(rng, malignant), 0.6 * min(extent[0], extent[2]), 1.4 * extent[1])
        for attempt in range(_TRIES):
            lesion = draw_lesion(
                rng, len(placed) + 1, malignant, size * (1 - 0.5 * attempt / _TRIES), population.difficulty
            )
            half = lesion.half_mm
            z, x = (float(rng.uniform(half[a] + 1.5, extent[a] - half[a] - 1.5)) if extent[a] > 2 * half[a] + 3
                    else extent[a] / 2 for a in (0, 2))  # fmt: skip
            k = min(int(z / geometry.spacing_mm[0]), geometry.shape[0] - 1)
            column = int(np.argmin(np.abs(anatomy.raster.lateral_mm[0] - x)))
            top = float(anatomy.fat_mm[k, column]) * float(rng.uniform(0.6, 1.0)) + half[1]
            bottom = float(anatomy.muscle_mm[k, column]) - half[1] + 1.0
            y = float(rng.uniform(top, bottom)) if bottom > top else (top + bottom) / 2
            y = max(y, float(anatomy.skin_mm[k, column]) + half[1] + 1.5)
            lesion = replace(lesion, centre_mm=(z, y, x))
            if y + half[1] < extent[1] - 1 and _readable(lesion, anatomy, geometry) and _apart(lesion, placed):
                placed.append(lesion)
                break
    return placed


def _readable(lesion: Lesion, anatomy: Anatomy, geometry: Geometry) -> bool:
    body = lesion.body_mm()
    columns = np.searchsorted(anatomy.raster.lateral_mm[0], (body.min[2], body.max[2]))
    frames = geometry.box_index_from_mm(body)
    low, high = int(frames.min[0]), int(frames.max[0])
    blocked = [anatomy.blocked(k)[columns[0] : columns[1]] for k in range(low, high, max(1, (high - low) // 8))]
    return float(np.mean(blocked)) < 0.1


def _apart(lesion: Lesion, others: list[Lesion]) -> bool:
    """No other lesion within 5 mm of the body, seen from above (so that no shadow falls on a lesion)."""
    mine = lesion.body_mm(1.25)
    return not any(
        all(
            mine.min[a] - 5 < other.body_mm(1.25).max[a] and other.body_mm(1.25).min[a] - 5 < mine.max[a]
            for a in (0, 2)
        )
        for other in others
    )

"""The synthetic ABVS exam: anatomy, lesions and acquisition put together in slabs of frames."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.errors import UsageError
from scanside.exam.geometry import Box, Geometry
from scanside.exam.phantom.anatomy import Anatomy, Raster
from scanside.exam.phantom.fields import Image
from scanside.exam.phantom.lesions import (
    MALIGNANT_SHARE,
    Lesion,
    LesionPainter,
    descriptors_json,
    draw_lesion,
    draw_size_mm,
)
from scanside.exam.phantom.speckle import Acquisition, Beam

STANDARD_SHAPE = (318, 600, 800)
STANDARD_EXTENT_MM = (168.0, 60.0, 154.0)
MAX_LESIONS = 12
_SLAB = 24
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


@dataclass(frozen=True)
class Phantom:
    """A synthetic exam with its truth. `voxels` uint8 and `mask` uint8 (lesion ids) are (sweep, depth, lateral)."""

    seed: int
    voxels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    geometry: Geometry
    truth: tuple[TruthLesion, ...]
    nipple_mm: tuple[float, float, float]


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = STANDARD_SHAPE,
    extent_mm: tuple[float, float, float] = STANDARD_EXTENT_MM,
    lesions: int | None = None,
    acquisition: Acquisition | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Phantom:
    """A synthetic exam of the given (sweep, depth, lateral) shape and size; the same seed gives the same bytes.

    Parameters
    ----------
    seed : int
        Decides everything but the shape.
    lesions : int, optional
        How many lesions; 1 to 3 by the seed when not given. Fewer are made when no more fit without overlap
        outside the nipple's shadow and the contact loss (the paper excludes lesions hidden there).
    acquisition : Acquisition, optional
        The scanner's resolution and gain; drawn around the defaults by the seed when not given.
    progress : callable, optional
        Called with (frames done, frames).

    Raises
    ------
    UsageError
        A shape, extent or count that makes no volume.
    """
    if len(shape) != 3 or min(shape) < 8:
        raise UsageError("a phantom needs at least 8 voxels a side", found=f"shape {shape}")
    if lesions is not None and not 0 <= lesions <= MAX_LESIONS:
        raise UsageError("the lesion count is out of range", expected=f"0 to {MAX_LESIONS}", found=lesions)
    if seed < 0:
        raise UsageError("a seed cannot be negative", found=seed)
    geometry = Geometry(shape, tuple(e / n for e, n in zip(extent_mm, shape, strict=True)))  # type: ignore[arg-type]
    scene = _Scene(seed, geometry, lesions, acquisition)
    voxels = np.empty(shape, np.uint8)
    mask = np.zeros(shape, np.uint8)
    slabs = [(k, min(k + _SLAB, shape[0])) for k in range(0, shape[0], _SLAB)]
    with ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), thread_name_prefix="scanside-phantom") as pool:
        done = 0
        for first, last in pool.map(lambda slab: scene.render(slab[0], slab[1], voxels, mask), slabs):
            done += last - first
            if progress is not None:
                progress(done, shape[0])
    return Phantom(seed, voxels, mask, geometry, _truth(scene.lesions, mask, geometry), scene.nipple_mm)


class _Scene:
    """Everything that is fixed before the first frame is drawn."""

    def __init__(self, seed: int, geometry: Geometry, lesions: int | None, acquisition: Acquisition | None) -> None:
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
        self.lesions = _place(rng, self.anatomy, geometry, count)
        self.painters = [LesionPainter(lesion) for lesion in self.lesions]
        self.beam = Beam(acquisition or _draw_acquisition(rng), (depth, lateral), geometry.spacing_mm)

    def render(self, first: int, last: int, voxels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[int, int]:
        """Draw frames [first, last) into `voxels` and `mask`."""
        halo, n = self.beam.halo, self.geometry.shape[0]
        window = [self._scatter(k, n) for k in range(first - halo, first + halo)]
        for k in range(first, last):
            window.append(self._scatter(k + halo, n))
            voxels[k] = self.beam.picture(window, np.random.default_rng([self.seed, 2, k]))
            window.pop(0)
            self._truth_mask(k, mask[k])
        return first, last

    def _scatter(self, k: int, n: int) -> Image:
        """Scatterers of frame `k`; beyond the ends the tissue repeats with fresh scatterers."""
        inside = min(max(k, 0), n - 1)
        echo = self.anatomy.echo_db(inside)
        for painter in self.painters:
            painter.paint(echo, float(self.sweep_mm[inside]), self.raster.depth_mm, self.raster.lateral_mm)
        full = np.asarray(cv2.resize(echo, self.beam.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        return self.beam.scatter(np.random.default_rng([self.seed, 1, k + n]), full)

    def _truth_mask(self, k: int, frame: NDArray[np.uint8]) -> None:
        z = float(self.sweep_mm[k])
        spacing = self.geometry.spacing_mm
        for painter in self.painters:
            body = self.geometry.box_index_from_mm(painter.lesion.body_mm(2.0))
            if not body.min[0] <= k < body.max[0]:
                continue
            (r0, c0), (r1, c1) = body.min[1:], body.max[1:]
            depth = ((np.arange(r0, r1, dtype=np.float32) + 0.5) * np.float32(spacing[1]))[:, None]
            lateral = ((np.arange(c0, c1, dtype=np.float32) + 0.5) * np.float32(spacing[2]))[None, :]
            frame[r0:r1, c0:c1][painter.inside(z, depth, lateral)] = painter.lesion.id


def _draw_acquisition(rng: np.random.Generator) -> Acquisition:
    base = Acquisition()
    return replace(
        base,
        axial_mm=base.axial_mm * float(rng.uniform(0.85, 1.2)),
        lateral_mm=base.lateral_mm * float(rng.uniform(0.85, 1.25)),
        gain_db=base.gain_db + float(rng.uniform(-4, 4)),
        dynamic_range_db=base.dynamic_range_db + float(rng.uniform(-5, 6)),
        depth_loss_db_per_mm=float(rng.uniform(0.06, 0.2)),
    )


def _place(rng: np.random.Generator, anatomy: Anatomy, geometry: Geometry, count: int) -> list[Lesion]:
    """Lesions of Table 1's sizes in fat and gland, apart from each other, the borders and unreadable columns."""
    placed: list[Lesion] = []
    extent = geometry.extent_mm
    for _ in range(count):
        malignant = bool(rng.random() < MALIGNANT_SHARE)
        size = min(draw_size_mm(rng, malignant), 0.6 * min(extent[0], extent[2]), 1.4 * extent[1])
        for attempt in range(_TRIES):
            lesion = draw_lesion(rng, len(placed) + 1, malignant, size * (1 - 0.5 * attempt / _TRIES))
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


def _truth(lesions: list[Lesion], mask: NDArray[np.uint8], geometry: Geometry) -> tuple[TruthLesion, ...]:
    """Boxes, centroids and volumes measured on the mask itself."""
    truth = []
    for lesion in lesions:
        reach = geometry.box_index_from_mm(lesion.body_mm(2.0))
        low = np.array(reach.min, int)
        window = tuple(slice(int(a), int(b)) for a, b in zip(reach.min, reach.max, strict=True))
        points = np.argwhere(mask[window] == lesion.id)
        if len(points) == 0:
            continue
        box = Box(tuple((points.min(0) + low).tolist()), tuple((points.max(0) + 1 + low).tolist()))
        box_mm = geometry.box_mm_from_index(box)
        centroid = geometry.mm_from_index(points.mean(0) + low)
        truth.append(
            TruthLesion(
                lesion.id,
                box,
                box_mm,
                tuple(round(float(c), 4) for c in centroid),  # type: ignore[arg-type]
                lesion.malignant,
                lesion.kind,
                tuple(round(s, 4) for s in box_mm.size),  # type: ignore[arg-type]
                round(len(points) * geometry.voxel_mm3, 3),
                descriptors_json(lesion),
            )
        )
    return tuple(truth)

"""Multi-planar reformation: sections with square pixels, and crops by a box in mm, in the three planes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import AXES, Box, Geometry
from scanside.exam.volume import Voxels


class Plane(StrEnum):
    """The three section planes. A plane is the axis it fixes; the other two are its rows and columns."""

    TRANSVERSE = "transverse"
    SAGITTAL = "sagittal"
    CORONAL = "coronal"

    @property
    def normal(self) -> int:
        """The volume axis that is fixed in a section (0 sweep, 1 depth, 2 lateral)."""
        return _AXES_OF[self][0]

    @property
    def rows(self) -> int:
        """The volume axis that runs down a section."""
        return _AXES_OF[self][1]

    @property
    def columns(self) -> int:
        """The volume axis that runs across a section."""
        return _AXES_OF[self][2]

    def slice(self, voxels: NDArray, index: int) -> NDArray:
        """The native slice at `index` as a (rows, columns) view."""
        if self is Plane.TRANSVERSE:
            return voxels[index]
        if self is Plane.SAGITTAL:
            return voxels[:, :, index].T
        return voxels[:, index, :]

    @property
    def axis_names(self) -> tuple[str, str, str]:
        """Names of the (normal, rows, columns) axes."""
        return tuple(AXES[a] for a in _AXES_OF[self])  # type: ignore[return-value]


_AXES_OF = {Plane.TRANSVERSE: (0, 1, 2), Plane.SAGITTAL: (2, 1, 0), Plane.CORONAL: (1, 0, 2)}


@dataclass(frozen=True)
class SectionGrid:
    """Where the sections of one plane lie and what their pixels are in mm.

    Section ``s`` is cut from native slice ``indices[s]``; pixel (r, c) covers the square
    ``[r, r + 1) x [c, c + 1) * pitch_mm`` of the plane, from the volume's corner.
    """

    plane: Plane
    geometry: Geometry
    pitch_mm: float
    indices: NDArray[np.intp]
    shape: tuple[int, int]

    @classmethod
    def over(cls, geometry: Geometry, plane: Plane, pitch_mm: float, every_mm: float) -> SectionGrid:
        """Sections every `every_mm` (never closer than the native slices) with square pixels of `pitch_mm`."""
        n_native = geometry.shape[plane.normal]
        native_mm = geometry.spacing_mm[plane.normal]
        count = n_native if native_mm >= every_mm else max(1, round(n_native * native_mm / every_mm))
        centres = (np.arange(count) + 0.5) * (n_native / count)
        indices = np.minimum(centres.astype(np.intp), n_native - 1)
        extent = geometry.extent_mm
        shape = tuple(max(1, round(extent[a] / pitch_mm)) for a in (plane.rows, plane.columns))
        return cls(plane, geometry, float(pitch_mm), indices, shape)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.indices)

    def section(self, voxels: Voxels, s: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Section `s` as uint8, square pixels; written into the top-left corner of `out` when given (rest zero)."""
        return self.section_of(np.ascontiguousarray(self.plane.slice(voxels, int(self.indices[s]))), out)

    def section_of(self, native: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The section of one native slice, C-contiguous (rows, columns); `section` for a caller that has the slice."""
        image = resample(native, self._native_mm(), self.pitch_mm, self.shape)
        if out is None:
            return image
        out[...] = 0
        out[: self.shape[0], : self.shape[1]] = image
        return out

    def _native_mm(self) -> tuple[float, float]:
        return self.geometry.spacing_mm[self.plane.rows], self.geometry.spacing_mm[self.plane.columns]


def resample(
    image: NDArray[np.uint8], native_mm: tuple[float, float], pitch_mm: float, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """`image` with pixels of `native_mm` (row, column) resampled to squares of `pitch_mm`, corner on corner.

    Shrinking averages over the area a pixel covers (no aliasing); growing interpolates. A last row or column that the
    image covers only in part repeats its edge. An axis whose count stays the same is copied (half a pixel off at most).
    """
    fy, fx = native_mm[0] / pitch_mm, native_mm[1] / pitch_mm
    thin = [max(0, math.ceil(1 / f) - n) if round(n * f) < 1 else 0 for n, f in zip(image.shape, (fy, fx), strict=True)]
    if any(thin):  # an image thinner than half a pixel still gives one
        image = np.pad(image, ((0, thin[0]), (0, thin[1])), mode="edge")
    # With no target size OpenCV keeps the exact scale, so pixel (r, c) is exactly at (r + 0.5) * pitch.
    if max(fx, fy) <= 1:
        shrunk = cv2.resize(image, None, fx=fx, fy=fy, interpolation=cv2.INTER_AREA)
    else:  # one axis at a time: a growing axis would switch off averaging on the other
        shrunk = cv2.resize(image, None, fx=1, fy=fy, interpolation=cv2.INTER_AREA if fy <= 1 else cv2.INTER_LINEAR)
        shrunk = cv2.resize(shrunk, None, fx=fx, fy=1, interpolation=cv2.INTER_AREA if fx <= 1 else cv2.INTER_LINEAR)
    rows, columns = shape
    missing = max(0, rows - shrunk.shape[0]), max(0, columns - shrunk.shape[1])
    if any(missing):
        shrunk = np.pad(shrunk, ((0, missing[0]), (0, missing[1])), mode="edge")
    return np.ascontiguousarray(shrunk[:rows, :columns])


@dataclass(frozen=True)
class Crop:
    """A square crop of one plane: the pixels and the mm window they cover.

    `window_mm` is ((row_min, row_max), (column_min, column_max)) in the volume's mm frame, snapped to native voxels;
    what lies outside the volume is black.
    """

    plane: Plane
    index: int
    pixels: NDArray[np.uint8]
    window_mm: tuple[tuple[float, float], tuple[float, float]]


def crop(
    voxels: Voxels, geometry: Geometry, plane: Plane, index: int, box_mm: Box, *, side_mm: float, size: int
) -> Crop:
    """A square window of `side_mm` around the centre of `box_mm` in native slice `index`, resized to `size` pixels.

    Cut at native resolution and only then resized (the paper feeds the lesion's region, not a mask).
    """
    windows, spans = [], []
    for axis in (plane.rows, plane.columns):
        spacing, n = geometry.spacing_mm[axis], geometry.shape[axis]
        centre = box_mm.centre[axis]
        low = round((centre - side_mm / 2) / spacing)
        high = max(low + 1, round((centre + side_mm / 2) / spacing))
        spans.append((low, high, n))
        windows.append((low * spacing, high * spacing))
    (r0, r1, n_rows), (c0, c1, n_columns) = spans
    native = plane.slice(voxels, index)
    inside = native[max(0, r0) : max(0, min(r1, n_rows)), max(0, c0) : max(0, min(c1, n_columns))]
    canvas = np.zeros((r1 - r0, c1 - c0), np.uint8)
    top, left = max(0, -r0), max(0, -c0)
    canvas[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    if (canvas.shape[0] > size) != (canvas.shape[1] > size):  # the shrinking axis alone first, or it is not averaged
        shrinking = (canvas.shape[1], size) if canvas.shape[0] > size else (size, canvas.shape[0])
        canvas = cv2.resize(canvas, shrinking, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    pixels = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return Crop(plane, index, pixels, (windows[0], windows[1]))


MIN_CROP_SIDE_MM = 8.0
FRAMES_SPAN = 0.6


def crop_side_mm(box_mm: Box, plane: Plane, margin: float) -> float:
    """Side in mm of the square crop of a lesion in `plane`: its longer side there times `margin`, at least 8 mm."""
    size = box_mm.size
    return max(MIN_CROP_SIDE_MM, margin * max(size[plane.rows], size[plane.columns]))


def triplet_indices(geometry: Geometry, box_mm: Box, frames: int) -> dict[Plane, tuple[int, ...]]:
    """Native slices of a lesion's triplets: `frames` per plane, paired by order.

    Along each plane's normal the slices lie at the centres of `frames` equal parts of the central 60 % of the box. A
    lesion with fewer slices than `frames` repeats some.
    """
    indices = {}
    for plane in Plane:
        axis = plane.normal
        span = FRAMES_SPAN * box_mm.size[axis]
        low = box_mm.centre[axis] - span / 2
        centres_mm = low + span * (np.arange(frames) + 0.5) / frames
        native = np.floor(centres_mm / geometry.spacing_mm[axis] + 1e-9).astype(int)
        indices[plane] = tuple(np.clip(native, 0, geometry.shape[axis] - 1).tolist())
    return indices

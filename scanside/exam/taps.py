"""What `planes.resample` does along one axis, as weights: for a device that has no OpenCV.

Both axes of a section are resampled apart from one another, so a section is two tables of weights and nothing else.
`resample` stays the reference: summed and rounded in the order that `SectionTaps` says, these give its very pixels, but
for one in many thousands that may be one grey level apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.exam.planes import SectionGrid

_LINEAR_STEPS = 2048
"""OpenCV interpolates 8-bit pixels with weights of so many steps."""
_NO_PART = 1e-3
"""A part of a pixel that OpenCV leaves out of an area."""


@dataclass(frozen=True)
class Taps:
    """Pixel `i` is the sum of `weights[i, t]` times native pixel `first[i] + t`, the last one repeated beyond the end.

    `first` is int32 [pixels], `weights` float32 [pixels, taps], of which some are 0; `native` is the number of native
    pixels. Where the axis `grows`, OpenCV counts in quarters of a grey level: it cuts off what is smaller, and rounds
    the quarters half up.
    """

    first: NDArray[np.int32]
    weights: NDArray[np.float32]
    native: int
    grows: bool

    def needs(self, begin: int, end: int) -> tuple[int, int]:
        """Half-open range of native pixels that the pixels `begin` to `end`, the last not included, are made of."""
        first, used = self.first[begin:end], self.weights[begin:end] != 0
        last = first + used.shape[1] - np.argmax(used[:, ::-1], axis=1)
        return int((first + np.argmax(used, axis=1)).min()), min(self.native, int(last.max()))


@dataclass(frozen=True)
class SectionTaps:
    """Rows and columns of every section of a grid.

    The columns of each row are summed first; or, where `rounded`, the rows of each column, each such sum rounded to
    uint8. If rows grow, every product of theirs is cut off to quarters; if columns grow, their sum is.
    """

    rows: Taps
    columns: Taps
    rounded: bool

    @classmethod
    def of(cls, grid: SectionGrid) -> SectionTaps:
        """The weights of `grid`'s sections."""
        axes = (grid.plane.rows, grid.plane.columns)
        counts = [grid.geometry.shape[axis] for axis in axes]
        factors = [grid.geometry.spacing_mm[axis] / grid.pitch_mm for axis in axes]
        shrinks = max(factors) <= 1
        same = [round(_thickened(n, f) * f) == _thickened(n, f) for n, f in zip(counts, factors, strict=True)]
        copied = [all(same)] * 2 if shrinks else same
        rows, columns = (
            _taps(n, f, size, copy) for n, f, size, copy in zip(counts, factors, grid.shape, copied, strict=True)
        )
        return cls(rows, columns, not shrinks)


def _thickened(native: int, factor: float) -> int:
    """Native pixels after an image thinner than half a pixel has been made thicker by repeating its edge."""
    return native if round(native * factor) >= 1 else max(native, math.ceil(1 / factor))


def _taps(native: int, factor: float, size: int, copied: bool) -> Taps:
    thick = _thickened(native, factor)
    made = thick if copied else round(thick * factor)
    if copied:
        first, weights = np.arange(made), np.ones((made, 1))
    elif factor <= 1:
        first, weights = _area(thick, 1 / factor, made)
    else:
        first, weights = _linear(thick, 1 / factor, made)
    pixel = np.minimum(np.arange(size), made - 1)  # a last pixel that the image covers only in part repeats its edge
    return Taps(first[pixel].astype(np.int32), weights[pixel].astype(np.float32), native, not copied and factor > 1)


def _area(native: int, scale: float, made: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Each pixel the mean over the `scale` native pixels that it covers."""
    begin = np.arange(made) * scale
    end = begin + scale
    cell = np.minimum(scale, native - begin)
    first = np.floor(begin + _NO_PART).astype(np.intp)
    taps = math.ceil(scale) + 1
    at = first[:, None] + np.arange(taps)
    part = np.minimum(at + 1, end[:, None]) - np.maximum(at, begin[:, None])
    part[(part <= _NO_PART) | (at >= native)] = 0
    return first, part / cell[:, None]


def _linear(native: int, scale: float, made: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Each pixel between the two native pixels whose centres are nearest its own."""
    centre = ((np.arange(made) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(centre).astype(np.intp)
    part = np.rint((centre - np.floor(centre)) * _LINEAR_STEPS).astype(np.float64) / _LINEAR_STEPS
    part[(first < 0) | (first >= native - 1)] = 0
    first = np.clip(first, 0, native - 1)
    return first, np.stack([1 - part, part], axis=1)

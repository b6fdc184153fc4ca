"""Smooth random fields, the raw material of the synthetic anatomy."""

from __future__ import annotations

import copy
import math

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def smoothstep(x: Image, low: float, high: float) -> Image:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) * np.float32(1.0 / (high - low)), 0, 1)
    return t * t * (np.float32(3) - np.float32(2) * t)


def surface_field(
    rng: np.random.Generator, extent_mm: tuple[float, float], cell_mm: float, shape: tuple[int, int]
) -> Image:
    """A unit-variance field over the (sweep, lateral) face, on a raster of `shape`."""
    lattice = _lattice(rng, [math.ceil(e / cell_mm) + 3 for e in extent_mm])
    return _magnify(lattice, [cell_mm * n / e for n, e in zip(lattice.shape, extent_mm, strict=True)], shape)


class Field3D:
    """A unit-variance field over the volume, sampled frame by frame on a (depth, lateral) raster.

    `cell_mm` is the lattice step in (sweep, depth, lateral): structures are about twice that size.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        extent_mm: tuple[float, float, float],
        cell_mm: tuple[float, float, float],
        shape: tuple[int, int],
    ) -> None:
        self._cell_sweep = cell_mm[0]
        self._lattice = _lattice(rng, [math.ceil(e / c) + 3 for e, c in zip(extent_mm, cell_mm, strict=True)])
        self._reach = [cell_mm[a] * self._lattice.shape[a] / extent_mm[a] for a in (1, 2)]
        self._shape = shape
        self._part = np.s_[:, :]

    def cut(self, rows: slice, columns: slice) -> Field3D:
        """The same field on a part of its raster."""
        part = copy.copy(self)
        part._part = (rows, columns)
        return part

    def at(self, sweep_mm: float) -> Image:
        """The field in the frame at `sweep_mm`."""
        position = min(max(sweep_mm / self._cell_sweep, 0.0), self._lattice.shape[0] - 2.001)
        k = int(position)
        t = position - k
        t = t * t * (3 - 2 * t)
        # A blend of two independent lattice frames would lose variance half-way.
        scale = 1.0 / math.sqrt(t * t + (1 - t) * (1 - t))
        lattice = self._lattice[k] * np.float32((1 - t) * scale) + self._lattice[k + 1] * np.float32(t * scale)
        return _magnify(lattice, self._reach, self._shape, self._part)


def _lattice(rng: np.random.Generator, counts: list[int]) -> Image:
    return rng.standard_normal(counts, dtype=np.float32)


def _magnify(
    lattice: Image, reach: list[float], shape: tuple[int, int], part: tuple[slice, slice] = np.s_[:, :]
) -> Image:
    """`part` of `lattice` blown up so that 1 / reach of it fills `shape`."""
    rows, columns = (max(n, round(n * r)) for n, r in zip(shape, reach, strict=True))
    big = cv2.resize(lattice, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(big[: shape[0], : shape[1]][part])

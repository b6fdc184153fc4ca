"""Masks against masks: Dice and the 95th percentile Hausdorff distance, with a stated rule for empty masks.

Two empty masks agree: Dice 1, HD95 0. When one alone is empty, Dice is 0 and HD95 is the diagonal of the grid in mm,
the largest distance that can occur: an infinite value would decide every mean, and a dropped case would reward missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.errors import UsageError


def dice(found: ArrayLike, truth: ArrayLike) -> float:
    """Twice the overlap over the sum of both sizes.

    Raises
    ------
    UsageError
        The shapes differ.
    """
    a, b = _masks(found, truth)
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def hd95(found: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """The larger of the two directed 95th percentile surface distances, in mm.

    A mask's surface is its voxels with a face neighbour outside it or the grid; distances are between voxel centres.

    Parameters
    ----------
    found, truth : array of bool
        Two or three dimensions, one shape.
    spacing_mm : sequence of float
        Voxel size, in the axes' order.

    Raises
    ------
    UsageError
        The shapes differ, or the spacing does not fit them.
    """
    from scipy.ndimage import distance_transform_edt

    a, b = _masks(found, truth)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (a.ndim,) or not (spacing > 0).all():
        raise UsageError("the spacing does not fit the masks", expected=f"{a.ndim} sizes in mm", found=spacing_mm)
    if not a.any() or not b.any():
        return 0.0 if a.any() == b.any() else float(np.linalg.norm(np.array(a.shape) * spacing))
    box = _box(a | b)
    surfaces = [_surface(mask[box]) for mask in (a, b)]
    to_truth, to_found = (distance_transform_edt(~surface, sampling=spacing) for surface in surfaces[::-1])
    return float(max(np.percentile(to_truth[surfaces[0]], 95), np.percentile(to_found[surfaces[1]], 95)))


def _masks(found: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(found, dtype=bool), np.asarray(truth, dtype=bool)
    if a.shape != b.shape:
        raise UsageError("the masks have two shapes", expected=b.shape, found=a.shape)
    return a, b


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds the mask."""
    spans = []
    for axis in range(mask.ndim):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        held = np.flatnonzero(mask.any(axis=others))
        spans.append(slice(int(held[0]), int(held[-1]) + 1))
    return tuple(spans)


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)

"""Two-dimensional components of one section's probability map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Components:
    """The connected regions of one section, numbered from 1; row ``i - 1`` of each array belongs to region ``i``.

    `labels` is int32 (rows, columns), 0 where nothing is. `boxes` are half-open (row_min, column_min, row_max,
    column_max), `areas` in pixels.
    """

    labels: NDArray[np.int32]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.areas)

    def sums(self, *values: NDArray) -> tuple[NDArray[np.float64], ...]:
        """For each map of `values`, of the section's shape, its sum over every region."""
        inside = np.flatnonzero(self.labels)
        region = self.labels.ravel()[inside] - 1
        return tuple(np.bincount(region, v.ravel()[inside], minlength=len(self)).astype(np.float64) for v in values)


def level_of(threshold: float) -> int:
    """The smallest uint8 probability that reaches `threshold` (0 to 1)."""
    return math.ceil(threshold * 255 - 1e-9)


def components(probability: NDArray[np.uint8], level: int) -> Components:
    """Regions of pixels with `probability` >= `level`, neighbours touching by a side or a corner.

    Parameters
    ----------
    probability : (rows, columns) uint8
        255 times the probability.
    level : int
        See `level_of`.
    """
    mask = np.greater_equal(probability, level).view(np.uint8)
    _, labels, measured, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
    stats = np.asarray(measured, np.int64)[1:]
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    return Components(
        np.asarray(labels, np.int32), np.stack([top, left, bottom, right], axis=1), stats[:, cv2.CC_STAT_AREA]
    )

"""Magnitudes of a tensor, counted as they stream by: memory stays the same however many values come."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 2048


@dataclass
class Histogram:
    """Counts of magnitudes in `BINS` equal bins over 0 to `limit`, and the extremes.

    A value beyond the limit doubles it, as often as needed, and merges neighbouring bins: counts stay exact.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    limit: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def largest(self) -> float:
        """The largest magnitude seen; 0 when nothing was."""
        return max(-self.low, self.high, 0.0)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.limit / BINS

    def add(self, values: NDArray[np.floating]) -> None:
        """Count the values of one batch.

        Raises
        ------
        ValueError
            A value is not finite.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("NaN or infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))
        if self.limit == 0:  # nothing but zeros so far
            self.counts[0] += values.size
            return
        positions = np.abs(values.reshape(-1)) * np.float32(BINS / self.limit)
        counted = np.bincount(np.minimum(positions.astype(np.int32), BINS - 1), minlength=BINS)
        self.counts += counted

    def _reach(self, magnitude: float) -> None:
        if magnitude > 0 and self.limit == 0:
            self.limit = magnitude
        while magnitude > self.limit:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros(BINS // 2, np.int64)])
            self.limit *= 2

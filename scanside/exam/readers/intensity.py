"""Deeper grey values (16-bit, float) brought to the 8 bits of a volume, and label maps told from images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError

LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
SAMPLE_VOXELS = 4_000_000
_LEAST_BRIGHT = 32


@dataclass(frozen=True, slots=True)
class Window:
    """A linear map of grey values to 8 bits: `low` and below become 0, `high` and above 255.

    `Window(0, 255)` keeps 8-bit values stored in a wider type exactly. Values that are not finite become 0.
    """

    low: float
    high: float

    def to_uint8(self, values: NDArray) -> NDArray[np.uint8]:
        """`values` of any real type and shape as uint8, rounded to the nearest."""
        scaled = np.array(values, dtype=np.float64)
        np.nan_to_num(scaled, copy=False, nan=self.low, posinf=self.low, neginf=self.low)
        scaled -= self.low
        scaled *= 255.0 / (self.high - self.low)
        np.rint(scaled, out=scaled)
        np.clip(scaled, 0, 255, out=scaled)
        return scaled.astype(np.uint8)

    def warning(self, dtype: object) -> str:
        """What the reader of the report is told."""
        if (self.low, self.high) == (0.0, 255.0):
            return f"{dtype} values stored as 8 bits: 0 to 255 kept, rounded"
        return f"{dtype} values windowed to 8 bits: {self.low:g} to {self.high:g} became 0 to 255"


def choose_window(frames: Iterable[NDArray], n_voxels: int, *, where: str) -> Window:
    """The window of a volume, from one pass over its frames; no more than one frame is held.

    Values that all lie within 0 to 255, and reach at least 32, are 8-bit values in a wider type: they are kept. All
    others are windowed from their 0.1th to their 99.9th percentile (of an evenly spaced sample of 4 million voxels),
    so that a few extreme voxels do not darken the rest.

    Raises
    ------
    ExamReadError
        A label map, a volume of one single value, or one with no finite value.
    """
    stride = max(1, n_voxels // SAMPLE_VOXELS)
    samples: list[NDArray] = []
    low, high, whole = np.inf, -np.inf, True
    for frame in frames:
        finite = frame if frame.dtype.kind in "iu" else frame[np.isfinite(frame)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            whole = whole and (finite.dtype.kind in "iu" or bool((finite == np.rint(finite)).all()))
            samples.append(finite.ravel()[::stride].astype(np.float64))
    if not np.isfinite(low):
        raise ExamReadError("the volume has no finite value", where=where)
    if low >= 0 and high == 1 and whole:
        raise label_map_error(where)
    if low >= 0 and _LEAST_BRIGHT <= high <= 255:
        return Window(0.0, 255.0)
    bottom, top = np.percentile(np.concatenate(samples), [LOW_PERCENTILE, HIGH_PERCENTILE])
    if not top > bottom:
        bottom, top = low, high
    if not top > bottom:
        raise ExamReadError("every voxel has the same value", where=where, found=f"{low:g}")
    return Window(float(bottom), float(top))


def label_map_error(where: str) -> ExamReadError:
    """The refusal of a mask that was offered as an exam."""
    return ExamReadError(
        "this is a label map, not an exam",
        where=where,
        expected="grey values",
        found="only the values 0 and 1",
        remedy="give the image the mask belongs to",
    )

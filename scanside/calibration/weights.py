"""Weights in 8 bits: symmetric, one scale an output channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scanside.errors import EngineError

LEVELS = 127


def quantize_channels(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`weight` as int8 and a scale per slice along `axis`; a slice of zeros gets scale 1.

    Raises
    ------
    EngineError
        The weight holds NaN or infinity.
    """
    scale = channel_scales(weight, axis)
    shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
    return np.clip(np.rint(weight / scale.reshape(shape)), -LEVELS, LEVELS).astype(np.int8), scale


def channel_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The scale per slice along `axis` that maps its largest magnitude to 127.

    Raises
    ------
    EngineError
        The weight holds NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise EngineError("a weight is not finite", expected="finite weights", found="NaN or infinity")
    peak = np.abs(weight).max(axis=tuple(a for a in range(weight.ndim) if a != axis))
    scale = np.where(peak > 0, peak / LEVELS, 1).astype(np.float32)
    return np.maximum(scale, np.finfo(np.float32).tiny)

"""From a histogram of magnitudes to the largest one that 8 bits shall hold: `amax`. What is larger is clipped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scanside.calibration.histogram import Histogram
from scanside.calibration.weights import LEVELS

PERCENTILE = 99.99
_ENTROPY_LEVELS = 128
_ENTROPY_STRIDE = 8
_MSE_CANDIDATES = 256


def minmax(histogram: Histogram) -> float:
    """The largest magnitude seen: nothing is clipped."""
    return histogram.largest


def percentile(histogram: Histogram, share: float = PERCENTILE) -> float:
    """The upper edge of the bin below which `share` percent of the magnitudes lie; never above the largest seen."""
    counts = histogram.counts
    below = np.cumsum(counts)
    bin_ = int(np.searchsorted(below, share / 100 * below[-1]))
    return min((bin_ + 1) * histogram.width, histogram.largest)


def mse(histogram: Histogram) -> float:
    """The limit with the least mean squared error of rounding and clipping, every value at its bin's centre."""
    filled = np.flatnonzero(histogram.counts)
    if histogram.largest == 0:
        return 0.0
    values = (filled + 0.5) * histogram.width
    weights = histogram.counts[filled].astype(np.float64)
    candidates = histogram.largest * np.arange(1, _MSE_CANDIDATES + 1) / _MSE_CANDIDATES
    steps = candidates[:, None] / LEVELS
    restored = np.minimum(np.rint(values / steps), LEVELS) * steps
    errors = ((restored - values) ** 2 * weights).sum(axis=1)
    return float(candidates[int(errors.argmin())])


def entropy(histogram: Histogram) -> float:
    """The limit that keeps most information: least Kullback-Leibler divergence of the rounded distribution.

    As TensorRT's entropy calibration defined it (Migacz, GTC 2017): for each limit the magnitudes beyond it join the
    last bin, the bins below are gathered in 128 levels and spread again over those that were not empty. The first bin,
    which holds the exact zeros of a ReLU, counts as its neighbour does.
    """
    counts = histogram.counts.astype(np.float64)
    if histogram.largest == 0:
        return 0.0
    counts[0] = counts[1]
    filled = np.flatnonzero(counts)
    end = int(filled[-1]) + 1 if len(filled) else 1
    if end <= _ENTROPY_LEVELS:
        return histogram.largest
    best, chosen = np.inf, end
    for size in (*range(_ENTROPY_LEVELS, end, _ENTROPY_STRIDE), end):
        divergence = _divergence(counts[:end], size)
        if divergence < best:
            best, chosen = divergence, size
    return min(chosen * histogram.width, histogram.largest)


def _divergence(counts: NDArray[np.float64], size: int) -> float:
    """KL divergence of `counts` cut at `size` bins from what 128 levels leave of it."""
    reference = counts[:size].copy()
    filled = reference > 0
    starts = np.arange(_ENTROPY_LEVELS) * size // _ENTROPY_LEVELS
    sums = np.add.reduceat(reference, starts)
    nonzero = np.add.reduceat(filled.astype(np.float64), starts)
    level = np.repeat(sums / np.maximum(nonzero, 1), np.diff([*starts, size]))
    rounded = np.where(filled, level, 0)
    reference[-1] += counts[size:].sum()
    seen = reference > 0
    if (rounded[seen] == 0).any():
        return float(np.inf)
    p, q = reference[seen] / reference.sum(), rounded[seen] / rounded.sum()
    return float((p * np.log(p / q)).sum())


ESTIMATORS: dict[str, Callable[[Histogram], float]] = {
    "minmax": minmax,
    "entropy": entropy,
    "percentile": percentile,
    "mse": mse,
}
"""By the name that `--method` takes and the ranges file records."""

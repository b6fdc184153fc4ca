"""Histograms that grow and the four estimators, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanside.calibration.estimators import ESTIMATORS, entropy, minmax, mse, percentile
from scanside.calibration.histogram import BINS, Histogram


def counted(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def normal(n: int = 20000, sd: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sd, n).astype(np.float32)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), decades=st.lists(st.integers(-5, 5), min_size=1, max_size=6))
def test_growing_loses_no_count_and_no_extreme(seed: int, decades: list[int]) -> None:
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(0, 1, 50) * 10.0**d * (rng.random(50) > 0.3)).astype(np.float32) for d in decades]
    histogram = counted(*batches)
    values = np.concatenate(batches)
    assert histogram.total == values.size
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.largest == np.abs(values).max()
    # Whatever the order in which the limit grew, a value is within a bin of where it belongs.
    edges = np.arange(1, BINS) * histogram.width
    below = np.searchsorted(np.sort(np.abs(values)), edges)
    nudged = histogram.width * 1e-3
    fewest = (np.abs(values)[None] < edges[:: BINS // 16, None] - nudged).sum(axis=1)
    assert (np.cumsum(histogram.counts)[:-1][:: BINS // 16] >= fewest).all()
    assert abs(int(np.cumsum(histogram.counts)[BINS // 2 - 1]) - int(below[BINS // 2 - 1])) <= 2


def test_zeros_then_values() -> None:
    histogram = counted(np.zeros(10, np.float32), np.array([0.5, -2.0], np.float32), np.array([], np.float32))
    assert (histogram.total, histogram.low, histogram.high, histogram.limit) == (12, -2.0, 0.5, 2.0)
    assert histogram.counts[0] == 10


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        Histogram().add(np.array([1, bad], np.float32))


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_a_tensor_of_zeros_has_no_range(name: str) -> None:
    assert ESTIMATORS[name](counted(np.zeros(100, np.float32))) == 0


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@settings(deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 500), decades=st.integers(-4, 4))
def test_no_estimate_exceeds_what_was_seen(name: str, seed: int, size: int, decades: int) -> None:
    histogram = counted(normal(size, 10.0**decades, seed))
    assert 0 < ESTIMATORS[name](histogram) <= histogram.largest


def test_minmax_is_the_largest_magnitude() -> None:
    assert minmax(counted(np.array([-3, 2], np.float32), np.array([1], np.float32))) == 3


@pytest.mark.parametrize("share", [50.0, 99.0, 99.99])
def test_percentile_is_numpy_s_within_a_bin(share: float) -> None:
    values = normal()
    found = percentile(counted(values), share)
    assert abs(found - np.percentile(np.abs(values), share)) <= 2 * counted(values).width


def rounding_error(values: np.ndarray, amax: float) -> float:
    step = amax / 127
    return float(np.mean((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2))


@pytest.mark.parametrize("tail", [0, 5])
def test_mse_is_the_least_error_by_brute_force(tail: int) -> None:
    values = np.concatenate([normal(), normal(tail, 8.0, 1)])
    found = mse(counted(values))
    candidates = np.abs(values).max() * np.arange(1, 257) / 256
    best = min(rounding_error(values, c) for c in candidates)
    assert rounding_error(values, found) <= 1.02 * best


def kl_by_loops(counts: list[float], size: int) -> float:
    """The definition, one bin at a time."""
    reference = counts[:size]
    spread = [0.0] * size
    for level in range(128):
        bins = range(level * size // 128, (level + 1) * size // 128)
        filled = [b for b in bins if reference[b] > 0]
        for b in filled:
            spread[b] = sum(reference[b] for b in bins) / len(filled)
    reference = [*reference[:-1], reference[-1] + sum(counts[size:])]
    if any(r > 0 and s == 0 for r, s in zip(reference, spread, strict=True)):
        return np.inf
    p, q = np.array(reference) / sum(reference), np.array(spread) / sum(spread)
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


@pytest.mark.parametrize("seed", [0, 1])
def test_entropy_is_the_least_divergence_by_brute_force(seed: int) -> None:
    values = np.concatenate([normal(5000, 1.0, seed), normal(20, 5.0, seed)])
    histogram = counted(np.maximum(values, 0))
    counts = histogram.counts.astype(float).tolist()
    counts[0] = counts[1]
    end = max(i for i, c in enumerate(counts) if c) + 1
    sizes = [*range(128, end, 8), end]
    divergences = [kl_by_loops(counts[:end], size) for size in sizes]
    best = sizes[int(np.argmin(divergences))]
    assert entropy(histogram) == pytest.approx(min(best * histogram.width, histogram.largest))


def test_entropy_cuts_a_lonely_outlier() -> None:
    values = np.append(normal(100000), np.float32(60))
    assert entropy(counted(values)) < 10

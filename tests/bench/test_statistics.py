"""Percentiles and their intervals against scipy and against distributions whose percentiles are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from scanside.bench.statistics import (
    Spread,
    interval_ranks,
    percentile,
    repetitions_for,
    require_repetitions,
)
from scanside.errors import UsageError


@given(st.integers(1, 99), st.integers(0, 600))
def test_the_interval_is_the_narrowest_of_95_percent(percent: int, more: int) -> None:
    p, n = percent / 100, repetitions_for(percent) + more
    low, high = interval_ranks(n, p)
    assert binom.cdf(low - 1, n, p) <= 0.025 + 1e-9  # P(fewer than `low` lie below the percentile)
    assert binom.sf(high - 1, n, p) <= 0.025 + 1e-9
    assert binom.cdf(low, n, p) > 0.025 - 1e-9  # one rank further in would be too narrow
    assert binom.sf(high - 2, n, p) > 0.025 - 1e-9


@pytest.mark.parametrize(("percent", "needed"), [(50, 6), (90, 36), (95, 72), (99, 368), (10, 36)])
def test_the_repetitions_a_percentile_needs(percent: float, needed: int) -> None:
    assert repetitions_for(percent) == needed
    percentile(range(needed), percent)
    with pytest.raises(UsageError, match=rf"{percent}th percentile.*at least {needed}.*--repetitions {needed}"):
        percentile(range(needed - 1), percent)


def test_all_percentiles_are_required_before_anything_runs() -> None:
    require_repetitions(36, [50, 90])
    with pytest.raises(UsageError, match="99th"):
        require_repetitions(36, [50, 90, 99])


@pytest.mark.parametrize("percent", [0, 100, -5, 250])
def test_what_is_no_percentile(percent: float) -> None:
    with pytest.raises(UsageError, match="not a percentile"):
        percentile([1.0] * 1000, percent)


@given(st.lists(st.floats(0, 1e6), min_size=36, max_size=200), st.sampled_from([10, 50, 90]))
def test_the_value_is_the_inverted_cdf_and_lies_in_its_interval(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found.value == np.percentile(values, percent, method="inverted_cdf")
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("percent", [50, 90, 95])
def test_the_interval_covers_the_true_percentile_of_skewed_latencies(percent: float) -> None:
    rng = np.random.default_rng(5)
    truth = float(np.quantile(rng.lognormal(0, 0.5, 2_000_000), percent / 100))
    trials = [percentile(rng.lognormal(0, 0.5, 100), percent) for _ in range(1000)]
    covered = sum(t.low <= truth <= t.high for t in trials) / len(trials)
    assert 0.94 <= covered <= 0.99  # at least 95 % but for chance; ranks are whole, so a little more


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)

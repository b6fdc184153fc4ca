"""McNemar, paired t and Holm, against statsmodels, scipy and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from scanside.errors import UsageError
from scanside.evaluation.paired import (
    clustered_mcnemar,
    compare_right,
    holm,
    holm_by_family,
    mcnemar,
    mcnemar_from_counts,
    paired_t,
)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels(b: int, c: int) -> None:
    found = mcnemar_from_counts(b, c)
    table = [[10, b], [c, 10]]
    assert found.p_exact == pytest.approx(min(1, reference_mcnemar(table, exact=True).pvalue), abs=1e-9)
    if b != c:  # statsmodels corrects a difference of 0 too, to 1
        reference = reference_mcnemar(table, exact=False, correction=True)
        assert (found.statistic, found.p_asymptotic) == pytest.approx((reference.statistic, reference.pvalue), abs=1e-9)


def test_mcnemar_by_hand() -> None:
    """Of 8 discordant cases 7 for the first: 2 * (1 + 8) / 256."""
    first = np.array([True] * 7 + [False] + [True] * 5)
    second = np.array([False] * 7 + [True] + [True] * 5)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (7, 1)
    assert found.p_exact == pytest.approx(18 / 256)
    assert found.statistic == pytest.approx(25 / 8)


def test_equal_raters_do_not_differ() -> None:
    found = mcnemar([True, False, True], [True, False, True])
    assert (found.p_exact, found.statistic, found.p_asymptotic) == (1, 0, 1)


def test_as_many_either_way_do_not_differ() -> None:
    found = mcnemar_from_counts(3, 3)
    assert (found.p_exact, found.statistic, found.p_asymptotic) == (1, 0, 1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_clusters_of_one_are_mcnemar_without_correction(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(values) for values in zip(*pairs, strict=True))
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    found = clustered_mcnemar(first, second, np.arange(len(pairs)))
    if b + c:
        reference = reference_mcnemar([[0, b], [c, 0]], exact=False, correction=False)
        assert (found.statistic, found.p) == pytest.approx((reference.statistic, reference.pvalue), abs=1e-9)
    else:
        assert (found.statistic, found.p) == (0, 1)


def test_durkalski_by_hand() -> None:
    """Clusters of 2, 1, 3 and 1 with net changes 2, 1, -1 and 0: shares 1, 1, -1/3, 0."""
    first = [True, True, True, False, True, True, True]
    second = [False, False, False, True, True, True, True]
    found = clustered_mcnemar(first, second, [1, 1, 2, 3, 3, 3, 4])
    assert found.statistic == pytest.approx((5 / 3) ** 2 / (1 + 1 + 1 / 9))
    assert found.difference == pytest.approx(2 / 7)


def test_answers_written_twice_count_once() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(50) < 0.8, rng.random(50) < 0.6
    once = clustered_mcnemar(first, second, np.arange(50))
    twice = clustered_mcnemar(np.tile(first, 2), np.tile(second, 2), np.tile(np.arange(50), 2))
    assert twice.p == pytest.approx(once.p)


def test_the_test_that_fits() -> None:
    first, second = np.array([True] * 6), np.array([False] * 5 + [True])
    alone = compare_right(first, second, np.arange(6))
    assert (alone.method, alone.p) == ("McNemar, exact", 2 / 32)
    pooled = compare_right(first, second, np.array([1, 1, 2, 2, 3, 3]))
    assert "Durkalski" in pooled.method
    assert pooled.p == clustered_mcnemar(first, second, [1, 1, 2, 2, 3, 3]).p
    assert alone.difference == pooled.difference == pytest.approx(5 / 6)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=30))
def test_the_paired_t_test_is_scipy_s(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(values) for values in zip(*pairs, strict=True))
    if np.ptp(a - b) < 1e-6:
        return
    found, reference = paired_t(a, b), ttest_rel(a, b)
    assert (found.t, found.p) == pytest.approx((reference.statistic, reference.pvalue), rel=1e-6, abs=1e-9)
    limits = reference.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((limits.low, limits.high), rel=1e-6, abs=1e-6)


def test_differences_without_spread() -> None:
    assert paired_t([1, 2, 3], [1, 2, 3]).p == 1
    assert math.isnan(paired_t([2, 3, 4], [1, 2, 3]).p)


def test_too_few_pairs() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        paired_t([1.0], [2.0])
    with pytest.raises(UsageError, match="no paired t-test"):
        paired_t([1.0, 2.0], [2.0])


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_is_statsmodels(p: list[float]) -> None:
    reference = multipletests(p, method="holm")[1] if p else []
    assert holm(p) == pytest.approx(list(reference), abs=1e-12)


def test_holm_by_hand_and_around_tests_that_were_not_possible() -> None:
    assert holm([0.01, math.nan, 0.04, 0.03])[::2] == pytest.approx([0.03, 0.06])
    assert math.isnan(holm([0.01, math.nan])[1])


def test_families_are_corrected_apart() -> None:
    assert holm_by_family([0.01, 0.02, 0.03], ["a", "b", "a"]) == pytest.approx([0.02, 0.02, 0.03])


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="different cases"):
        mcnemar([True], [True, False])
    with pytest.raises(UsageError, match="clusters do not fit"):
        clustered_mcnemar([True, False], [True, False], [1])

"""Confusion matrices and their intervals, against statsmodels, scipy and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from scanside.errors import UsageError
from scanside.evaluation.diagnosis import (
    Confusion,
    Proportion,
    clopper_pearson,
    clustered_wilson,
    confusion,
    proportion_interval,
    wilson,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_and_clopper_pearson_are_statsmodels(kn: tuple[int, int], confidence: float) -> None:
    k, n = kn
    share = Proportion(k, n)
    for interval, method in ((share.wilson(confidence), "wilson"), (share.clopper_pearson(confidence), "beta")):
        low, high = proportion_confint(k, n, 1 - confidence, method)
        assert interval.low == pytest.approx(max(0, low), abs=1e-9)
        assert interval.high == pytest.approx(min(1, high), abs=1e-9)


def test_the_exact_interval_is_scipy_s_too() -> None:
    found = Proportion(53, 54).clopper_pearson()
    reference = binomtest(53, 54).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert found.method == "Clopper-Pearson"


def test_the_paper_s_sensitivity_by_hand() -> None:
    interval = Proportion(53, 54).wilson()
    assert (round(interval.low, 3), round(interval.high, 3)) == (0.902, 0.997)
    assert interval.method == "Wilson"


@given(counts)
def test_an_interval_holds_its_estimate(kn: tuple[int, int]) -> None:
    share = Proportion(*kn)
    assert share.estimate in share.wilson()
    assert share.estimate in share.clopper_pearson()


@given(counts)
def test_swapping_success_and_failure_mirrors_the_interval(kn: tuple[int, int]) -> None:
    k, n = kn
    for method in (wilson, clopper_pearson):
        (low, high), (mirrored_low, mirrored_high) = method(k, n), method(n - k, n)
        assert float(low) == pytest.approx(1 - float(mirrored_high), abs=1e-9)
        assert float(high) == pytest.approx(1 - float(mirrored_low), abs=1e-9)


def test_nothing_to_count() -> None:
    share = Proportion(0, 0)
    assert math.isnan(share.estimate)
    assert (share.wilson().low, share.wilson().high) == (0, 1)
    assert (share.clopper_pearson().low, share.clopper_pearson().high) == (0, 1)


@pytest.mark.parametrize("k", [0, 1])
def test_one_case(k: int) -> None:
    interval = Proportion(k, 1).clopper_pearson()
    assert (interval.low, interval.high) == pytest.approx((0.0, 0.975) if k == 0 else (0.025, 1.0))


def test_no_proportion() -> None:
    with pytest.raises(UsageError, match="numerator <= denominator"):
        Proportion(3, 2)


def test_a_confusion_matrix_by_hand() -> None:
    truth = [True, True, True, False, False, False, False]
    called = [True, True, False, True, False, False, False]
    c = confusion(truth, called)
    assert c == Confusion(tp=2, fn=1, tn=3, fp=1)
    assert [share.estimate for share in c.proportions.values()] == [2 / 3, 3 / 4, 2 / 3, 3 / 4, 5 / 7]
    assert c.f1 == pytest.approx(2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3))
    assert (c + c).n == 14


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_swapping_the_classes_swaps_sensitivity_and_specificity(pairs: list[tuple[bool, bool]]) -> None:
    truth, called = (np.array(values) for values in zip(*pairs, strict=True))
    here, there = confusion(truth, called), confusion(~truth, ~called)
    assert (here.sensitivity, here.ppv) == (there.specificity, there.npv)
    assert here.accuracy == there.accuracy


def test_nothing_positive_has_no_f1() -> None:
    assert math.isnan(confusion([False, False], [False, False]).f1)


def test_calls_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="do not fit the cases"):
        confusion([True, False], [True])


def test_identical_answers_of_a_cluster_count_once() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(80) < 0.8
    cluster = np.arange(80)
    once, thrice = clustered_wilson(hits, cluster), clustered_wilson(np.repeat(hits, 3), np.repeat(cluster, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_one_answer_a_cluster_is_nearly_wilson() -> None:
    hits = np.arange(200) < 150
    clustered, plain = clustered_wilson(hits, np.arange(200)), Proportion(150, 200).wilson()
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high), abs=1e-3)


def test_answers_all_alike_count_their_clusters() -> None:
    interval = clustered_wilson(np.ones(30, bool), np.repeat(np.arange(10), 3))
    assert (interval.low, interval.high) == pytest.approx((Proportion(10, 10).wilson().low, 1.0))


def test_nothing_in_clusters() -> None:
    assert (clustered_wilson([], []).low, clustered_wilson([], []).high) == (0, 1)


def test_clusters_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="do not fit the answers"):
        clustered_wilson([True, False], [1])


def test_the_interval_that_fits() -> None:
    hits = np.array([True, True, False, True])
    assert proportion_interval(hits, np.arange(4)).method == "Wilson"
    assert "cluster" in proportion_interval(hits, np.array([1, 1, 2, 3])).method

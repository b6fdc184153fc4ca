"""ROC, AUC and DeLong, against scikit-learn, brute force over all pairs, and hand-worked cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from scanside.errors import UsageError
from scanside.evaluation.errors import CohortError
from scanside.evaluation.roc import (
    Auc,
    auc,
    delong,
    hanley_mcneil,
    paired_delong,
    roc_curve,
    unpaired_delong,
)

# Few different scores: ties within and between the classes.
cohorts = st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6)), min_size=6, max_size=40).filter(
    lambda rows: 2 <= sum(row[0] for row in rows) <= len(rows) - 2
)


def columns(rows: list[tuple[bool, int, int]]) -> tuple[NDArray, NDArray, NDArray]:
    truth, first, second = (np.array(values) for values in zip(*rows, strict=True))
    return truth.astype(bool), first / 6, second / 6


def kernel(truth: NDArray, score: NDArray) -> NDArray:
    """[malignant, benign]: 1 where the malignant case is higher, a half for ties."""
    a, b = score[truth][:, None], score[~truth][None, :]
    return (a > b) + 0.5 * (a == b)


def brute_covariance(truth: NDArray, first: NDArray, second: NDArray) -> float:
    """DeLong's covariance of two areas from the whole matrix of pairs."""
    a, b = kernel(truth, first), kernel(truth, second)
    m, n = a.shape
    over_malignant = np.cov(a.mean(axis=1), b.mean(axis=1), ddof=1)[0, 1]
    over_benign = np.cov(a.mean(axis=0), b.mean(axis=0), ddof=1)[0, 1]
    return float(over_malignant / m + over_benign / n)


@given(cohorts)
def test_the_area_is_scikit_learn_s(rows: list[tuple[bool, int, int]]) -> None:
    truth, score, _ = columns(rows)
    assert auc(truth, score) == pytest.approx(metrics.roc_auc_score(truth, score), abs=1e-12)


@given(cohorts)
def test_the_curve_is_scikit_learn_s(rows: list[tuple[bool, int, int]]) -> None:
    truth, score, _ = columns(rows)
    curve = roc_curve(truth, score)
    false, true, thresholds = metrics.roc_curve(truth, score, drop_intermediate=False)
    assert np.allclose(curve.false_positive_rate, false)
    assert np.allclose(curve.sensitivity, true)
    assert np.allclose(curve.threshold[1:], thresholds[1:])
    assert np.trapezoid(curve.sensitivity, curve.false_positive_rate) == pytest.approx(auc(truth, score))


@given(cohorts)
def test_delong_is_brute_force(rows: list[tuple[bool, int, int]]) -> None:
    truth, first, second = columns(rows)
    found = delong(truth, first)
    assert found.auc == pytest.approx(kernel(truth, first).mean(), abs=1e-12)
    assert found.se**2 == pytest.approx(brute_covariance(truth, first, first), abs=1e-12)
    variance = sum(brute_covariance(truth, a, a) for a in (first, second)) - 2 * brute_covariance(truth, first, second)
    assert paired_delong(truth, first, second).se ** 2 == pytest.approx(max(0, variance), abs=1e-12)


def test_delong_by_hand() -> None:
    """Malignant 0.9, 0.4; benign 0.5, 0.1: three of four pairs; components 1, 1/2 and 1/2, 1."""
    found = delong([True, True, False, False], [0.9, 0.4, 0.5, 0.1])
    assert found.auc == 0.75
    assert found.se**2 == pytest.approx(0.125 / 2 + 0.125 / 2)


@given(cohorts)
def test_swapping_labels_or_scores_mirrors_the_area(rows: list[tuple[bool, int, int]]) -> None:
    truth, score, _ = columns(rows)
    found, swapped, reversed_ = delong(truth, score), delong(~truth, score), delong(truth, -score)
    for other in (swapped, reversed_):
        assert other.auc == pytest.approx(1 - found.auc, abs=1e-12)
        assert other.se == pytest.approx(found.se, abs=1e-9)


@given(cohorts)
def test_only_the_order_counts(rows: list[tuple[bool, int, int]]) -> None:
    truth, score, _ = columns(rows)
    found, moved = delong(truth, score), delong(truth, np.exp(3 * score) - 7)
    assert (moved.auc, moved.se) == pytest.approx((found.auc, found.se), abs=1e-12)


@given(cohorts, st.randoms())
def test_the_order_of_the_cases_does_not_count(rows: list[tuple[bool, int, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = (delong(*columns(r)[:2]) for r in (rows, shuffled))
    assert (a.auc, a.se) == pytest.approx((b.auc, b.se), abs=1e-9)


def test_all_ties_say_nothing() -> None:
    found = delong([True, True, False, False], [0.5] * 4)
    assert (found.auc, found.se) == (0.5, 0)


def test_a_perfect_ranking_has_no_variance_and_says_so() -> None:
    interval = delong([True, True, False, False], [0.9, 0.8, 0.2, 0.1]).interval()
    assert (interval.low, interval.high) == (1, 1)
    assert "no variance" in interval.method


def test_intervals_by_hand() -> None:
    area = Auc(0.9, 0.03, 50, 50, "DeLong")
    half = 1.959963985 * 0.03 / (0.9 * 0.1)
    low, high = (1 / (1 + math.exp(-(math.log(9) + s * half))) for s in (-1, 1))
    assert (area.interval().low, area.interval().high) == pytest.approx((low, high), abs=1e-9)
    assert (area.wald().low, area.wald().high) == pytest.approx((0.9 - 0.0587989, 0.9 + 0.0587989), abs=1e-6)
    assert (area.interval().method, area.wald().method) == ("DeLong, logit", "DeLong, Wald")
    assert Auc(0.99, 0.03, 50, 50, "DeLong").wald().high == 1


def test_a_classifier_does_not_differ_from_itself() -> None:
    rng = np.random.default_rng(1)
    truth, score = rng.random(50) < 0.5, rng.random(50)
    same = paired_delong(truth, score, score)
    assert (same.difference, same.z, same.p) == (0, 0, 1)


def test_a_difference_without_variance_has_no_p() -> None:
    found = paired_delong([True, True, False, False], [0.9, 0.8, 0.2, 0.1], [0.5] * 4)
    assert found.difference == 0.5
    assert math.isnan(found.p)


def test_the_paired_test_is_antisymmetric() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random(80) < 0.5
    a, b = rng.random(80) + truth, rng.random(80) + 0.3 * truth
    one, other = paired_delong(truth, a, b), paired_delong(truth, b, a)
    assert one.difference == -other.difference
    assert one.p == other.p
    assert one.p < 0.05


def test_unpaired_areas() -> None:
    found = unpaired_delong(Auc(0.9, 0.03, 9, 9, "DeLong"), Auc(0.8, 0.04, 9, 9, "DeLong"))
    assert found.se == pytest.approx(0.05)
    assert found.z == pytest.approx(2)
    assert found.p == pytest.approx(0.0455003, abs=1e-6)


@given(cohorts)
def test_patients_of_one_lesion_change_nothing(rows: list[tuple[bool, int, int]]) -> None:
    truth, score, _ = columns(rows)
    plain, by_patient = delong(truth, score), delong(truth, score, np.arange(len(truth)) * 7 % 1009)
    assert by_patient.se == pytest.approx(plain.se, abs=1e-12)
    assert by_patient.method == "DeLong"


def brute_obuchowski(truth: NDArray, score: NDArray, patient: NDArray) -> float:
    """Obuchowski (1997), formula by formula over patients."""
    pairs = kernel(truth, score)
    area = pairs.mean()
    m, n = pairs.shape
    who = [list(np.unique(patient)), list(np.unique(patient[truth])), list(np.unique(patient[~truth]))]
    x, y = pairs.mean(axis=1) - area, pairs.mean(axis=0) - area
    sums_x = {p: x[patient[truth] == p].sum() for p in who[0]}
    sums_y = {p: y[patient[~truth] == p].sum() for p in who[0]}
    i, i10, i01 = (len(w) for w in who)
    s10 = i10 / ((i10 - 1) * m) * sum(v**2 for v in sums_x.values())
    s01 = i01 / ((i01 - 1) * n) * sum(v**2 for v in sums_y.values())
    s11 = i / (i - 1) * sum(sums_x[p] * sums_y[p] for p in who[0])
    return float(s10 / m + s01 / n + 2 * s11 / (m * n))


@settings(max_examples=50)
@given(cohorts, st.integers(0, 1000))
def test_clustered_delong_is_obuchowski(rows: list[tuple[bool, int, int]], seed: int) -> None:
    truth, score, _ = columns(rows)
    patient = np.random.default_rng(seed).integers(0, len(rows) // 2 + 2, len(rows))
    if min(len(np.unique(patient[truth])), len(np.unique(patient[~truth]))) < 2:
        return
    expected = max(0.0, brute_obuchowski(truth, score, patient))
    assert delong(truth, score, patient).se ** 2 == pytest.approx(expected, abs=1e-10)


def test_lesions_written_twice_count_once() -> None:
    rng = np.random.default_rng(3)
    truth = np.arange(60) < 30
    score = rng.random(60) + 0.5 * truth
    twice = delong(np.repeat(truth, 2), np.repeat(score, 2), np.repeat(np.arange(60), 2))
    assert twice.se == pytest.approx(delong(truth, score).se, abs=1e-12)
    assert twice.method == "DeLong clustered by patient (Obuchowski)"


def test_hanley_and_mcneil_by_counting_triples() -> None:
    rng = np.random.default_rng(4)
    truth = np.arange(23) < 11
    score = rng.integers(0, 4, 23) + truth
    a, b = score[truth], score[~truth]

    def chance(single: NDArray, many: NDArray, sign: int) -> float:
        """That both of two (with replacement) beat one; among k equal ones the single is last with chance 1/k."""
        total = 0.0
        for s, x, y in itertools.product(single * sign, many * sign, many * sign):
            above, equal = int(x > s) + int(y > s), int(x == s) + int(y == s)
            total += (above + equal == 2) / (1 + equal)
        return total / (len(single) * len(many) ** 2)

    area = kernel(truth, score).mean()
    q1, q2 = chance(b, a, 1), chance(a, b, -1)
    variance = (area * (1 - area) + 10 * (q1 - area**2) + 11 * (q2 - area**2)) / (11 * 12)
    found = hanley_mcneil(truth, score)
    assert found.auc == pytest.approx(area)
    assert found.se == pytest.approx(math.sqrt(variance))


@pytest.mark.parametrize("judge", [auc, roc_curve, delong, hanley_mcneil])
def test_one_class_is_an_error(judge: object) -> None:
    with pytest.raises(CohortError, match=r"one class only.*found 3 malignant and 0 benign"):
        judge([True] * 3, [0.1, 0.2, 0.3])  # type: ignore[operator]


@pytest.mark.parametrize("judge", [auc, roc_curve, delong])
def test_a_single_case_is_an_error(judge: object) -> None:
    with pytest.raises(CohortError, match="one class only"):
        judge([False], [0.1])  # type: ignore[operator]


def test_one_case_of_a_class_has_an_area_but_no_variance() -> None:
    truth, score = [True, False, False], [0.3, 0.2, 0.6]
    assert auc(truth, score) == 0.5
    with pytest.raises(CohortError, match="at least 2 malignant and 2 benign"):
        delong(truth, score)


def test_two_lesions_of_one_patient_are_no_sample() -> None:
    with pytest.raises(CohortError, match="of different patients"):
        delong([True, True, False, False], [0.9, 0.8, 0.2, 0.3], ["a", "a", "b", "c"])


def test_nan_is_an_error() -> None:
    with pytest.raises(CohortError, match="NaN; found 1 of 4"):
        delong([True, True, False, False], [0.9, math.nan, 0.2, 0.3])


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="do not fit the cases"):
        auc([True, False], [0.1])
    with pytest.raises(UsageError, match="patients do not fit"):
        delong([True, True, False, False], [0.9, 0.8, 0.2, 0.3], [1, 2])

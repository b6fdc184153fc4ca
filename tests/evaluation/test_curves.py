"""Decision curves against dcurves and by hand; calibration against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from scanside.evaluation.curves import calibration, decision_curve
from scanside.evaluation.errors import CohortError

TRUTH = np.arange(40) < 16
# fmt: off
PROBABILITY = np.array([
    0.6493, 0.8593, 0.7983, 0.7953, 0.9743, 0.4093, 0.5253, 0.3863, 0.6283, 0.8503, 0.6463, 0.7493, 0.2683, 0.6793,
    0.4693, 0.9993, 0.5273, 0.5403, 0.3383, 0.4733, 0.4823, 0.2813, 0.2513, 0.3273, 0.2293, 0.2313, 0.2933, 0.2043,
    0.5033, 0.0313, 0.5153, 0.2253, 0.2413, 0.0803, 0.3213, 0.3003, 0.3883, 0.2433, 0.3693, 0.7143,
])
# fmt: on
DCURVES = {  # threshold: model, treat all; dcurves 1.1.7 on these 40 cases
    0.05: (0.369737, 0.368421),
    0.15: (0.302941, 0.294118),
    0.25: (0.266667, 0.200000),
    0.35: (0.253846, 0.076923),
    0.45: (0.181818, -0.090909),
    0.55: (0.244444, -0.333333),
    0.65: (0.153571, -0.714286),
    0.75: (0.150000, -1.400000),
    0.85: (0.100000, -3.000000),
    0.95: (0.050000, -11.000000),
}


def test_decision_curves_are_dcurves() -> None:
    curve = decision_curve(TRUTH, PROBABILITY, list(DCURVES))
    assert curve.net_benefit == pytest.approx([row[0] for row in DCURVES.values()], abs=1e-6)
    assert curve.treat_all == pytest.approx([row[1] for row in DCURVES.values()], abs=1e-6)
    assert (curve.treat_none == 0).all()
    assert curve.prevalence == 0.4


scores = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=50).filter(
    lambda rows: len({row[0] for row in rows}) == 2
)


@given(scores)
def test_net_benefit_by_counting(rows: list[tuple[bool, int]]) -> None:
    truth, probability = (np.array(values) for values in zip(*rows, strict=True))
    curve = decision_curve(truth, probability / 20)
    for pt, found in zip(curve.threshold, curve.net_benefit, strict=True):
        called = probability / 20 > pt
        expected = ((called & truth).sum() - (called & ~truth).sum() * pt / (1 - pt)) / len(truth)
        assert found == pytest.approx(expected)


def test_a_perfect_model_is_worth_the_prevalence_everywhere() -> None:
    curve = decision_curve(TRUTH, TRUTH.astype(float))
    assert curve.net_benefit == pytest.approx(np.full(99, 0.4))


def test_calling_everything_is_treating_all() -> None:
    curve = decision_curve(TRUTH, np.ones(40))
    assert curve.net_benefit == pytest.approx(curve.treat_all)


@given(scores)
def test_brier_is_scikit_learn_s(rows: list[tuple[bool, int]]) -> None:
    truth, probability = (np.array(values) for values in zip(*rows, strict=True))
    assert calibration(truth, probability / 20).brier == pytest.approx(brier_score_loss(truth, probability / 20))


def test_the_reliability_curve_is_scikit_learn_s() -> None:
    observed, predicted = calibration_curve(TRUTH, PROBABILITY, n_bins=10)
    found = calibration(TRUTH, PROBABILITY)
    assert found.observed == pytest.approx(observed)
    assert found.predicted == pytest.approx(predicted)
    assert found.count.sum() == 40
    assert (found.low <= found.observed).all()
    assert (found.observed <= found.high).all()


def test_saying_the_prevalence_is_worth_nothing() -> None:
    found = calibration(TRUTH, np.full(40, 0.4))
    assert found.brier == pytest.approx(0.24)
    assert found.scaled_brier == pytest.approx(0)
    assert calibration(TRUTH, TRUTH.astype(float)).scaled_brier == 1


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    assert calibration([True, False], [1.0, 0.95]).count.tolist() == [2]


def test_one_class_is_an_error() -> None:
    with pytest.raises(CohortError, match="one class"):
        decision_curve([True, True], [0.1, 0.2])
    with pytest.raises(CohortError, match="one class"):
        calibration([True, True], [0.1, 0.2])

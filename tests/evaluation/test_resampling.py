"""The bootstrap: what is drawn, and weighted statistics against literally repeated cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanside.evaluation import resampling
from scanside.evaluation.diagnosis import confusion
from scanside.evaluation.resampling import Bootstrap, percentile_interval, weighted_accuracy, weighted_auc
from scanside.evaluation.roc import auc

TRUTH = np.array([True, True, True, False, False, False, False, True, False, True])
PATIENT = np.array(["a", "a", "b", "c", "d", "d", "e", "f", "f", "g"])
"""f has one lesion of each class."""


def drawn(rounds: int = 300, seed: int = 0) -> np.ndarray:
    return Bootstrap(TRUTH, PATIENT, rounds, seed).values(lambda weights: weights.astype(float))


def test_a_patient_s_lesions_are_drawn_together() -> None:
    weights = drawn()
    for name in "adf":
        ours = weights[:, name == PATIENT]
        assert (ours == ours[:, :1]).all()
    assert (weights[:, 0] != weights[:, 2]).any()


def test_each_stratum_keeps_its_number_of_patients() -> None:
    weights = drawn()
    first = [int(np.argmax(name == PATIENT)) for name in "abcdefg"]
    by_patient = weights[:, first]
    assert (by_patient[:, [0, 1, 6]].sum(axis=1) == 3).all()  # malignant only
    assert (by_patient[:, [2, 3, 4]].sum(axis=1) == 3).all()  # benign only
    assert (by_patient[:, 5] == 1).all()  # both


def test_every_patient_is_drawn_once_on_average() -> None:
    assert drawn(4000).mean(axis=0) == pytest.approx(np.ones(10), abs=0.06)


def test_the_seed_decides() -> None:
    assert (drawn(seed=3) == drawn(seed=3)).all()
    assert (drawn(seed=3) != drawn(seed=4)).any()


def test_chunks_do_not_change_how_many_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_CHUNK", 70)
    assert drawn(25).shape == (25, 10)


scores = st.lists(st.integers(0, 4), min_size=10, max_size=10)


@given(scores, st.integers(0, 99))
def test_a_weight_is_a_repetition(score: list[int], seed: int) -> None:
    values = np.array(score) / 4
    weights = drawn(3, seed)
    areas = weighted_auc(TRUTH, values)(weights.astype(np.float32))
    metrics = weighted_accuracy(TRUTH, values > 0.5)(weights.astype(np.float32))
    for row, area, found in zip(weights.astype(int), areas, metrics, strict=True):
        truth, repeated = np.repeat(TRUTH, row), np.repeat(values, row)
        assert area == pytest.approx(auc(truth, repeated))
        c = confusion(truth, repeated > 0.5)
        expected = [share.estimate for share in c.proportions.values()]
        assert found == pytest.approx([*expected, c.f1], nan_ok=True)


def test_percentiles_by_hand() -> None:
    values = np.append(np.arange(101) / 100, np.nan)
    interval = percentile_interval(values)
    assert (interval.low, interval.high) == pytest.approx((0.025, 0.975))
    assert "bootstrap" in interval.method
    assert np.isnan(percentile_interval(np.array([np.nan])).low)

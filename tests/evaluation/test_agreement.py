"""Cohen's and Fleiss' kappa, against statsmodels and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from statsmodels.stats import inter_rater

from scanside.errors import UsageError
from scanside.evaluation.agreement import (
    Kappa,
    cohen_kappa,
    cohen_kappa_from_table,
    fleiss_kappa,
    fleiss_kappa_resampled,
)

tables = st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(lambda t: (t[0] + t[1]) * (t[2] + t[3]) > 0)


@given(tables)
def test_cohen_s_kappa_is_statsmodels(counts: list[int]) -> None:
    table = np.array(counts).reshape(2, 2)
    found, reference = cohen_kappa_from_table(table), inter_rater.cohens_kappa(table)
    assert found.kappa == pytest.approx(reference.kappa, abs=1e-9)
    if reference.var_kappa < 1e-12:  # rounding below 0 makes statsmodels' limits NaN
        assert found.se == pytest.approx(0, abs=1e-6)
        return
    assert found.se == pytest.approx(math.sqrt(reference.var_kappa), abs=1e-7)
    interval = found.interval()
    assert interval.low == pytest.approx(max(-1, reference.kappa_low), abs=1e-6)
    assert interval.high == pytest.approx(min(1, reference.kappa_upp), abs=1e-6)


def test_three_classes_too() -> None:
    table = np.array([[20, 5, 1], [4, 15, 6], [0, 3, 12]])
    found, reference = cohen_kappa_from_table(table), inter_rater.cohens_kappa(table)
    assert (found.kappa, found.se) == pytest.approx((reference.kappa, reference.std_kappa), abs=1e-9)


def test_cohen_s_kappa_by_hand() -> None:
    """20 + 15 of 50 alike, 0.5 by chance: (0.7 - 0.5) / 0.5."""
    first = np.repeat([True, True, False, False], [20, 5, 10, 15])
    second = np.repeat([True, False, True, False], [20, 5, 10, 15])
    assert cohen_kappa(first, second).kappa == pytest.approx(0.4)


def test_raters_who_always_say_the_same_class() -> None:
    found = cohen_kappa([True, True], [True, True])
    assert math.isnan(found.kappa)
    assert found.words == "not defined"


def test_agreement_is_symmetric_and_perfect_with_oneself() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(60) < 0.5, rng.random(60) < 0.5
    assert cohen_kappa(a, b).kappa == pytest.approx(cohen_kappa(b, a).kappa)
    assert cohen_kappa(a, a).kappa == pytest.approx(1)
    assert cohen_kappa(a, a).se == pytest.approx(0, abs=1e-9)
    assert cohen_kappa(a, ~a).kappa < 0


@pytest.mark.parametrize(
    ("kappa", "words"),
    [(-0.1, "poor"), (0.1, "slight"), (0.4, "fair"), (0.79, "substantial"), (0.81, "almost perfect")],
)
def test_landis_and_koch(kappa: float, words: str) -> None:
    assert Kappa(kappa, 0.1, "").words == words


def drawn(seed: int, cases: int = 25, raters: int = 4) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    return rng.random((cases, raters)) < rng.random((cases, 1))


@given(st.integers(0, 300), st.integers(2, 7))
def test_fleiss_kappa_is_statsmodels(seed: int, raters: int) -> None:
    calls = drawn(seed, raters=raters)
    counts = np.stack([(~calls).sum(axis=1), calls.sum(axis=1)], axis=1)
    assert fleiss_kappa(calls) == pytest.approx(inter_rater.fleiss_kappa(counts, method="fleiss"), abs=1e-9)


def test_weights_are_repeated_cases() -> None:
    calls = drawn(1)
    weights = np.random.default_rng(2).integers(0, 4, (6, len(calls)))
    repeated = [fleiss_kappa(np.repeat(calls, row, axis=0)) for row in weights]
    assert fleiss_kappa_resampled(calls, weights) == pytest.approx(repeated, abs=1e-9)


def test_all_alike_have_no_fleiss_kappa() -> None:
    assert math.isnan(fleiss_kappa(np.ones((5, 3), bool)))


def test_no_agreement_of_one() -> None:
    with pytest.raises(UsageError, match="2 or more"):
        fleiss_kappa([[True], [False]])
    with pytest.raises(UsageError, match="different cases"):
        cohen_kappa([True], [True, False])

"""The tests of Table 1, against scipy and hand-worked cases."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scanside.errors import UsageError
from scanside.evaluation.groups import compare_categories, compare_means, fisher_exact, size_class

cells = st.integers(0, 25)


@given(st.tuples(cells, cells, cells, cells))
def test_fisher_is_scipy_s(counts: tuple[int, int, int, int]) -> None:
    table = np.array(counts).reshape(2, 2)
    assert fisher_exact(table) == pytest.approx(stats.fisher_exact(table).pvalue, abs=1e-6)


@given(st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_three_categories_by_counting_every_table(counts: list[int]) -> None:
    table = np.array(counts).reshape(3, 2)
    rows, first = table.sum(axis=1), int(table[:, 0].sum())

    def ways(column: tuple[int, ...]) -> int:
        return math.prod(math.comb(int(n), k) for n, k in zip(rows, column, strict=True))

    every = [c for c in product(*(range(int(n) + 1) for n in rows)) if sum(c) == first]
    here = ways(tuple(table[:, 0].tolist()))
    expected = sum(ways(c) for c in every if ways(c) <= here) / math.comb(int(rows.sum()), first)
    assert fisher_exact(table) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(12, 90), min_size=4, max_size=8).filter(lambda c: len(c) % 2 == 0))
def test_chi_square_is_scipy_s(counts: list[int]) -> None:
    table = np.array(counts).reshape(-1, 2)
    reference = stats.chi2_contingency(table, correction=False)
    found = compare_categories(table)
    if reference.expected_freq.min() >= 5:
        assert found.name == "chi-square"
        assert (found.statistic, found.p) == pytest.approx((reference.statistic, reference.pvalue), abs=1e-9)


def test_small_expected_counts_are_tested_exactly() -> None:
    found = compare_categories([[3, 1], [1, 3]])
    assert (found.name, found.p) == ("Fisher's exact", pytest.approx(0.4857142857))


def test_categories_that_nobody_has_are_left_out() -> None:
    assert compare_categories([[30, 20], [0, 0], [25, 30]]) == compare_categories([[30, 20], [25, 30]])


@pytest.mark.parametrize("counts", [[[5, 6]], [[0, 3], [0, 4]], [[5, 6], [0, 0]]])
def test_nothing_to_compare(counts: list[list[int]]) -> None:
    found = compare_categories(counts)
    assert found.name == "not possible"
    assert math.isnan(found.p)


def test_no_table() -> None:
    with pytest.raises(UsageError, match="counts"):
        compare_categories([1, 2, 3])
    with pytest.raises(UsageError, match="2 or 3"):
        fisher_exact(np.ones((4, 2), int))


numbers = st.lists(st.floats(0, 100), min_size=2, max_size=20)


@given(numbers, numbers)
def test_means_are_scipy_s_welch(a: list[float], b: list[float]) -> None:
    if np.var(a) + np.var(b) < 1e-6:
        return
    found, reference = compare_means([*a, math.nan], b), stats.ttest_ind(a, b, equal_var=False)
    assert (found.statistic, found.p) == pytest.approx((reference.statistic, reference.pvalue), rel=1e-6, abs=1e-9)


def test_means_that_cannot_be_compared() -> None:
    assert compare_means([1.0], [2.0, 3.0]).name == "not possible"
    assert compare_means([1.0, 1.0], [2.0, 2.0]).name == "not possible"


def test_size_classes_have_the_paper_s_borders() -> None:
    assert size_class([4, 19.9, 20, 50, 50.1, 130, math.nan]).tolist() == [0, 0, 1, 1, 2, 2, -1]

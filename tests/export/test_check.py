"""Comparison of answers: units, Dice, and that a NaN is never averaged away."""

from __future__ import annotations

import numpy as np
import pytest

from scanside.errors import EngineError
from scanside.export.check import compare


def test_uint8_answers_are_compared_as_probabilities_without_wrapping() -> None:
    found, expected = [np.array([[0, 255, 100, 100]], np.uint8)], [np.array([[255, 255, 100, 151]], np.uint8)]
    check = compare("segmenter", "a", "b", found, expected, threshold=0.5)
    assert (check.items, check.max_error) == (1, 1.0)
    assert check.mean_error == pytest.approx((1 + 0.2) / 4)
    assert check.dice == pytest.approx(2 * 1 / (1 + 3))


def test_two_empty_maps_agree_and_no_threshold_gives_no_dice() -> None:
    empty = [np.zeros((2, 4), np.uint8)]
    assert compare("segmenter", "a", "b", empty, empty, threshold=0.5).dice == 1.0
    assert compare("classifier", "a", "b", [np.array([0.25])], [np.array([0.5])]).dice is None


@pytest.mark.parametrize(("found", "message"), [([np.array([np.nan])], "NaN"), ([np.zeros(2)], "shape"), ([], "shape")])
def test_answers_that_cannot_be_compared_are_errors(found: list, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        compare("classifier", "a", "b", found, [np.array([0.5])])

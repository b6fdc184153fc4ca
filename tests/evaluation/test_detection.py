"""FROC by hand and by counting, sensitivity by size class, and DETECTIONS.csv."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanside.errors import UsageError
from scanside.evaluation.detection import (
    FALSE_POSITIVE_RATES,
    Detections,
    froc,
    froc_intervals,
    read_detections,
    sensitivity_by_size,
)
from scanside.evaluation.diagnosis import Proportion
from scanside.evaluation.errors import CohortError

FOUR = """volume,lesion,score,size_mm
A,1,0.9,12
A,2,,30
A,,0.5,
B,1,0.4,
B,,0.95,
C,,,
D,,0.2,
"""


def detections(lesions: list[tuple[int, float]], false: list[tuple[int, float]], n: int) -> Detections:
    volume, score = (np.array(v) for v in zip(*lesions, strict=True))
    where, high = (np.array(v) for v in zip(*false, strict=True)) if false else (np.array([], int), np.array([]))
    return Detections(n, volume, score.astype(float), np.full(len(score), np.nan), where, high)


@pytest.fixture
def four(tmp_path: Path) -> Detections:
    path = tmp_path / "detections.csv"
    path.write_text(FOUR)
    return read_detections(path)


def test_the_table_is_read(four: Detections) -> None:
    assert four.n_volumes == 4
    assert four.lesion_volume.tolist() == [0, 0, 1]
    assert four.lesion_score.tolist() == [0.9, -math.inf, 0.4]
    assert four.lesion_size_mm[:2].tolist() == [12, 30]
    assert math.isnan(four.lesion_size_mm[2])
    assert list(zip(four.false_volume.tolist(), four.false_score.tolist(), strict=True)) == [
        (0, 0.5),
        (1, 0.95),
        (3, 0.2),
    ]


def test_froc_by_hand(four: Detections) -> None:
    curve = froc(four)
    assert curve.threshold.tolist() == [math.inf, 0.95, 0.9, 0.5, 0.4, 0.2]
    assert curve.false_positives_per_volume.tolist() == [0, 0.25, 0.25, 0.5, 0.5, 0.75]
    assert curve.sensitivity == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert [curve.sensitivity_at(r) for r in (0.125, 0.25, 0.5, 8)] == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3])
    assert curve.mean_sensitivity == pytest.approx((0 + 1 / 3 + 5 * 2 / 3) / 7)


hits = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=15)
alarms = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=15)


@given(hits, alarms)
def test_every_point_counts_what_reaches_its_threshold(lesions: list, false: list) -> None:
    d = detections(lesions, false, 5)
    curve = froc(d)
    for t, rate, share in zip(curve.threshold, curve.false_positives_per_volume, curve.sensitivity, strict=True):
        assert share == pytest.approx(np.mean(d.lesion_score >= t))
        assert rate == pytest.approx(np.sum(d.false_score >= t) / 5)
    assert (np.diff(curve.sensitivity) >= 0).all()


@given(hits, alarms)
def test_a_volume_weight_is_a_repetition(lesions: list, false: list) -> None:
    d = detections(lesions, false, 5)
    twice = froc(d, np.full(5, 2))
    assert twice.sensitivity == pytest.approx(froc(d).sensitivity)
    assert twice.false_positives_per_volume == pytest.approx(froc(d).false_positives_per_volume)


def test_intervals_hold_the_estimates() -> None:
    rng = np.random.default_rng(0)
    lesions = [(int(v), float(s)) for v, s in zip(rng.integers(0, 30, 60), rng.random(60), strict=True)]
    false = [(int(v), float(s)) for v, s in zip(rng.integers(0, 30, 50), 0.7 * rng.random(50), strict=True)]
    d = detections(lesions, false, 30)
    found = froc_intervals(d, 300, 1)
    assert len(found) == len(FALSE_POSITIVE_RATES) + 1
    for rate in FALSE_POSITIVE_RATES:
        assert froc(d).sensitivity_at(rate) in found[rate]


def test_sensitivity_by_size() -> None:
    found = sensitivity_by_size([5, 19.9, 20, 50, 51, math.nan], [True, False, True, True, False, True])
    assert list(found.values()) == [Proportion(1, 2), Proportion(2, 2), Proportion(0, 1)]
    with pytest.raises(UsageError, match="do not fit"):
        sensitivity_by_size([1.0], [True, False])


def test_no_true_lesion(tmp_path: Path) -> None:
    path = tmp_path / "detections.csv"
    path.write_text("volume,lesion,score\nA,,0.5\n")
    with pytest.raises(CohortError, match="no true lesion"):
        read_detections(path)
    with pytest.raises(CohortError, match="no FROC curve"):
        froc(detections([(0, 0.5)], [], 2), [0, 1])


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("A,1,0.7,5", r"row 9: the lesion is there twice; found that of row 2 again"),
        ("A,3,high,5", r"row 9: the score makes no sense; .* found 'high'"),
        ("A,3,nan,5", r"row 9: the score makes no sense"),
        ("A,3,0.5,-2", r"row 9: the size_mm makes no sense"),
        (",3,0.5,2", r"row 9: the volume is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, text: str) -> None:
    path = tmp_path / "detections.csv"
    path.write_text(FOUR + row + "\n")
    with pytest.raises(CohortError, match=text):
        read_detections(path)


def test_detections_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="out of range"):
        detections([(3, 0.5)], [], 2)
    with pytest.raises(UsageError, match="do not fit together"):
        Detections(1, np.array([0]), np.array([0.5, 0.6]), np.array([1.0]), np.array([], int), np.array([]))
    with pytest.raises(CohortError, match="NaN"):
        detections([(0, math.nan)], [], 2)

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanside.errors import ExamReadError
from scanside.evaluation.matching import MIN_IOU, iou_3d, load_truth, match_truth
from scanside.exam.geometry import Box


@dataclass(frozen=True)
class Ball:
    """A lesion, found or known."""

    id: int
    box_mm: Box
    centroid_mm: tuple[float, float, float]
    malignant: bool = False
    probability: float = 0.25


def cube(number, low, side=10.0, **rest):
    low = (low, low, low) if isinstance(low, int | float) else low
    box = Box(tuple(float(v) for v in low), tuple(float(v + side) for v in low))
    return Ball(number, box, box.centre, **rest)


def test_iou_of_boxes():
    a = Box((0, 0, 0), (2, 2, 2))
    assert iou_3d(a, a) == 1
    assert iou_3d(a, Box((1, 0, 0), (3, 2, 2))) == pytest.approx(1 / 3)
    assert iou_3d(a, Box((2, 0, 0), (4, 2, 2))) == 0
    assert iou_3d(Box((0, 0, 0), (0, 0, 0)), Box((0, 0, 0), (0, 0, 0))) == 0


def test_found_missed_and_false_positive():
    truth = [cube(1, 0, malignant=True), cube(2, 50)]
    report = [cube(5, 100), cube(7, (1, 2, 2), malignant=True, probability=0.9)]
    matches = match_truth(report, truth)
    hit, miss = matches.truth
    assert (hit.truth_id, hit.found, hit.lesion_id, hit.probability) == (1, True, 7, 0.9)
    assert (hit.malignant, hit.called_malignant) == (True, True)
    assert hit.centroid_error_mm == pytest.approx(3.0)
    assert (miss.truth_id, miss.found, miss.lesion_id, miss.centroid_error_mm) == (2, False, None, None)
    assert matches.false_positives == (5,)
    assert (matches.n_truth, matches.n_found, matches.n_false_positives, matches.n_called_right) == (2, 1, 1, 1)


def test_centroid_inside_is_enough_and_half_open():
    tiny = Ball(1, Box((4, 4, 4), (5, 5, 5)), (4.5, 4.5, 4.5))
    assert match_truth([tiny], [cube(1, 0)]).n_found == 1
    at_end = Ball(1, Box((9.5, 4, 4), (10.5, 5, 5)), (10.0, 4.5, 4.5))
    assert match_truth([at_end], [cube(1, 0)]).n_found == 0


def test_overlap_is_enough_without_the_centroid():
    huge = Ball(1, Box((0, 0, 0), (10, 10, 40)), (5, 5, 20))
    truth = cube(1, 0)
    assert iou_3d(huge.box_mm, truth.box_mm) == pytest.approx(0.25)
    assert match_truth([huge], [truth]).n_found == 1
    huger = Ball(1, Box((0, 0, 0), (10, 10, 60)), (5, 5, 30))
    assert iou_3d(huger.box_mm, truth.box_mm) < MIN_IOU
    assert match_truth([huger], [truth]).n_found == 0


def test_a_lesion_found_twice_counts_once_by_the_better_overlap():
    matches = match_truth([cube(1, 3), cube(2, 1)], [cube(9, 0)])
    assert matches.truth[0].lesion_id == 2
    assert matches.false_positives == (1,)


def test_one_box_over_two_lesions_finds_one():
    both = Ball(1, Box((0, 0, 0), (10, 10, 21)), (5, 5, 10.5))
    matches = match_truth([both], [cube(1, (0, 0, 0)), cube(2, (0, 0, 11))])
    assert (matches.n_found, matches.n_false_positives) == (1, 0)


corners = st.tuples(*[st.integers(0, 30)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(corners, max_size=6), st.lists(corners, max_size=6))
def test_matching_is_one_to_one_and_does_not_depend_on_the_order(found, known):
    report = [cube(n, low, probability=n / 10) for n, low in enumerate(found, 1)]
    truth = [cube(n, low) for n, low in enumerate(known, 1)]
    matches = match_truth(report, truth)
    used = [m.lesion_id for m in matches.truth if m.found]
    assert len(used) == len(set(used))
    assert sorted([*used, *matches.false_positives]) == [lesion.id for lesion in report]
    assert [m.truth_id for m in matches.truth] == [t.id for t in truth]
    for match in matches.truth:
        if match.found:
            lesion, real = report[match.lesion_id - 1], truth[match.truth_id - 1]
            inside = all(
                a <= c < b for c, a, b in zip(lesion.centroid_mm, real.box_mm.min, real.box_mm.max, strict=True)
            )
            assert inside or match.iou >= MIN_IOU
    again = match_truth(report[::-1], truth[::-1])
    assert set(again.truth) == set(matches.truth)


TRUTH = {
    "schema": "scanside-truth/1",
    "seed": 7,
    "shape": [318, 600, 800],
    "spacing_mm": [0.528, 0.1, 0.1925],
    "lesions": [
        {
            "id": 1,
            "box_index": {"min": [1, 2, 3], "max": [4, 5, 6]},
            "box_mm": {"min": [0.5, 0.2, 0.6], "max": [2.1, 0.5, 1.2]},
            "centroid_mm": [1.3, 0.35, 0.9],
            "malignant": True,
            "kind": "carcinoma",
            "diameters_mm": [1.6, 0.3, 0.6],
            "volume_mm3": 0.2,
            "descriptors": {"echo_db": -12.5},
        }
    ],
}


def test_truth_file_is_read_as_typed_lesions(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    truth = load_truth(tmp_path / "truth.json")
    assert (truth.seed, truth.shape, truth.spacing_mm) == (7, (318, 600, 800), (0.528, 0.1, 0.1925))
    (lesion,) = truth.lesions
    entry = TRUTH["lesions"][0]
    assert lesion.box_index == Box((1, 2, 3), (4, 5, 6))
    assert json.loads(json.dumps(asdict(lesion))) == entry
    assert match_truth([], truth.lesions).n_truth == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("[]", "no truth file"),
        (json.dumps({**TRUTH, "schema": "scanside-truth/2"}), "scanside-truth/1"),
        (json.dumps({k: v for k, v in TRUTH.items() if k != "seed"}), "'seed'"),
        (json.dumps({**TRUTH, "shape": [1, 2]}), "damaged"),
        (json.dumps({**TRUTH, "lesions": [3]}), "damaged"),
    ],
)
def test_a_bad_truth_file_is_one_clear_error(tmp_path, text, words):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(ExamReadError, match=words) as caught:
        load_truth(path)
    assert str(path) in str(caught.value)


def test_an_absent_truth_file_is_one_clear_error(tmp_path):
    with pytest.raises(ExamReadError, match="cannot be read"):
        load_truth(tmp_path / "truth.json")

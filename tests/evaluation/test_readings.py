"""READERS.csv: what is read, and that every fault is one error that names its row."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from scanside.evaluation.errors import CohortError
from scanside.evaluation.predictions import Predictions, predictions_from_arrays
from scanside.evaluation.readings import CATEGORIES, FIRST_POSITIVE, pooled_by_level, read_readings

HEADER = "case,reader,level,planes,assisted,birads,reading_time_s\n"
GOOD = HEADER + "".join(
    f"{case},{reader},{level},3,0,{birads},{time}\n"
    for reader, level in (("S", "senior"), ("J", "junior"))
    for case, birads, time in (("d", "2", "30"), ("a", "4A", "31.5"), ("b", "5", ""), ("c", "3", "12"))
)


@pytest.fixture
def cohort() -> Predictions:
    return predictions_from_arrays([1, 1, 0, 0], [0.9, 0.8, 0.3, 0.1], case=["a", "b", "c", "d"])


@pytest.fixture
def read(tmp_path: Path, cohort: Predictions):
    """Read a text as READERS.csv."""

    def reading(text: str):
        path = tmp_path / "readers.csv"
        path.write_text(text)
        return read_readings(path, cohort)

    return reading


def test_readings_follow_the_predictions_order(read) -> None:
    junior, senior = read(GOOD)
    assert (junior.reader, junior.level, senior.reader) == ("J", "junior", "S")
    assert [CATEGORIES[i] for i in junior.category] == ["4a", "5", "3", "2"]
    assert junior.called.tolist() == [True, True, False, False]
    assert junior.time_s[:2].tolist()[0] == 31.5
    assert math.isnan(junior.time_s[1])


def test_4a_is_the_first_positive_category() -> None:
    assert CATEGORIES[FIRST_POSITIVE:] == ("4a", "4b", "4c", "5")


def test_words_for_planes_assistance_and_categories(read) -> None:
    text = GOOD.replace(",3,0,", ",three-plane,no,").replace("4A", "BI-RADS 4a")
    assert [(r.planes, r.assisted, r.called.tolist()) for r in read(text)] == [
        (3, False, [True, True, False, False]),
        (3, False, [True, True, False, False]),
    ]


def test_reading_times_may_be_absent(read) -> None:
    text = "\n".join(line.rpartition(",")[0] for line in GOOD.splitlines())
    assert all(math.isnan(t) for reading in read(text) for t in reading.time_s)


def test_levels_are_pooled_junior_first(read) -> None:
    assert list(pooled_by_level(read(GOOD))) == ["junior", "senior"]


BAD = {
    "missing columns": ("case,reader\na,R\n", r"row 1: the table lacks the columns level, planes, assisted, birads"),
    "a case of nobody": (GOOD + "z,J,junior,3,1,2,9\n", r"row 10: the case is not among the predictions"),
    "a case read twice": (GOOD + "a,J,junior,3,0,2,9\n", r"row 10: the reader judged the case twice; .* row 7 again"),
    "an unknown level": (
        GOOD + "a,X,expert,3,0,2,9\n",
        r"row 10: the level is unknown; expected junior, middle, senior",
    ),
    "a reader of two levels": (GOOD + "a,J,senior,3,1,2,9\n", r"row 10: the reader has two levels; expected junior"),
    "four planes": (GOOD + "a,J,junior,4,0,2,9\n", r"row 10: the planes is unknown; expected 2, 3"),
    "half assisted": (GOOD + "a,J,junior,3,half,2,9\n", r"row 10: the assisted is unknown"),
    "category 0": (GOOD + "a,J,junior,3,1,0,9\n", r"row 10: the BI-RADS category is off the scale; .* found '0'"),
    "category 4 without its letter": (GOOD + "a,J,junior,3,1,4,9\n", r"off the scale; .* 4 needs its letter"),
    "category 6": (GOOD + "a,J,junior,3,1,6,9\n", r"off the scale"),
    "category 7": (GOOD + "a,J,junior,3,1,7,9\n", r"off the scale"),
    "no category": (GOOD + "a,J,junior,3,1,,9\n", r"row 10: the birads is empty"),
    "a negative time": (GOOD + "a,J,junior,3,1,2,-9\n", r"row 10: the reading_time_s makes no sense"),
    "a missed case": (
        GOOD.rpartition("c,J")[0],
        r"row 8 .*: reader J \(three-plane, without assistance\) misses cases .* expected all 4 cases, found 3; "
        r".* case 3",
    ),
    "an assisted pass over one case": (GOOD + "a,J,junior,3,1,2,9\n", r"with assistance\) misses cases"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_tables(read, kind: str) -> None:
    text, message = BAD[kind]
    with pytest.raises(CohortError, match=message) as caught:
        read(text)
    assert "readers.csv" in str(caught.value)

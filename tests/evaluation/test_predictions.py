"""PREDICTIONS.csv: what is read, and that every fault is one error that names its row."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from scanside.errors import ScansideError
from scanside.evaluation.errors import CohortError
from scanside.evaluation.predictions import Classifier, predictions_from_arrays, read_predictions

FOUR = "case,label,probability\na,1,0.9\nb,malignant,0.6\nc,0,0.2\nd,Benign,0.5\n"


@pytest.fixture
def read(tmp_path: Path):
    """Read a text as PREDICTIONS.csv."""

    def reading(text: str | bytes):
        path = tmp_path / "predictions.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_predictions(path)

    return reading


def test_the_least_table(read) -> None:
    found = read(FOUR)
    assert found.case.tolist() == found.patient.tolist() == ["a", "b", "c", "d"]
    assert found.malignant.tolist() == [True, True, False, False]
    assert found.cohorts == ("all cases",)
    assert list(found.probability) == [Classifier("model")]
    assert found.probability[Classifier("model")].tolist() == [0.9, 0.6, 0.2, 0.5]
    assert np.isnan(found.size_mm).all()
    assert found.notes == ()


def test_every_column(read) -> None:
    found = read(
        "Histology, age,size_mm,cohort,patient,probability,label,case,model,planes,ward\n"
        "IDC,61,24.5,B,p1,0.9,1,a,ResNet50,fusion2,7\n"
        ",,,B,p1,0.7,1,b,ResNet50,fusion2,7\n\n"
        "cyst,40,8,B,p2,1e-3,0,c,ResNet50,fusion2,7\n"
        "cyst,39,9,B,p3,0,0,d,ResNet50,fusion2,7\n"
    )
    assert found.notes[0].endswith("not used: ward")
    assert (found.n_patients, len(found)) == (3, 4)
    assert (found.age[0], found.size_mm[0], found.histology[0]) == (61, 24.5, "IDC")
    assert math.isnan(found.age[1])
    assert str(next(iter(found.probability))) == "ResNet50 (fusion2)"


def test_a_byte_order_mark_and_windows_lines(read) -> None:
    assert len(read(b"\xef\xbb\xbf" + FOUR.replace("\n", "\r\n").encode())) == 4


def two_models(last: str = "d,0,0.4,Y") -> str:
    rows = [row + ",X" for row in FOUR.splitlines()[1:]]
    return "\n".join(["case,label,probability,model", *rows, "a,1,0.8,Y", "b,1,0.7,Y", "c,0,0.1,Y", last])


def test_several_models(read) -> None:
    found = read(two_models())
    assert [str(name) for name in found.probability] == ["X", "Y"]
    assert found.probability[Classifier("Y")].tolist() == [0.8, 0.7, 0.1, 0.4]


def test_a_model_that_saw_one_cohort_only(read) -> None:
    rows = [f"{c}{i},{label},0.{i}{label},{c}" for c in "AB" for i, label in enumerate((1, 1, 0, 0))]
    text = "case,label,probability,cohort,model\n" + "".join(f"{row},X\n" for row in rows)
    found = read(text + "".join(f"{row},Y\n" for row in rows[:4]))
    assert found.cohorts == ("A", "B")
    assert len(found.of_cohort("A").probability) == 2
    assert len(found.of_cohort("B").probability) == 1


BAD = {
    "an empty file": ("", r"the table is empty; expected a header line with case, label, probability"),
    "blank lines only": ("\n\n", r"the table is empty"),
    "a header alone": ("case,label,probability\n", r"a header and no rows"),
    "a missing column": ("case,label\na,1\n", r"row 1: the table lacks the column probability"),
    "missing columns": ("case\na\n", r"row 1: the table lacks the columns label, probability"),
    "a column twice": ("case,label,label,probability\na,1,1,0.5\n", r"row 1: the column label is there twice"),
    "semicolons": (
        FOUR.replace(",", ";"),
        r"row 1: the table has another delimiter; expected commas, found semicolons",
    ),
    "tabs": (FOUR.replace(",", "\t"), r"found tabs"),
    "a decimal comma": (FOUR + "e,1,0,7\n", r"row 6: the row does not fit the header; expected 3 cells, found 4"),
    "a short row": (FOUR + "e,1\n", r"row 6: the row does not fit the header; expected 3 cells, found 2"),
    "an open quote": (FOUR + '"e,1,0.5\n', r"the table is no CSV"),
    "an empty case": (FOUR + ",1,0.5\n", r"row 6: the case is empty"),
    "an unknown label": (
        FOUR + "e,2,0.5\n",
        r"row 6: the label is unknown; expected 0, 1, benign, malignant, found '2'",
    ),
    "an empty label": (FOUR + "e,,0.5\n", r"row 6: the label is empty"),
    "a NaN probability": (FOUR + "e,1,nan\n", r"row 6: the probability makes no sense; .* from 0 to 1, found 'nan'"),
    "an empty probability": (FOUR + "e,1,\n", r"row 6: the probability is empty"),
    "a word for a probability": (FOUR + "e,1,high\n", r"row 6: the probability makes no sense; .* found 'high'"),
    "a percentage": (FOUR + "e,1,97\n", r"row 6: the probability makes no sense; .* found '97'"),
    "a negative probability": (FOUR + "e,1,-0.1\n", r"row 6: the probability makes no sense"),
    "an infinite probability": (FOUR + "e,1,inf\n", r"row 6: the probability makes no sense"),
    "a case twice": (FOUR + "b,1,0.5\n", r"row 6: the case is there twice; found the case of row 3 again"),
    "one class": ("case,label,probability\na,1,0.5\nb,1,0.6\n", r"one class only; .* found 2 malignant and 0 benign"),
    "one case": ("case,label,probability\na,0,0.5\n", r"one class only; .* found 0 malignant and 1 benign"),
    "two cases": ("case,label,probability\na,0,0.5\nb,1,0.6\n", r"too small to judge; .* at least 2 malignant and 2"),
    "a case of two labels": (
        two_models("d,1,0.4,Y"),
        r"row 9: the case has two values of label; expected that of row 5",
    ),
    "a model that misses a case": (
        two_models("").rstrip(),
        r"Y misses cases of the cohort 'all cases'; expected all 4 cases or none, found 1 .* the case of row 5",
    ),
    "a size of nothing": ("case,label,probability,size_mm\na,1,0.5,0\n", r"row 2: the size_mm makes no sense"),
    "an age of 200": ("case,label,probability,age\na,1,0.5,200\n", r"row 2: the age makes no sense; .* from 0 to 130"),
    "an empty cohort": ("case,label,probability,cohort\na,1,0.5,\n", r"row 2: the cohort is empty"),
    "an empty patient": ("case,label,probability,patient\na,1,0.5,\n", r"row 2: the patient is empty"),
    "Latin-1": (FOUR.replace("a,", "\xe9,").encode("latin-1"), r"the table is no text; expected CSV in UTF-8"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_tables(read, kind: str) -> None:
    text, message = BAD[kind]
    with pytest.raises(CohortError, match=message) as caught:
        read(text)
    assert caught.value.exit_code == 3
    assert "predictions.csv" in str(caught.value)


def test_one_class_in_one_cohort_names_it(read) -> None:
    rows = "a,1,0.5,A\nb,1,0.5,A\nc,0,0.5,A\nd,0,0.5,A\ne,1,0.5,B\nf,1,0.5,B\n"
    with pytest.raises(CohortError, match=r"cohort 'B': the cohort has one class only"):
        read("case,label,probability,cohort\n" + rows)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="cannot be read"):
        read_predictions(tmp_path / "none.csv")
    with pytest.raises(CohortError, match="cannot be read"):
        read_predictions(tmp_path)


def test_no_message_holds_a_name(read) -> None:
    secret = "Doe^Jane"
    header = "case,label,probability,patient\n"
    for row in (f"{secret},3,0.5,{secret}\n", f"{secret},1,2,{secret}\n", f"{secret},1,0.5,{secret}\n" * 2):
        with pytest.raises(ScansideError) as caught:
            read(header + row)
        assert secret not in str(caught.value)


def test_predictions_from_arrays() -> None:
    made = predictions_from_arrays([1, 1, 0, 0], [0.9, 0.8, 0.3, 0.1], patient=[1, 1, 2, 3], age=[50, 60, 40, math.nan])
    assert made.case.tolist() == ["1", "2", "3", "4"]
    assert made.n_patients == 3
    two = predictions_from_arrays([1, 1, 0, 0], {Classifier("X"): [0.9, 0.8, 0.3, 0.1], Classifier("Y"): [0.5] * 4})
    assert len(two.probability) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": [0.9, 0.8, 0.3, 1.1]}, "makes no sense"),
        ({"probability": [0.9, 0.8, 0.3]}, "does not fit the labels"),
        ({"probability": [0.9, 0.8, 0.3, math.nan]}, "misses cases"),
        ({"malignant": [1, 1, 1, 1]}, "one class"),
        ({"case": ["a", "a", "b", "c"]}, "twice"),
        ({"size_mm": [1.0]}, "size_mm does not fit"),
    ],
)
def test_arrays_that_make_no_sense(change: dict, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        predictions_from_arrays(**({"malignant": [1, 1, 0, 0], "probability": [0.9, 0.8, 0.3, 0.1]} | change))

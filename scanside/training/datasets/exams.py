"""A folder of exams with masks: whatever `open_exam` reads, a mask for each, and one table.

``cases.csv`` has a row a lesion:

    case,exam,mask,label,lesion,patient,part
    0001,0001/exam.dcm,0001/mask.nrrd,malignant,1,P17,train

`exam` and `mask` (NRRD or NIfTI on the exam's grid) are paths below the folder; `label` is M, malignant, B or benign.
The rest may be left out: `lesion` is the lesion's value in the mask (1), `patient` whose lesion it is (the case), and
`part` train, validation or test (split by the recipe).
"""

from __future__ import annotations

from pathlib import Path

from scanside.training.cutting import Origin
from scanside.training.datasets.volumes import VolumeCase
from scanside.training.errors import TrainingDataError
from scanside.training.tables import check_files, check_once, malignant_from, table_rows

TABLE = "cases.csv"
_PARTS = ("", "train", "validation", "test")


def read_exams(folder: Path) -> tuple[VolumeCase, ...]:
    """All cases in the order of the table; a case with several rows has several lesions.

    Raises
    ------
    TrainingDataError
        The table lacks a column, a label or part is unknown, a lesion is listed twice, the rows of a case disagree, or
        files are missing.
    """
    file = folder / TABLE
    rows: dict[str, list[dict[str, str]]] = {}
    for number, row in enumerate(table_rows(file, ("case", "exam", "mask", "label")), 2):
        row["where"] = f"{file}, line {number}"
        rows.setdefault(row["case"], []).append(row)
    check_once((f"{r['case']}, lesion {r.get('lesion') or 1}" for c in rows.values() for r in c), where=file)
    cases = tuple(_case(folder, number, lesions) for number, lesions in enumerate(rows.values()))
    check_files((f for case in cases for f in (case.exam, case.mask) if not f.is_dir()), folder=folder)
    return cases


def _case(folder: Path, number: int, rows: list[dict[str, str]]) -> VolumeCase:
    first = rows[0]
    for row in rows[1:]:
        for key in ("exam", "mask", "patient", "part"):
            if row.get(key) != first.get(key):
                raise TrainingDataError(
                    "the rows of a case disagree", where=row["where"], expected=first.get(key), found=row.get(key)
                )
    part = (first.get("part") or "").lower()
    if part not in _PARTS:
        raise TrainingDataError("the part is unknown", where=first["where"], expected=", ".join(_PARTS[1:]), found=part)
    origin = Origin(folder.name, first["case"], first.get("patient") or first["case"], part)
    lesions = tuple((_value(row), malignant_from(row["label"], where=row["where"])) for row in rows)
    return VolumeCase(number, origin, folder / first["exam"], folder / first["mask"], lesions)


def _value(row: dict[str, str]) -> int:
    text = row.get("lesion") or "1"
    if not text.isdigit() or not 1 <= int(text) <= 255:
        raise TrainingDataError("no value of a mask", where=row["where"], expected="1 to 255", found=repr(text))
    return int(text)

"""TDSC-ABUS 2023 as users download it: {Train,Validation,Test}/{DATA,MASK,labels.csv}.

200 volumes of a GE Invenia ABUS (100 / 30 / 70) with one lesion each: ``DATA/DATA_000.nrrd`` and ``MASK/MASK_000.nrrd``
(0 background, 1 tumour), axes lateral, depth, sweep; ``labels.csv`` with case_id, label (M or B), data_path, mask_path.
The challenge's own label map is M = 1; one public loader gives 0 for malignant, so only the letters are believed.

The headers state a spacing of 1 x 1 x 1, which is a placeholder: the challenge gives 0.200 x 0.073 mm in the frame and
0.475674 mm between frames.
"""

from __future__ import annotations

from pathlib import Path

from scanside.training.cutting import Origin
from scanside.training.datasets.volumes import VolumeCase
from scanside.training.errors import TrainingDataError
from scanside.training.tables import check_files, check_once, malignant_from, table_rows

NAME = "TDSC-ABUS 2023"
SPACING_MM = (0.475674, 0.073, 0.2)
PLACEHOLDER_MM = (1.0, 1.0, 1.0)
PARTS = {"Train": "train", "Validation": "validation", "Test": "test"}
_COLUMNS = ("case_id", "label", "data_path", "mask_path")


def is_tdsc(folder: Path) -> bool:
    """Whether `folder` is TDSC-ABUS 2023, or one of its parts."""
    return any((part / "DATA").is_dir() or (part / "labels.csv").is_file() for part, _ in _parts(folder))


def read_tdsc(folder: Path) -> tuple[VolumeCase, ...]:
    """All cases of the parts that are there, by part and number.

    Raises
    ------
    TrainingDataError
        No table, an unknown label, a case listed twice (also in two parts), or files that are missing.
    """
    cases: list[VolumeCase] = []
    for root, part in _parts(folder):
        if not any((root / name).exists() for name in ("DATA", "MASK", "labels.csv")):
            continue
        for number, row in enumerate(table_rows(root / "labels.csv", _COLUMNS), 2):
            where = f"{root / 'labels.csv'}, line {number}"
            if not row["case_id"].isdigit():
                raise TrainingDataError("the case is no number", where=where, found=row["case_id"])
            case = int(row["case_id"])
            origin = Origin(NAME, f"{case:03d}", f"{case:03d}", part)
            # The tables name files with either slash, and not always below the same folder.
            exam, mask = (
                root / kind / row[f"{kind.lower()}_path"].replace("\\", "/").rpartition("/")[2]
                for kind in ("DATA", "MASK")
            )
            malignant = malignant_from(row["label"], where=where)
            cases.append(VolumeCase(case, origin, exam, mask, ((1, malignant),), SPACING_MM, PLACEHOLDER_MM))
    check_once((case.origin.case for case in cases), where=folder)
    check_files((file for case in cases for file in (case.exam, case.mask)), folder=folder)
    return tuple(cases)


def _parts(folder: Path) -> list[tuple[Path, str]]:
    """The folders that may hold a part, each with its name in a split."""
    return [(folder, PARTS.get(folder.name, "")), *((folder / name, part) for name, part in PARTS.items())]

"""Tables of cases, and what their label columns mean."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from scanside.training.errors import TrainingDataError

_MALIGNANT = {"m": True, "malignant": True, "b": False, "benign": False}


def table_rows(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file; column names are lower case here, whatever their case in the file.

    Raises
    ------
    TrainingDataError
        No such file, no text, no rows, a column missing, or a row of another length.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            missing = [c for c in columns if c not in reader.fieldnames]
            if missing:
                raise TrainingDataError(
                    "the table lacks columns",
                    where=file,
                    expected=", ".join(columns),
                    found=", ".join(reader.fieldnames) or "nothing",
                )
            rows = [{k: (v or "").strip() for k, v in row.items() if k is not None} for row in reader]
    except OSError as error:
        raise TrainingDataError("the table cannot be read", where=file, found=error.strerror) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingDataError("the table is no CSV", where=file, found=error) from None
    if not rows:
        raise TrainingDataError("the table is empty", where=file)
    for number, row in enumerate(rows, 2):
        empty = [c for c in columns if not row[c]]
        if empty:
            raise TrainingDataError("a row is incomplete", where=f"{file}, line {number}", found=f"no {empty[0]}")
    return rows


def malignant_from(text: str, *, where: object) -> bool:
    """Whether a label says malignant. Numbers are refused: tables disagree on which class is 1.

    Raises
    ------
    TrainingDataError
        Neither "M" or "malignant" nor "B" or "benign".
    """
    if text.strip().lower() not in _MALIGNANT:
        raise TrainingDataError(
            "the label is unknown",
            where=where,
            expected="M, malignant, B or benign",
            found=repr(text),
            remedy="write the class out; 0 and 1 mean opposite things in different tables",
        )
    return _MALIGNANT[text.strip().lower()]


def check_once(cases: Iterable[str], *, where: object) -> None:
    """Raise `TrainingDataError` when a case is listed twice."""
    seen: set[str] = set()
    for case in cases:
        if case in seen:
            raise TrainingDataError("a case is listed twice", where=where, found=case)
        seen.add(case)


def check_files(files: Iterable[Path], *, folder: Path) -> None:
    """Raise `TrainingDataError` when files of a data set are absent or empty: a folder copied in part."""
    missing = [f for f in files if not f.is_file() or f.stat().st_size == 0]
    if missing:
        raise TrainingDataError(
            f"{len(missing)} files of the data set are missing or empty",
            where=folder,
            found=f"first {missing[0].relative_to(folder)}",
            remedy="copy the data set again",
        )

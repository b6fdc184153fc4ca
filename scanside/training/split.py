"""Who trains, who validates, who is kept for the test: decided by patient, written to a file, checked for leaks."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scanside.exam.write import atomic_file
from scanside.training.cohort import PHANTOM
from scanside.training.cutting import Origin
from scanside.training.errors import LeakError, TrainingDataError
from scanside.training.recipe import Recipe

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_TEST_SEED = 20230
"""The test part is the same whatever the recipe's seed (paper: "a fixed internal test set")."""
_COLUMNS = ("part", "data", "case", "patient")


def split_cases(origins: Sequence[Origin], recipe: Recipe) -> tuple[str, ...]:
    """The part of each case, in the order of `origins`; a patient is never in two.

    A part that a data set states stands, whatever its name: what is neither "train" nor "validation" is kept out of
    training. See `Recipe` for the rest.

    Raises
    ------
    TrainingDataError
        A data set is too small to be split, or states parts for some cases only.
    LeakError
        A data set's own parts share a patient, or a case is given twice.
    """
    parts: dict[Origin, str] = {}
    for data in dict.fromkeys(o.data for o in origins):
        own = [o for o in origins if o.data == data]
        stated = {bool(o.part) for o in own}
        if stated == {True, False}:
            raise TrainingDataError("the data set states a part for some cases only", where=data)
        if stated == {True}:
            parts |= {o: o.part for o in own}
        elif data == PHANTOM and recipe.validation_phantoms:
            parts |= _last_phantoms(own, recipe.validation_phantoms)
        else:
            parts |= _by_patient(own, recipe)
    split = tuple(parts[o] for o in origins)
    check_split(origins, split)
    return split


def check_split(origins: Sequence[Origin], parts: Sequence[str]) -> None:
    """Raise `LeakError` when a case is listed twice, or a patient is in two parts."""
    cases: set[tuple[str, str]] = set()
    part_of: dict[tuple[str, str], str] = {}
    for origin, part in zip(origins, parts, strict=True):
        if (origin.data, origin.case) in cases:
            raise LeakError("a case is given twice", where=origin.data, found=origin.case)
        cases.add((origin.data, origin.case))
        first = part_of.setdefault((origin.data, origin.patient), part)
        if first != part:
            raise LeakError(
                "a patient is on both sides of the split",
                where=origin.data,
                found=f"{origin.patient} in {first} and {part}",
                remedy="split by patient",
            )


def require_same_split(path: Path, origins: Sequence[Origin], parts: Sequence[str]) -> None:
    """Raise `LeakError` when another split stands in `path`: what was trained under it has seen other cases."""
    if path.is_file() and path.read_text(encoding="utf-8") != _rows(origins, parts):
        raise LeakError(
            "another split was made here before",
            where=path,
            remedy="use another --out, or the same data and recipe",
        )


def write_split(path: Path, origins: Sequence[Origin], parts: Sequence[str]) -> None:
    """Write the split as CSV (part, data, case, patient), where the same does not stand already.

    Raises
    ------
    LeakError
        Another one stands there; see `require_same_split`.
    """
    require_same_split(path, origins, parts)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(_rows(origins, parts).encode())


def _rows(origins: Sequence[Origin], parts: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((part, o.data, o.case, o.patient) for o, part in zip(origins, parts, strict=True))
    return text.getvalue()


def read_split(path: Path) -> tuple[tuple[Origin, ...], tuple[str, ...]]:
    """The cases and parts that `write_split` wrote, checked for leaks again."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    origins = tuple(Origin(r["data"], r["case"], r["patient"]) for r in rows)
    parts = tuple(r["part"] for r in rows)
    check_split(origins, parts)
    return origins, parts


def _last_phantoms(origins: Sequence[Origin], validation: int) -> dict[Origin, str]:
    if len(origins) <= validation:
        raise TrainingDataError(
            "the cohort is too small", expected=f"more than {validation} phantoms", found=f"{len(origins)}"
        )
    cut = len(origins) - validation
    return {o: TRAIN if i < cut else VALIDATION for i, o in enumerate(origins)}


def _by_patient(origins: Sequence[Origin], recipe: Recipe) -> dict[Origin, str]:
    patients = sorted({o.patient for o in origins})
    order = np.random.default_rng(_TEST_SEED).permutation(len(patients))
    test = round(recipe.test_fraction * len(patients))
    rest = np.random.default_rng([_TEST_SEED, recipe.seed]).permutation(np.sort(order[test:]))
    validation = round(recipe.validation_fraction * len(rest))
    if validation >= len(rest):
        raise TrainingDataError("the data set is too small to be split", where=origins[0].data, found=len(patients))
    of = dict.fromkeys(patients, TRAIN)
    of |= {patients[i]: TEST for i in order[:test]} | {patients[i]: VALIDATION for i in rest[:validation]}
    return {o: of[o.patient] for o in origins}

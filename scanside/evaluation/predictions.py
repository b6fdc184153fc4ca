"""Cases with their pathology, and what classifiers said of them: PREDICTIONS.csv, or arrays in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.evaluation.errors import CohortError
from scanside.evaluation.rows import Row, Rows, read_rows

THRESHOLD = 0.5
"""A lesion is called malignant when its probability is greater than this (paper, Deep Learning Algorithm)."""

REQUIRED = ("case", "label", "probability")
OPTIONAL = ("patient", "cohort", "size_mm", "age", "histology", "model", "planes")
LABELS = {"0": False, "1": True, "benign": False, "malignant": True}
ONE_COHORT = "all cases"
ONE_MODEL = "model"


@dataclass(frozen=True, order=True)
class Classifier:
    """A model and, where the table says so, the planes it sees (a fusion variant by the paper's name)."""

    model: str
    planes: str = ""

    def __str__(self) -> str:
        return f"{self.model} ({self.planes})" if self.planes else self.model


@dataclass(frozen=True)
class Predictions:
    """Cases in a fixed order, and a probability of malignancy of each classifier for each case.

    Attributes
    ----------
    case, patient, cohort, histology : ndarray of str [n]
        Without patients every case is its own. `histology` is empty where it is not stated.
    malignant : ndarray of bool [n]
        By pathology.
    size_mm, age : ndarray of float [n]
        NaN where not stated.
    probability : dict
        Classifier to ndarray of float [n] in 0 to 1; NaN in the cohorts that a classifier did not see.
    notes : tuple of str
        What a reader of the results should know about the table.
    """

    case: NDArray[np.str_]
    malignant: NDArray[np.bool_]
    patient: NDArray[np.str_]
    cohort: NDArray[np.str_]
    probability: Mapping[Classifier, NDArray[np.float64]]
    size_mm: NDArray[np.float64]
    age: NDArray[np.float64]
    histology: NDArray[np.str_]
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.case)

    @property
    def cohorts(self) -> tuple[str, ...]:
        """Names in the order of their first case."""
        return tuple(dict.fromkeys(self.cohort.tolist()))

    @property
    def n_patients(self) -> int:
        return len(np.unique(self.patient))

    def of_cohort(self, cohort: str) -> Predictions:
        """The cases of one cohort, with the classifiers that saw it."""
        here = self.cohort == cohort
        seen = {name: values[here] for name, values in self.probability.items()}
        return replace(
            self,
            **{name: getattr(self, name)[here] for name in ("case", "malignant", "patient", "cohort")},
            **{name: getattr(self, name)[here] for name in ("size_mm", "age", "histology")},
            probability={name: values for name, values in seen.items() if not np.isnan(values).any()},
        )


def predictions_from_arrays(
    malignant: ArrayLike,
    probability: ArrayLike | Mapping[Classifier, ArrayLike],
    *,
    case: ArrayLike | None = None,
    patient: ArrayLike | None = None,
    cohort: ArrayLike | None = None,
    size_mm: ArrayLike | None = None,
    age: ArrayLike | None = None,
    histology: ArrayLike | None = None,
) -> Predictions:
    """Predictions from arrays of one length.

    Parameters
    ----------
    malignant : array of bool [n]
        By pathology.
    probability : array [n], or dict of Classifier to array [n]
        Of malignancy, 0 to 1.
    case, patient, cohort, histology : array of str [n], optional
        As in `Predictions`.
    size_mm, age : array of float [n], optional
        NaN where not known.

    Raises
    ------
    CohortError
        Lengths differ, a case is there twice, a probability is out of range, or a class is absent.
    """
    truth = np.asarray(malignant, dtype=bool)
    n = len(truth)
    given = probability if isinstance(probability, Mapping) else {Classifier(ONE_MODEL): probability}
    names = _texts(np.arange(1, n + 1) if case is None else case)
    made = Predictions(
        case=names,
        malignant=truth,
        patient=names if patient is None else _texts(patient),
        cohort=np.full(n, ONE_COHORT) if cohort is None else _texts(cohort),
        probability={name: np.asarray(values, dtype=np.float64) for name, values in given.items()},
        size_mm=np.full(n, np.nan) if size_mm is None else np.asarray(size_mm, dtype=np.float64),
        age=np.full(n, np.nan) if age is None else np.asarray(age, dtype=np.float64),
        histology=np.full(n, "") if histology is None else _texts(histology),
    )
    columns = {"case": made.case, "patient": made.patient, "cohort": made.cohort, "size_mm": made.size_mm}
    columns |= {"age": made.age, "histology": made.histology}
    columns |= {f"probability of {who}": values for who, values in made.probability.items()}
    for name, values in columns.items():
        if values.shape != (n,):
            raise CohortError(f"the {name} does not fit the labels", expected=f"[{n}]", found=list(values.shape))
    if len(np.unique(made.case)) != n:
        raise CohortError("a case is there twice")
    for who, values in made.probability.items():
        if np.any((values < 0) | (values > 1)):
            raise CohortError(f"a probability of {who} makes no sense", expected="numbers from 0 to 1")
    _check_cohorts(made, "the predictions", {})
    return made


def read_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read PREDICTIONS.csv.

    Required columns: `case`, `label` (0, 1, benign or malignant), `probability` of malignancy. Optional ones:
    `patient`, `cohort`, `size_mm` (largest diameter), `age` (years), `histology`, and, to compare classifiers, `model`
    and `planes`: then each case has one row a classifier. A classifier predicts every case of a cohort or none.

    Raises
    ------
    CohortError
        The table cannot be used; the message names the row.
    """
    table = read_rows(path, REQUIRED, OPTIONAL)
    first: dict[str, Row] = {}
    facts: dict[str, tuple[Any, ...]] = {}
    seen: dict[tuple[Classifier, str], Row] = {}
    values: dict[Classifier, dict[str, float]] = {}
    for row in table.rows:
        case = row.text("case")
        classifier = Classifier(row.cells.get("model") or ONE_MODEL, row.cells.get("planes", ""))
        before = seen.setdefault((classifier, case), row)
        if before is not row:
            raise CohortError("the case is there twice", where=row.where, found=f"the case of row {before.line} again")
        said = _facts(row)
        first.setdefault(case, row)
        if facts.setdefault(case, said) != said:
            column = next(c for c, a, b in zip(_FACTS, facts[case], said, strict=True) if a != b)
            raise CohortError(
                f"the case has two values of {column}",
                where=row.where,
                expected=f"that of row {first[case].line}",
                remedy="give each case a name of its own, and say the same of it in every row",
            )
        values.setdefault(classifier, {})[case] = row.needed_number("probability", 0, 1)
    made = _assembled(table, facts, values)
    _check_cohorts(made, table.file, {case: row.line for case, row in first.items()})
    return made


_FACTS = ("label", "patient", "cohort", "size_mm", "age", "histology")


def _facts(row: Row) -> tuple[Any, ...]:
    """What a row says of its case; numbers not stated are None, so that they compare."""
    numbers = [row.number("size_mm", 0.1, 500), row.number("age", 0, 130)]
    return (
        row.choice("label", LABELS),
        row.text("patient") if "patient" in row.cells else row.cells["case"],
        row.text("cohort") if "cohort" in row.cells else ONE_COHORT,
        *(None if math.isnan(value) else value for value in numbers),
        row.cells.get("histology", ""),
    )


def _assembled(
    table: Rows, facts: Mapping[str, tuple[Any, ...]], values: Mapping[Classifier, Mapping[str, float]]
) -> Predictions:
    label, patient, cohort, size, age, histology = zip(*facts.values(), strict=True)
    notes = [f"columns of {table.file} that were not used: {', '.join(table.unused)}"] if table.unused else []
    return Predictions(
        case=_texts(list(facts)),
        malignant=np.array(label, dtype=bool),
        patient=_texts(patient),
        cohort=_texts(cohort),
        probability={
            name: np.array([said.get(case, math.nan) for case in facts], dtype=np.float64)
            for name, said in values.items()
        },
        size_mm=np.array([math.nan if v is None else v for v in size], dtype=np.float64),
        age=np.array([math.nan if v is None else v for v in age], dtype=np.float64),
        histology=_texts(histology),
        notes=tuple(notes),
    )


def _check_cohorts(made: Predictions, where: str, line_of: Mapping[str, int]) -> None:
    """Every cohort has both classes, and every classifier predicts all of it or none."""
    for cohort in made.cohorts:
        here = made.cohort == cohort
        n_malignant, n = int(made.malignant[here].sum()), int(here.sum())
        if min(n_malignant, n - n_malignant) < 2:
            raise CohortError(
                "the cohort is too small to judge" if 0 < n_malignant < n else "the cohort has one class only",
                where=f"{where}, cohort {cohort!r}",
                expected="at least 2 malignant and 2 benign cases",
                found=f"{n_malignant} malignant and {n - n_malignant} benign",
            )
        for name, values in made.probability.items():
            absent = here & np.isnan(values)
            if absent.any() and not absent[here].all():
                line = line_of.get(str(made.case[np.argmax(absent)]))
                raise CohortError(
                    f"{name} misses cases of the cohort {cohort!r}",
                    where=where,
                    expected=f"all {n} cases or none",
                    found=f"{int(absent.sum())} without a prediction"
                    + (f", the first is the case of row {line}" if line else ""),
                )


def _texts(values: ArrayLike) -> NDArray[np.str_]:
    return np.asarray(values).astype(np.str_)

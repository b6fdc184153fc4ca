"""Table 1: who the patients are and what their lesions look like, malignant against benign."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.evaluation.groups import SIZE_CLASSES, Test, compare_categories, compare_means, size_class
from scanside.evaluation.paired import holm_by_family
from scanside.evaluation.predictions import Predictions
from scanside.evaluation.table import NOTHING, Table, number, p_text

CLASSES = ("malignant", "benign")
_AGE_CLASSES = ("age < 40 years", "age >= 40 years")
_NO_TEST = Test("", float("nan"), float("nan"))
_NUMBERS = ("age", "size_mm")


def table1(predictions: Predictions) -> Table:
    """Characteristics of each cohort by class.

    One test a cohort and characteristic, malignant against benign: Welch's t for age and size, chi-square or Fisher's
    exact for their classes. Histology and class are one thing, so histology is only counted.
    """
    cohorts = [predictions.of_cohort(name) for name in predictions.cohorts]
    records = [record for cohort in cohorts for record in _records(cohort)]
    tested = [record for record in records if not np.isnan(record["p"])]
    adjusted_p = holm_by_family([record["p"] for record in tested], [record["cohort"] for record in tested])
    for record, adjusted in zip(tested, adjusted_p, strict=True):
        record["p_holm"] = adjusted
    columns = ["Characteristic"]
    for cohort in cohorts:
        prefix = f"{cohort.cohorts[0]}: " if len(cohorts) > 1 else ""
        columns += [f"{prefix}malignant", "benign", "P", "P (Holm)"]
    return Table(
        "table1",
        "Table 1. Clinical and imaging characteristics",
        tuple(columns),
        _rows(records, [cohort.cohorts[0] for cohort in cohorts]),
        tuple(_listed(records)),
        (
            "Mean ± SD (range) or number of lesions. P: malignant against benign within the cohort, unadjusted and "
            "adjusted by Holm over the tests of that cohort. Tests: "
            + "; ".join(f"{_WORDS[name]}: {tests}" for name, tests in _tests_used(tested).items())
            + ".",
        )
        if tested
        else (),
    )


_WORDS = {
    "age": "age",
    "age class": "age class",
    "size_mm": "lesion size",
    "size class": "size class",
}
_ORDER = (
    "lesions",
    "patients",
    "age",
    "age class",
    "age not stated",
    "size_mm",
    "size class",
    "lesion size not stated",
    "histology",
)
_LABELS = {"lesions": "Lesions", "patients": "Patients", "age": "Age (years)", "size_mm": "Lesion size (mm)"}


def _tests_used(tested: list[dict[str, Any]]) -> dict[str, str]:
    used: dict[str, list[str]] = {}
    for record in tested:
        names = used.setdefault(record["characteristic"], [])
        if record["test"] not in names:
            names.append(record["test"])
    return {name: " or ".join(tests) for name, tests in used.items()}


def _records(cohort: Predictions) -> Iterator[dict[str, Any]]:
    """One record a characteristic and category, with both classes in it."""
    groups = [cohort.malignant, ~cohort.malignant]
    yield _counts(cohort, "lesions", "", [int(who.sum()) for who in groups], _NO_TEST)
    yield _counts(cohort, "patients", "", [len(np.unique(cohort.patient[who])) for who in groups], _NO_TEST)
    for name, classes, words in (
        ("age", np.where(np.isnan(cohort.age), -1, cohort.age >= 40).astype(int), _AGE_CLASSES),
        ("size_mm", size_class(cohort.size_mm), SIZE_CLASSES),
    ):
        values: NDArray[np.float64] = getattr(cohort, name)
        if np.isnan(values).all():
            continue
        yield _means(cohort, name, [values[who] for who in groups])
        counts = np.array([[int((classes[who] == i).sum()) for who in groups] for i in range(len(words))])
        test = compare_categories(counts)
        for i, word in enumerate(words):
            kind = "age class" if name == "age" else "size class"
            yield _counts(cohort, kind, word, counts[i].tolist(), test if i == 0 else _NO_TEST)
        missing = [int(np.isnan(values[who]).sum()) for who in groups]
        if any(missing):
            yield _counts(cohort, f"{_WORDS[name]} not stated", "", missing, _NO_TEST)
    stated = cohort.histology != ""
    if stated.any():
        names = np.unique(cohort.histology[stated])
        order = sorted(names, key=lambda h: _histology_order(cohort, str(h)))
        for word in order:
            counts_of = [int((cohort.histology[who] == word).sum()) for who in groups]
            yield _counts(cohort, "histology", str(word), counts_of, _NO_TEST)
        missing = [int((~stated)[who].sum()) for who in groups]
        if any(missing):
            yield _counts(cohort, "histology", "not stated", missing, _NO_TEST)


def _histology_order(cohort: Predictions, name: str) -> tuple[float, int, str]:
    """Benign kinds first, then malignant ones, the most frequent first, as in the paper."""
    who = cohort.histology == name
    return round(float(cohort.malignant[who].mean())), -int(who.sum()), name


def _counts(cohort: Predictions, name: str, category: str, counts: list[int], test: Test) -> dict[str, Any]:
    record: dict[str, Any] = {"cohort": cohort.cohorts[0], "characteristic": name, "category": category}
    for group, count in zip(CLASSES, counts, strict=True):
        record[f"{group}_n"] = count
    return record | {"test": test.name, "statistic": test.statistic, "p": test.p, "p_holm": float("nan")}


def _means(cohort: Predictions, name: str, groups: list[NDArray[np.float64]]) -> dict[str, Any]:
    test = compare_means(*groups)
    record = _counts(cohort, name, "", [int((~np.isnan(values)).sum()) for values in groups], test)
    for group, values in zip(CLASSES, groups, strict=True):
        known = values[~np.isnan(values)]
        summary = (known.mean(), known.std(ddof=1) if len(known) > 1 else np.nan, known.min(), known.max())
        for key, value in zip(("mean", "sd", "min", "max"), summary if len(known) else [np.nan] * 4, strict=True):
            record[f"{group}_{key}"] = float(value)
    return record


def _listed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with one order of columns."""
    head = ["cohort", "characteristic", "category"]
    middle = [f"{group}_{key}" for group in CLASSES for key in ("n", "mean", "sd", "min", "max")]
    return [
        {key: record.get(key) for key in (*head, *middle, "test", "statistic", "p", "p_holm")} for record in records
    ]


def _rows(records: list[dict[str, Any]], cohorts: list[str]) -> tuple[tuple[str, ...], ...]:
    """One row a characteristic and category that any cohort has."""
    keys = list(dict.fromkeys((record["characteristic"], record["category"]) for record in records))
    keys.sort(key=lambda key: _ORDER.index(key[0]))
    by_key = {(r["cohort"], r["characteristic"], r["category"]): r for r in records}
    rows = []
    for name, category in keys:
        label = category[0].upper() + category[1:] if category else _LABELS.get(name, name[0].upper() + name[1:])
        if name == "histology" and category == "not stated":
            label = "Histology not stated"
        row = [f"– {label}" if name == "histology" and label != "Histology not stated" else label]
        for cohort in cohorts:
            row += _cells(by_key.get((cohort, name, category)))
        rows.append(tuple(row))
    return tuple(rows)


def _cells(record: dict[str, Any] | None) -> list[str]:
    if record is None:
        return ["0", "0", "", ""]
    cells = []
    for group in CLASSES:
        if f"{group}_mean" not in record:
            cells.append(str(record[f"{group}_n"]))
        elif record[f"{group}_n"] == 0:
            cells.append(NOTHING)
        else:
            mean, sd, low, high = (record[f"{group}_{key}"] for key in ("mean", "sd", "min", "max"))
            cells.append(f"{number(mean, 1)} ± {number(sd, 1)} ({low:g}–{high:g})")
    return [*cells, *((p_text(record["p"]), p_text(record["p_holm"])) if record["test"] else ("", ""))]

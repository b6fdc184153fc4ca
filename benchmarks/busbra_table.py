"""BUS-BRA's lesions by case, from the committed predictions of each held-out fold: one view, two views, and `fusion1`.

Folds are pooled: every case was predicted by the networks that never saw it. Over all cases `single view` is the mean
over a lesion's views, one or two; `late` is the same where there are two.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import RESULTS, Table
from scanside.evaluation.accuracy import proportion_intervals
from scanside.evaluation.diagnosis import confusion
from scanside.evaluation.errors import CohortError
from scanside.evaluation.predictions import LABELS, THRESHOLD, Classifier, Predictions, predictions_from_arrays
from scanside.evaluation.roc import delong, paired_delong
from scanside.evaluation.rows import Row, read_rows

REQUIRED = ("case", "label", "probability", "cohort", "views", "first_view", "second_view")
SINGLE, FIRST, SECOND, LATE, FUSION = map(Classifier, ("single view", "first view", "second view", "late", "fusion1"))


def make_table(predictions: Path, backbones: Sequence[str] | None, out: Path) -> None:
    """Write busbra-table.csv and its record into `out`, from busbra-{view,two_views}-<backbone>-fold<n>.csv."""
    rows: list[dict[str, Any]] = []
    best: dict[str, str] = {}
    for backbone in backbones or backbones_in(predictions):
        everyone, pairs = cases_of(predictions, backbone)
        folds = " ".join(cohort.removeprefix("fold") for cohort in everyone.cohorts)
        made = [*compared(everyone, "all"), *compared(pairs, "two views")]
        rows += [{"backbone": backbone, "folds": folds, **row} for row in made]
        views = [row for row in made if row["classifier"] in (FIRST.model, SECOND.model)]
        best[backbone] = max(views, key=lambda row: row["auc"])["classifier"]
    write_csv(out / "busbra-table.csv", rows)
    methods = {
        "auc": "DeLong, interval on the logit scale",
        "sensitivity and specificity": f"malignant above {THRESHOLD}, Wilson",
        "p": "paired DeLong of fusion1 minus this row, on the same cases, not corrected for their number",
        "best single view": "by these AUCs themselves",
    }
    write_json(out / "busbra-table.json", {**conditions(), "methods": methods, "best_single_view": best})


def backbones_in(folder: Path) -> list[str]:
    """The backbones with predictions of both kinds for a fold.

    Raises
    ------
    CohortError
        There is none.
    """
    found = sorted({file.stem.split("-")[2] for file in folder.glob("busbra-view-*-fold*.csv")})
    found = [backbone for backbone in found if folds_of(folder, backbone)]
    if not found:
        raise CohortError("no predictions of BUS-BRA here", where=folder, remedy="python -m benchmarks busbra")
    return found


def folds_of(folder: Path, backbone: str) -> list[str]:
    """The folds, "fold<n>", that one view and two views were both predicted for."""
    names = (
        {file.stem.split("-")[3] for file in folder.glob(f"busbra-{name}-{backbone}-fold*.csv")}
        for name in ("view", "two_views")
    )
    return sorted(set.intersection(*names))


def cases_of(folder: Path, backbone: str) -> tuple[Predictions, Predictions]:
    """All cases with `single view`, and those with two views with each view, `late` and `fusion1`.

    Raises
    ------
    CohortError
        There is no fold, or the files are not of the same cases.
    """
    folds = folds_of(folder, backbone)
    if not folds:
        raise CohortError(f"no fold of BUS-BRA was predicted by {backbone}", where=folder)
    single, fused = (
        [row for fold in folds for row in read_rows(folder / f"busbra-{name}-{backbone}-{fold}.csv", REQUIRED, ()).rows]
        for name in ("view", "two_views")
    )
    pairs = [row for row in single if row.text("views") == "2"]
    for one, two in zip(pairs, fused, strict=False):
        if any(one.text(name) != two.text(name) for name in ("case", "label", "cohort")):
            raise CohortError("this is another case than that of the single view", where=two.where, expected=one.where)
    if len(pairs) != len(fused):
        raise CohortError("cases with two views are missing", where=folder, expected=len(pairs), found=len(fused))
    probability = {
        FIRST: numbers(pairs, "first_view"),
        SECOND: numbers(pairs, "second_view"),
        LATE: numbers(pairs, "probability"),
        FUSION: numbers(fused, "probability"),
    }
    return predictions_of(single, {SINGLE: numbers(single, "probability")}), predictions_of(pairs, probability)


def numbers(rows: Sequence[Row], column: str) -> NDArray[np.float64]:
    """A column of probabilities, [rows]."""
    return np.array([row.needed_number(column, 0, 1) for row in rows])


def predictions_of(rows: Sequence[Row], probability: Mapping[Classifier, NDArray[np.float64]]) -> Predictions:
    """The cases of `rows`, each its own patient; the cohort is the fold."""
    return predictions_from_arrays(
        [row.choice("label", LABELS) for row in rows],
        probability,
        case=[row.text("case") for row in rows],
        cohort=[row.text("cohort") for row in rows],
    )


def performance(cases: Predictions, among: str) -> list[dict[str, Any]]:
    """A row a classifier."""
    rows = []
    for classifier, probability in cases.probability.items():
        area = delong(cases.malignant, probability)
        called = probability > THRESHOLD
        counts = confusion(cases.malignant, called)
        intervals = {"auc": area.interval(), **proportion_intervals(cases.malignant, called, cases.patient)}
        estimates = {
            "auc": area.auc,
            "sensitivity": counts.sensitivity.estimate,
            "specificity": counts.specificity.estimate,
        }
        row: dict[str, Any] = {"among": among, "cases": len(cases), "malignant": int(cases.malignant.sum())}
        row["classifier"] = str(classifier)
        for metric, value in estimates.items():
            row[metric] = round(value, 4)
            row[f"{metric}_low"], row[f"{metric}_high"] = (
                round(bound, 4) for bound in (intervals[metric].low, intervals[metric].high)
            )
        rows.append(row)
    return rows


def compared(cases: Predictions, among: str) -> list[dict[str, Any]]:
    """`performance`; where there is `fusion1`, also its AUC minus this one's, and the paired p."""
    fusion = cases.probability.get(FUSION)
    rows = performance(cases, among)
    for row, (classifier, probability) in zip(rows, cases.probability.items(), strict=True):
        row["fusion1_minus"] = row["p"] = ""
        if fusion is not None and classifier != FUSION:
            test = paired_delong(cases.malignant, fusion, probability)
            row["fusion1_minus"], row["p"] = round(test.difference, 4), float(f"{test.p:.3g}")
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--predictions", type=Path, default=RESULTS, help="folder of the folds' predictions")
    more = "may be given several times; every one that was predicted with if absent"
    parser.add_argument("--backbone", dest="backbones", action="append", help=more)


def minutes(given: Mapping[str, Any]) -> float:
    """A few seconds."""
    return 0.1


TABLE = Table(
    "busbra-table",
    "AUC, sensitivity and specificity on BUS-BRA's held-out folds, by case, and fusion1 against the views",
    make_table,
    minutes,
    arguments,
    takes_pack=False,
)

"""Table 6: how far the model and the readers agree."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.evaluation.agreement import cohen_kappa, fleiss_kappa, fleiss_kappa_resampled
from scanside.evaluation.predictions import THRESHOLD
from scanside.evaluation.readings import PLANE_WORDS, Reading, pooled_by_level
from scanside.evaluation.resampling import Bootstrap, percentile_interval
from scanside.evaluation.result import Evaluation
from scanside.evaluation.table import Table, bounds, number, span


def table6(evaluation: Evaluation) -> Table:
    """Cohen's kappa of every two raters without assistance, with the most planes read, in each cohort."""
    rows: list[tuple[str, ...]] = []
    records: list[dict[str, Any]] = []
    several = evaluation.several_cohorts
    columns: tuple[str, ...] = ()
    planes_used = set()
    for cohort, planes, readings in _unassisted(evaluation):
        planes_used.add(PLANE_WORDS[planes])
        raters = _raters(evaluation, cohort, readings)
        names = list(raters)
        cells = {}
        for first, second in combinations(names, 2):
            kappa = cohen_kappa(raters[first], raters[second])
            interval = kappa.interval()
            cells[first, second] = f"{number(kappa.kappa)} ({span(interval)})"
            record = {"cohort": cohort, "planes": planes, "first": first, "second": second, "kappa": kappa.kappa}
            record |= {"se": kappa.se, **bounds("kappa", interval), "interval": kappa.method, "words": kappa.words}
            records.append(record)
        columns = columns if len(columns) > len(names) else ("", *names[1:])
        for first in names[:-1]:
            row = (first, *(cells.get((first, second), "") for second in names[1:]))
            rows.append((*((cohort,) if several else ()), *row))
    width = max((len(row) for row in rows), default=0)
    return Table(
        "table6",
        f"Table 6. Agreement of the readers ({' and '.join(sorted(planes_used))}, without assistance) and the model",
        (*(("Cohort",) if several else ()), *columns),
        tuple(row + ("",) * (width - len(row)) for row in rows),
        tuple(records),
        ("Cohen's kappa of the binary calls (95% CI: asymptotic, Fleiss-Cohen-Everitt).",),
    )


def table6_fleiss(evaluation: Evaluation) -> Table | None:
    """Fleiss' kappa of all readers, of each level, and of the readers with the model; None with one reader."""
    records: list[dict[str, Any]] = []
    for cohort in evaluation.predictions.cohorts:
        cases = evaluation.predictions.of_cohort(cohort)
        bootstrap = Bootstrap(cases.malignant, cases.patient, evaluation.rounds, evaluation.seed)
        for planes, assisted, group, calls in _groups(evaluation, cohort):
            interval = percentile_interval(bootstrap.values(partial(fleiss_kappa_resampled, calls)))
            record: dict[str, Any] = {"cohort": cohort, "planes": planes, "assisted": assisted, "raters": group}
            record |= {"n_raters": calls.shape[1], "kappa": fleiss_kappa(calls), **bounds("kappa", interval)}
            records.append(record | {"interval": interval.method})
    if not records:
        return None
    several = evaluation.several_cohorts
    rows = tuple(
        (
            *((r["cohort"],) if several else ()),
            PLANE_WORDS[r["planes"]],
            "with" if r["assisted"] else "without",
            r["raters"],
            str(r["n_raters"]),
            f"{number(r['kappa'])} ({number(r['kappa_low'])}–{number(r['kappa_high'])})",
        )
        for r in records
    )
    columns = (*(("Cohort",) if several else ()), "Planes", "Assistance", "Raters", "Number", "Fleiss' kappa (95% CI)")
    note = f"Intervals: patient-stratified percentile bootstrap ({evaluation.rounds} rounds)."
    return Table(
        "table6-fleiss", "Table 6, groups. Agreement within groups of readers", columns, rows, tuple(records), (note,)
    )


def _unassisted(evaluation: Evaluation) -> list[tuple[str, int, list[Reading]]]:
    """By cohort the readings without assistance of the most planes."""
    found = []
    for cohort in evaluation.predictions.cohorts:
        here = [r for r in evaluation.readings if r.cohort == cohort and not r.assisted]
        if here:
            planes = max(r.planes for r in here)
            found.append((cohort, planes, [r for r in here if r.planes == planes]))
    return found


def _raters(evaluation: Evaluation, cohort: str, readings: list[Reading]) -> dict[str, NDArray[np.bool_]]:
    calls = {reading.reader: reading.called for reading in readings}
    probability = evaluation.predictions.of_cohort(cohort).probability.get(evaluation.index)
    return calls if probability is None else {str(evaluation.index): probability > THRESHOLD, **calls}


def _groups(evaluation: Evaluation, cohort: str) -> list[tuple[int, bool, str, NDArray[np.bool_]]]:
    """Planes, assistance, name and calls [cases, raters] of every group of two or more raters."""
    cases = evaluation.predictions.of_cohort(cohort)
    found = []
    keys = sorted({(r.planes, r.assisted) for r in evaluation.readings if r.cohort == cohort})
    for planes, assisted in keys:
        here = [r for r in evaluation.readings if (r.cohort, r.planes, r.assisted) == (cohort, planes, assisted)]
        groups = {"all readers": tuple(here)} | pooled_by_level(here)
        for name, group in groups.items():
            calls = [r.called for r in group]
            if len(group) > 1:
                found.append((planes, assisted, name, np.stack(calls, axis=1)))
            if name == "all readers" and evaluation.index in cases.probability:
                model = cases.probability[evaluation.index] > THRESHOLD
                found.append(
                    (planes, assisted, f"all readers and {evaluation.index}", np.stack([*calls, model], axis=1))
                )
    return found

"""Tables 4 and 5: radiologists alone, pooled by level, with and without assistance, and against the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.evaluation.diagnosis import PROPORTIONS, Confusion, confusion, proportion_interval
from scanside.evaluation.paired import Comparison, compare_right, holm_by_family, paired_t
from scanside.evaluation.predictions import THRESHOLD, Predictions
from scanside.evaluation.readings import PLANE_WORDS, Reading, pooled_by_level
from scanside.evaluation.result import Evaluation
from scanside.evaluation.roc import delong, hanley_mcneil
from scanside.evaluation.table import Table, bounds, number, p_text, percent

TIME = "reading time (s)"
SUBSETS = ("sensitivity", "specificity", "accuracy")


@dataclass(frozen=True)
class Pool:
    """The readings of one reader, or of all readers of a level, over the cases of one cohort."""

    label: str
    level: str
    cohort: Predictions
    readings: tuple[Reading, ...]

    @property
    def malignant(self) -> NDArray[np.bool_]:
        return np.tile(self.cohort.malignant, len(self.readings))

    @property
    def patient(self) -> NDArray:
        return np.tile(self.cohort.patient, len(self.readings))

    @property
    def called(self) -> NDArray[np.bool_]:
        return np.concatenate([reading.called for reading in self.readings])

    @property
    def category(self) -> NDArray[np.int64]:
        return np.concatenate([reading.category for reading in self.readings])

    @property
    def confusion(self) -> Confusion:
        return confusion(self.malignant, self.called)

    def subset(self, metric: str) -> NDArray[np.bool_]:
        """The answers that sensitivity, specificity or accuracy is about."""
        every = np.ones_like(self.malignant)
        return {"sensitivity": self.malignant, "specificity": ~self.malignant, "accuracy": every}[metric]


def pools(evaluation: Evaluation, cohort: str, planes: int, *, assisted: bool) -> dict[str, Pool]:
    """Each reader of a cohort, and after the readers of a level that level, by label."""
    cases = evaluation.predictions.of_cohort(cohort)
    wanted = (cohort, planes, assisted)
    here = [r for r in evaluation.readings if (r.cohort, r.planes, r.assisted) == wanted]
    made: dict[str, Pool] = {}
    for level, group in pooled_by_level(here).items():
        for reading in group:
            made[reading.reader] = Pool(reading.reader, level, cases, (reading,))
        if len(group) > 1:
            made[f"all {level}"] = Pool(f"all {level}", level, cases, group)
    return made


def settings(evaluation: Evaluation) -> list[tuple[str, int]]:
    """Cohorts and plane counts that have readings, in order."""
    return sorted(
        {(r.cohort, r.planes) for r in evaluation.readings},
        key=lambda s: (evaluation.predictions.cohorts.index(s[0]), s[1]),
    )


def table4(evaluation: Evaluation) -> Table:
    """Every reader without assistance, in each set of planes."""
    rows, records = [], []
    several = evaluation.several_cohorts
    for cohort, planes in settings(evaluation):
        for pool in pools(evaluation, cohort, planes, assisted=False).values():
            record = _reader_record(pool, planes)
            records.append(record)
            cells = [
                f"{percent(record[metric])} ({share.numerator}/{share.denominator}; {_percent_span(record, metric)})"
                for metric, share in pool.confusion.proportions.items()
            ]
            area = f"{number(record['auc'])} ({number(record['auc_low'])}–{number(record['auc_high'])})"
            rows.append((*((cohort,) if several else ()), PLANE_WORDS[planes], pool.label, *cells, area))
    columns = (*(("Cohort",) if several else ()), "Planes", "Reader")
    columns += ("Sensitivity (%)", "Specificity (%)", "PPV (%)", "NPV (%)", "Accuracy (%)", "AUC (95% CI)")
    return Table(
        "table4",
        "Table 4. Diagnostic performance of the readers without assistance",
        columns,
        tuple(rows),
        tuple(records),
        (
            "BI-RADS 4A and above counts as positive. Percentage (count; 95% CI); intervals of one reader: Wilson; of "
            "pooled readers: Wilson by effective sample size, clustered by patient (Rao-Scott). AUC of the binary "
            "call, that is (sensitivity + specificity) / 2, with DeLong's interval on the logit scale (clustered by "
            "patient for pooled readers, Obuchowski). The CSV also has Clopper-Pearson intervals, the Hanley-McNeil "
            "interval that IBM SPSS prints, and the AUC of the ordered BI-RADS categories.",
        ),
    )


def table4_differences(evaluation: Evaluation) -> Table | None:
    """Each reader with three planes against two; None unless both were read."""
    entries = []
    for cohort in evaluation.predictions.cohorts:
        two, three = (pools(evaluation, cohort, planes, assisted=False) for planes in (2, 3))
        entries += [(cohort, three[label], two[label]) for label in three if _comparable(three, two, label)]
    return _compared(
        evaluation,
        "table4-differences",
        "Table 4, differences. Three planes minus two planes, without assistance",
        entries,
        "three",
        "two",
    )


def table5(evaluation: Evaluation) -> Table | None:
    """Each reader with and without assistance, and without it against the model; None unless both were read."""
    entries = []
    for cohort, planes in settings(evaluation):
        if evaluation.accuracy(cohort) is None:
            continue
        without, assisted = (pools(evaluation, cohort, planes, assisted=a) for a in (False, True))
        both = [label for label in without if _comparable(without, assisted, label)]
        entries += [(planes, without[label], assisted[label]) for label in both]
    if not entries:
        return None
    records = [record for planes, a, b in entries for record in _assistance_records(evaluation, planes, a, b)]
    families = [(r["cohort"], r["planes"], r["index"] == TIME) for r in records]
    for column in ("p1", "p2"):
        for record, adjusted in zip(records, holm_by_family([r[column] for r in records], families), strict=True):
            record[f"{column}_holm"] = adjusted
    several_planes = len({planes for planes, _, _ in entries}) > 1
    rows = []
    for record in records:
        head = [record["cohort"]] if evaluation.several_cohorts else []
        head += [PLANE_WORDS[record["planes"]]] if several_planes else []
        p = [p_text(record[c]) for c in ("p1", "p1_holm", "p2", "p2_holm")]
        head += [record["level"], record["reader"], record["index"]]
        rows.append((*head, *_arms(record), *p))
    columns = (*(("Cohort",) if evaluation.several_cohorts else ()), *(("Planes",) if several_planes else ()))
    columns += ("Level", "Reader", "Index", "Without", "With", "P1", "P1 (Holm)", "P2", "P2 (Holm)")
    return Table(
        "table5",
        "Table 5. Readers without and with the model's assistance, and the model",
        columns,
        tuple(rows),
        tuple(records),
        (
            f"P1: {evaluation.index} against the readers without assistance. P2: readers with against without "
            "assistance. Sensitivity, specificity and accuracy in %: McNemar's exact test for one reader; for pooled "
            "readers McNemar's test clustered by patient (Durkalski). Reading time: mean ± SD, paired t-test (pooled: "
            "of each patient's mean). Holm: over the tests of P1 in a cohort, those of P2, and apart from them those "
            "of reading time.",
        ),
    )


def _comparable(first: dict[str, Pool], second: dict[str, Pool], label: str) -> bool:
    """Whether both have this reader, or this level with the same readers."""
    if label not in first or label not in second:
        return False
    return [r.reader for r in first[label].readings] == [r.reader for r in second[label].readings]


def _percent_span(record: dict[str, Any], metric: str) -> str:
    return f"{percent(record[f'{metric}_low'])}–{percent(record[f'{metric}_high'])}"


def _reader_record(pool: Pool, planes: int) -> dict[str, Any]:
    truth, call, patient = pool.malignant, pool.called, pool.patient
    counts = pool.confusion
    record: dict[str, Any] = {"cohort": pool.cohort.cohorts[0], "planes": planes, "level": pool.level}
    record |= {"reader": pool.label, "readings": len(pool.readings), "interval": ""}
    record |= {"tp": counts.tp, "fn": counts.fn, "tn": counts.tn, "fp": counts.fp}
    among = (truth, ~truth, call, ~call, np.ones_like(truth))
    for metric, who in zip(PROPORTIONS, among, strict=True):
        interval = proportion_interval((truth == call)[who], patient[who])
        record |= {metric: counts.proportions[metric].estimate, **bounds(metric, interval)}
        record |= bounds(f"{metric}_clopper_pearson", counts.proportions[metric].clopper_pearson())
        if metric == "sensitivity":
            record["interval"] = interval.method
    area, graded = delong(truth, call, patient), delong(truth, pool.category, patient)
    record |= {"f1": counts.f1, "auc": area.auc, "auc_method": area.interval().method, **bounds("auc", area.interval())}
    record |= bounds("auc_hanley_mcneil", hanley_mcneil(truth, call).wald())
    return record | {"auc_birads": graded.auc, **bounds("auc_birads", graded.interval())}


def _compared(
    evaluation: Evaluation, name: str, title: str, entries: Sequence[tuple[str, Pool, Pool]], first: str, second: str
) -> Table | None:
    if not entries:
        return None
    records = []
    for cohort, a, b in entries:
        record: dict[str, Any] = {"cohort": cohort, "level": a.level, "reader": a.label}
        for metric in SUBSETS:
            test = _pool_test(a, b, metric)
            record |= {f"{metric}_{second}": _share(b, metric), f"{metric}_{first}": _share(a, metric)}
            record |= _test_fields(test, metric)
        records.append(record)
    for metric in SUBSETS:
        adjusted_p = holm_by_family([r[f"p_{metric}"] for r in records], [r["cohort"] for r in records])
        for record, adjusted in zip(records, adjusted_p, strict=True):
            record[f"p_{metric}_holm"] = adjusted
    rows = tuple(
        ((r["cohort"],) if evaluation.several_cohorts else ())
        + (r["reader"],)
        + tuple(
            cell
            for m in SUBSETS
            for cell in (
                f"{percent(r[f'{m}_{second}'])} → {percent(r[f'{m}_{first}'])}",
                p_text(r[f"p_{m}"]),
                p_text(r[f"p_{m}_holm"]),
            )
        )
        for r in records
    )
    columns = (*(("Cohort",) if evaluation.several_cohorts else ()), "Reader")
    columns += tuple(c for m in SUBSETS for c in (f"{m.capitalize()} (%)", "P", "P (Holm)"))
    note = (
        "McNemar's exact test for one reader; for pooled readers McNemar's test clustered by patient (Durkalski). "
        "Holm: over the tests of each column in a cohort."
    )
    return Table(name, title, columns, rows, tuple(records), (note,))


def _share(pool: Pool, metric: str) -> float:
    return pool.confusion.proportions[metric].estimate


def _pool_test(first: Pool, second: Pool, metric: str) -> Comparison:
    who = first.subset(metric)
    first_right, second_right = ((pool.called == pool.malignant)[who] for pool in (first, second))
    return compare_right(first_right, second_right, first.patient[who])


def _test_fields(test: Comparison, metric: str) -> dict[str, Any]:
    return {
        f"{metric}_difference": test.difference,
        f"{metric}_only_first_right": test.only_first,
        f"{metric}_only_second_right": test.only_second,
        f"p_{metric}": test.p,
        f"p_{metric}_asymptotic": test.p_asymptotic,
        f"{metric}_test": test.method,
    }


def _assistance_records(evaluation: Evaluation, planes: int, without: Pool, assisted: Pool) -> list[dict[str, Any]]:
    base = {"cohort": without.cohort.cohorts[0], "planes": planes, "level": without.level, "reader": without.label}
    records = []
    times = [_times_by_patient(pool) for pool in (without, assisted)]
    both = ~np.isnan(times[0]) & ~np.isnan(times[1])
    if both.sum() >= 2:
        test = paired_t(times[1][both], times[0][both])
        record = {**base, "index": TIME, "without": _mean(without), "with": _mean(assisted)}
        record |= {"without_sd": _sd(without), "with_sd": _sd(assisted), "p1": np.nan, "p2": test.p}
        record |= {"difference": test.mean, **bounds("difference", test.interval)}
        records.append(record | {"p1_test": "", "p2_test": "paired t"})
    called = without.cohort.probability[evaluation.index] > THRESHOLD
    model_right = np.tile(called == without.cohort.malignant, len(without.readings))
    for metric in SUBSETS:
        who = without.subset(metric)
        right = (without.called == without.malignant)[who]
        against_model = compare_right(model_right[who], right, without.patient[who])
        helped = _pool_test(assisted, without, metric)
        record = {**base, "index": metric, "without": _share(without, metric), "with": _share(assisted, metric)}
        record |= {"without_sd": np.nan, "with_sd": np.nan, "p1": against_model.p, "p2": helped.p}
        record |= {"difference": helped.difference, "difference_low": np.nan, "difference_high": np.nan}
        record |= {"p1_test": against_model.method, "p2_test": helped.method}
        record |= {"p1_asymptotic": against_model.p_asymptotic, "p2_asymptotic": helped.p_asymptotic}
        record |= {"p1_only_model_right": against_model.only_first, "p1_only_reader_right": against_model.only_second}
        record |= {"p2_only_with_right": helped.only_first, "p2_only_without_right": helped.only_second}
        records.append(record)
    return records


def _all_times(pool: Pool) -> NDArray[np.float64]:
    times = np.concatenate([reading.time_s for reading in pool.readings])
    return times[~np.isnan(times)]


def _mean(pool: Pool) -> float:
    return float(_all_times(pool).mean())


def _sd(pool: Pool) -> float:
    return float(_all_times(pool).std(ddof=1))


def _times_by_patient(pool: Pool) -> NDArray[np.float64]:
    """The mean reading time of each patient over the readers and her lesions; NaN where one is not stated."""
    code = np.unique(pool.patient, return_inverse=True)[1]
    times = np.concatenate([reading.time_s for reading in pool.readings])
    return np.bincount(code, times) / np.bincount(code)


def _arms(record: dict[str, Any]) -> tuple[str, str]:
    if record["index"] != TIME:
        return percent(record["without"]), percent(record["with"])
    both = (("without", "without_sd"), ("with", "with_sd"))
    return tuple(f"{number(record[a], 1)} ± {number(record[b], 1)}" for a, b in both)  # type: ignore[return-value]

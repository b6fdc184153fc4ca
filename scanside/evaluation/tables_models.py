"""Tables 2 and 3: classifiers by model and by planes, in every cohort, and whether they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from scanside.evaluation.accuracy import METRIC_WORDS, METRICS, Accuracy
from scanside.evaluation.diagnosis import PROPORTIONS
from scanside.evaluation.paired import Comparison, compare_right, holm, holm_by_family
from scanside.evaluation.predictions import THRESHOLD, Classifier
from scanside.evaluation.result import Evaluation
from scanside.evaluation.roc import paired_delong, unpaired_delong
from scanside.evaluation.table import Table, bounds, number, p_text, span

P_COLUMNS = ("p_auc", "p_sensitivity", "p_specificity")


def table2(evaluation: Evaluation) -> Table:
    """Every model with the index classifier's planes, in every cohort."""
    planes = evaluation.index.planes
    chosen = [a for a in evaluation.accuracies if a.classifier.planes == planes]
    seen = f" ({planes})" if planes else ""
    return _performance(evaluation, "table2", f"Table 2. Performance of the models{seen}", "Model", chosen, _model)


def table3(evaluation: Evaluation) -> Table:
    """The index model with every choice of planes, in every cohort."""
    chosen = [a for a in evaluation.accuracies if a.classifier.model == evaluation.index.model]
    title = f"Table 3. Performance of {evaluation.index.model} by planes and cohort"
    return _performance(evaluation, "table3", title, "Planes", chosen, _planes)


def table2_differences(evaluation: Evaluation) -> Table | None:
    """The index classifier against every other model on the same cases; None when there is no other."""
    pairs = [
        (a.cohort, a.classifier)
        for a in evaluation.accuracies
        if a.classifier.planes == evaluation.index.planes and a.classifier != evaluation.index
    ]
    title = f"Table 2, differences. {evaluation.index} minus the other models, on the same cases"
    return _differences(evaluation, "table2-differences", title, "Against", pairs, _model)


def table3_differences(evaluation: Evaluation) -> Table | None:
    """The index classifier against its other planes on the same cases; None when there are none."""
    pairs = [
        (a.cohort, a.classifier)
        for a in evaluation.accuracies
        if a.classifier.model == evaluation.index.model and a.classifier != evaluation.index
    ]
    title = f"Table 3, differences. {evaluation.index} minus its other planes, on the same cases"
    return _differences(evaluation, "table3-differences", title, "Against", pairs, _planes)


def table3_cohorts(evaluation: Evaluation) -> Table | None:
    """The index classifier in the first cohort against the others: different cases; None with one cohort."""
    seen = [a for a in evaluation.accuracies if a.classifier == evaluation.index]
    if len(seen) < 2:
        return None
    first, others = seen[0], seen[1:]
    tests = [unpaired_delong(first.auc, other.auc) for other in others]
    records: list[dict[str, Any]] = [
        {
            "first": first.cohort,
            "second": other.cohort,
            "auc_difference": test.difference,
            **bounds("delong", test.interval()),
            "p_auc": test.p,
            "p_auc_holm": adjusted,
        }
        for other, test, adjusted in zip(others, tests, holm([t.p for t in tests]), strict=True)
    ]
    rows = tuple(
        (other.cohort, f"{number(test.difference)} ({span(test.interval())})", p_text(test.p), p_text(r["p_auc_holm"]))
        for other, test, r in zip(others, tests, records, strict=True)
    )
    return Table(
        "table3-cohorts",
        f"Table 3, cohorts. {evaluation.index} in {first.cohort} minus the other cohorts",
        ("Cohort", "AUC difference (95% CI)", "P", "P (Holm)"),
        rows,
        tuple(records),
        (f"Unpaired z-test with {first.auc.method} variances; Holm over the {len(tests)} tests of this table.",),
    )


def interval_note(evaluation: Evaluation) -> str:
    """Which interval each metric has."""
    proportions = "Wilson"
    area = "DeLong, on the logit scale"
    if evaluation.clustered:
        proportions = "Wilson (by effective sample size, Rao-Scott, in cohorts where a patient has several lesions)"
        area = "DeLong, on the logit scale (clustered by patient, Obuchowski, where a patient has several lesions)"
    return (
        f"Values (95% CI). Intervals: {proportions} for proportions; patient-stratified percentile bootstrap "
        f"({evaluation.rounds} rounds) for the F1 score; {area}, for the AUC. The CSV also has Clopper-Pearson and "
        f"bootstrap intervals. Malignant when the probability is > {THRESHOLD:g}."
    )


def _model(classifier: Classifier) -> str:
    return classifier.model


def _planes(classifier: Classifier) -> str:
    return classifier.planes or "not stated"


def _performance(
    evaluation: Evaluation,
    name: str,
    title: str,
    head: str,
    chosen: Iterable[Accuracy],
    label: Callable[[Classifier], str],
) -> Table:
    chosen = sorted(chosen, key=lambda a: evaluation.predictions.cohorts.index(a.cohort))
    several = evaluation.several_cohorts
    rows = tuple(
        ((a.cohort,) if several else ())
        + (label(a.classifier), *(f"{number(a.estimate(m))} ({span(a.interval[m])})" for m in METRICS))
        for a in chosen
    )
    columns = (*(("Cohort",) if several else ()), head, *(METRIC_WORDS[m] for m in METRICS))
    records = tuple(record for a in chosen for record in accuracy_records(a))
    return Table(name, title, columns, rows, records, (interval_note(evaluation),))


def accuracy_records(a: Accuracy) -> list[dict[str, Any]]:
    """One record a metric: its value, its counts and every interval."""
    records = []
    for metric in METRICS:
        record: dict[str, Any] = {
            "cohort": a.cohort,
            "model": a.classifier.model,
            "planes": a.classifier.planes,
            "metric": metric,
            "estimate": a.estimate(metric),
            "numerator": None,
            "denominator": None,
            "printed_interval": a.interval[metric].method,
            **bounds("printed", a.interval[metric]),
        }
        if metric in PROPORTIONS:
            share = a.confusion.proportions[metric]
            record |= {"numerator": share.numerator, "denominator": share.denominator}
            record |= bounds("wilson", share.wilson()) | bounds("clopper_pearson", share.clopper_pearson())
        if metric == "auc":
            record |= {"delong_se": a.auc.se, **bounds("delong_wald", a.auc.wald())}
        records.append(record | bounds("bootstrap", a.bootstrap[metric]))
    return records


def _differences(
    evaluation: Evaluation,
    name: str,
    title: str,
    head: str,
    pairs: Iterable[tuple[str, Classifier]],
    label: Callable[[Classifier], str],
) -> Table | None:
    compared = [(cohort, other) for cohort, other in pairs if evaluation.accuracy(cohort) is not None]
    if not compared:
        return None
    records = [_difference(evaluation, cohort, other) for cohort, other in compared]
    for column in P_COLUMNS:
        adjusted_p = holm_by_family([r[column] for r in records], [r["cohort"] for r in records])
        for record, adjusted in zip(records, adjusted_p, strict=True):
            record[f"{column}_holm"] = adjusted
    several = evaluation.several_cohorts
    rows = tuple(
        ((cohort,) if several else ())
        + (label(other), f"{number(r['auc_difference'])} ({number(r['delong_low'])} to {number(r['delong_high'])})")
        + tuple(p_text(r[c]) for column in P_COLUMNS for c in (column, f"{column}_holm"))
        for (cohort, other), r in zip(compared, records, strict=True)
    )
    columns = (*(("Cohort",) if several else ()), head, "AUC difference (95% CI)", "P", "P (Holm)")
    columns += ("Sensitivity: P", "P (Holm)", "Specificity: P", "P (Holm)")
    methods = sorted({r["auc_method"] for r in records}), sorted({r["call_method"] for r in records})
    return Table(
        name,
        title,
        columns,
        rows,
        tuple(records),
        (
            f"AUC: {' or '.join(methods[0])}. Sensitivity and specificity: {' or '.join(methods[1])}. "
            "Holm: over the tests of each column in a cohort.",
        ),
    )


def _difference(evaluation: Evaluation, cohort: str, other: Classifier) -> dict[str, Any]:
    cases = evaluation.predictions.of_cohort(cohort)
    first, second = cases.probability[evaluation.index], cases.probability[other]
    area = paired_delong(cases.malignant, first, second, cases.patient)

    def compared(who: Any) -> Comparison:
        first_right, second_right = ((p > THRESHOLD)[who] == cases.malignant[who] for p in (first, second))
        return compare_right(first_right, second_right, cases.patient[who])

    on_malignant, on_benign = compared(cases.malignant), compared(~cases.malignant)
    return {
        "cohort": cohort,
        "index": str(evaluation.index),
        "other": str(other),
        "auc_difference": area.difference,
        **bounds("delong", area.interval()),
        "auc_method": area.method,
        "p_auc": area.p,
        "sensitivity_difference": on_malignant.difference,
        "sensitivity_only_index_right": on_malignant.only_first,
        "sensitivity_only_other_right": on_malignant.only_second,
        "p_sensitivity": on_malignant.p,
        "p_sensitivity_asymptotic": on_malignant.p_asymptotic,
        "specificity_difference": on_benign.difference,
        "specificity_only_index_right": on_benign.only_first,
        "specificity_only_other_right": on_benign.only_second,
        "p_specificity": on_benign.p,
        "p_specificity_asymptotic": on_benign.p_asymptotic,
        "call_method": on_malignant.method
        if on_malignant.method == on_benign.method
        else "McNemar, exact or clustered",
    }

"""Tables beyond the paper's: accuracy by lesion size, calibration, and lesion detection."""

from __future__ import annotations

from typing import Any

import numpy as np

from scanside.evaluation.curves import calibration
from scanside.evaluation.detection import FALSE_POSITIVE_RATES, froc, froc_intervals, sensitivity_by_size
from scanside.evaluation.diagnosis import Proportion
from scanside.evaluation.predictions import THRESHOLD
from scanside.evaluation.result import Evaluation
from scanside.evaluation.table import NOTHING, Table, bounds, number, span


def table_sizes(evaluation: Evaluation) -> Table | None:
    """Sensitivity and specificity of the index classifier by size class; None without sizes."""
    rows, records = [], []
    for accuracy in (a for a in evaluation.accuracies if a.classifier == evaluation.index):
        cases = evaluation.predictions.of_cohort(accuracy.cohort)
        right = (cases.probability[evaluation.index] > THRESHOLD) == cases.malignant
        shares = [sensitivity_by_size(cases.size_mm[who], right[who]) for who in (cases.malignant, ~cases.malignant)]
        if np.isnan(cases.size_mm).all():
            continue
        for name in shares[0]:
            record: dict[str, Any] = {"cohort": accuracy.cohort, "size": name}
            cells = []
            for metric, by_size in zip(("sensitivity", "specificity"), shares, strict=True):
                record |= _share_fields(metric, by_size[name])
                cells.append(_share_cell(by_size[name]))
            records.append(record)
            rows.append((*((accuracy.cohort,) if evaluation.several_cohorts else ()), name, *cells))
    if not rows:
        return None
    columns = (*(("Cohort",) if evaluation.several_cohorts else ()), "Lesion size", "Sensitivity", "Specificity")
    note = "Value (count; 95% CI, Wilson). Lesions without a size are left out."
    title = f"Table 7. {evaluation.index} by lesion size"
    return Table("table7-sizes", title, columns, tuple(rows), tuple(records), (note,))


def table_calibration(evaluation: Evaluation) -> Table:
    """The Brier score of every classifier in every cohort."""
    rows, records = [], []
    for accuracy in evaluation.accuracies:
        cases = evaluation.predictions.of_cohort(accuracy.cohort)
        probability = cases.probability[accuracy.classifier]
        found = calibration(cases.malignant, probability)
        mean, prevalence = float(probability.mean()), float(cases.malignant.mean())
        record = {"cohort": accuracy.cohort, "classifier": str(accuracy.classifier), "brier": found.brier}
        record |= {"scaled_brier": found.scaled_brier, "mean_probability": mean, "prevalence": prevalence}
        records.append(record)
        cells = (number(found.brier), number(found.scaled_brier), number(mean), number(prevalence))
        head = (accuracy.cohort,) if evaluation.several_cohorts else ()
        rows.append((*head, str(accuracy.classifier), *cells))
    columns = (*(("Cohort",) if evaluation.several_cohorts else ()), "Classifier")
    columns += ("Brier score", "Scaled Brier score", "Mean probability", "Share malignant")
    note = (
        "Brier score: mean squared error of the probability, 0 is best. Scaled: 1 minus its ratio to that of always "
        "saying the share of malignant lesions; 1 is perfect, 0 no better than that."
    )
    return Table("table8-calibration", "Table 8. Calibration", columns, tuple(rows), tuple(records), (note,))


def table_detection(evaluation: Evaluation) -> Table | None:
    """FROC sensitivities and lesions found by size class; None without detections."""
    detections = evaluation.detections
    if detections is None:
        return None
    curve = froc(detections)
    intervals = froc_intervals(detections, evaluation.rounds, evaluation.seed)
    records: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for rate in (*FALSE_POSITIVE_RATES, np.nan):
        value = curve.mean_sensitivity if np.isnan(rate) else curve.sensitivity_at(rate)
        interval = intervals[rate]
        name = f"Sensitivity at {rate:g} false positives a volume"
        name = "Mean of these (FROC score)" if np.isnan(rate) else name
        records.append({"quantity": name, "value": value, **bounds("value", interval)})
        records[-1]["interval"] = interval.method
        rows.append((name, f"{number(value)} ({span(interval)})"))
    found = np.isfinite(detections.lesion_score)
    shares = {"all lesions": Proportion(int(found.sum()), len(found))}
    if not np.isnan(detections.lesion_size_mm).all():
        shares |= sensitivity_by_size(detections.lesion_size_mm, found)
    for name, share in shares.items():
        records.append({"quantity": f"Found at any score: {name}", "value": share.estimate})
        records[-1] |= {**bounds("value", share.wilson()), "interval": "Wilson"}
        records[-1] |= {"numerator": share.numerator, "denominator": share.denominator}
        rows.append((f"Found at any score: {name}", _share_cell(share)))
    false = len(detections.false_score)
    note = (
        f"{len(found)} lesions and {false} false positives in {detections.n_volumes} volumes. Sensitivities: 95% CI by "
        f"percentile bootstrap of volumes ({evaluation.rounds} rounds). Shares found: Wilson."
    )
    columns = ("Quantity", "Value (95% CI)")
    return Table("table9-detection", "Table 9. Lesion detection", columns, tuple(rows), tuple(records), (note,))


def _share_cell(share: Proportion) -> str:
    if share.denominator == 0:
        return f"{NOTHING} (0/0)"
    return f"{number(share.estimate)} ({share.numerator}/{share.denominator}; {span(share.wilson())})"


def _share_fields(metric: str, share: Proportion) -> dict[str, Any]:
    counts = {f"{metric}_numerator": share.numerator, f"{metric}_denominator": share.denominator}
    return {metric: share.estimate, **counts, **bounds(f"{metric}_wilson", share.wilson())}

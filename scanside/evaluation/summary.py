"""summary.md: the results in sentences, the methods as they were applied, every table and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scanside.evaluation.accuracy import Accuracy
from scanside.evaluation.drawing import Drawing
from scanside.evaluation.predictions import THRESHOLD
from scanside.evaluation.readings import PLANE_WORDS, Reading
from scanside.evaluation.result import Evaluation
from scanside.evaluation.table import Table, number, p_text, percent, span
from scanside.evaluation.tables_readers import TIME

NOTICE = "Research use only. Not a medical device."


def summary(evaluation: Evaluation, tables: Sequence[Table], drawings: Sequence[Drawing]) -> str:
    """The whole document, in Markdown."""
    parts = ["# Evaluation", "", *_results(evaluation, tables), "", "## Statistical analysis", ""]
    parts.append(methods(evaluation, tables))
    warnings = notes(evaluation, tables)
    if warnings:
        parts += ["", "## To mind", "", *(f"- {warning}" for warning in warnings)]
    parts += ["", "## Tables", ""]
    for table in tables:
        parts += [table.markdown()]
    parts += ["## Figures", ""]
    for drawing in drawings:
        parts += [f"![{drawing.name}](figures/{drawing.name}.png)", "", drawing.caption, ""]
    return "\n".join([*parts, NOTICE, ""])


def headline(accuracy: Accuracy) -> str:
    """One sentence with the figures of one classifier in one cohort."""
    c = accuracy.confusion
    area = accuracy.interval["auc"]
    shares = []
    for metric in ("sensitivity", "specificity", "accuracy"):
        share = c.proportions[metric]
        interval = accuracy.interval[metric]
        shares.append(
            f"{metric} {percent(share.estimate)}% ({share.numerator}/{share.denominator}; 95% CI "
            f"{percent(interval.low)}–{percent(interval.high)}%)"
        )
    return (
        f"{accuracy.classifier} reached an AUC of {number(accuracy.auc.auc)} (95% CI {span(area)}), {shares[0]}, "
        f"{shares[1]} and {shares[2]}, with an F1 score of {number(c.f1)} ({span(accuracy.interval['f1'])})"
    )


def _results(evaluation: Evaluation, tables: Sequence[Table]) -> list[str]:
    lines = ["## Results", ""]
    for name in evaluation.predictions.cohorts:
        cases = evaluation.predictions.of_cohort(name)
        n = len(cases)
        malignant = int(cases.malignant.sum())
        place = f"{name[0].upper()}{name[1:]}"
        who = f"**{place}** ({n} lesions of {cases.n_patients} patients; {malignant} malignant, {n - malignant} benign)"
        accuracy = evaluation.accuracy(name)
        text = f"{who}: {headline(accuracy)}." if accuracy else f"{who}: not seen by {evaluation.index}."
        lines += [" ".join([text, *_reader_sentences(evaluation, name, tables)]), ""]
    return lines[:-1]


def _reader_sentences(evaluation: Evaluation, cohort: str, tables: Sequence[Table]) -> list[str]:
    """Each level without and with assistance, from Table 5."""
    table = next((t for t in tables if t.name == "table5"), None)
    if table is None:
        return []
    here = [r for r in table.records if r["cohort"] == cohort]
    planes = max((r["planes"] for r in here), default=0)
    owners: dict[str, list[Mapping[str, Any]]] = {}
    for record in here:
        if record["planes"] == planes:
            owners.setdefault(record["reader"], []).append(record)
    pooled = {records[0]["level"] for name, records in owners.items() if name == f"all {records[0]['level']}"}
    sentences = []
    for name, records in owners.items():
        level = records[0]["level"]
        if level in pooled and name != f"all {level}":
            continue  # the level speaks for its readers
        who = f"{level} readers'" if level in pooled else f"{name}'s"
        changes = [
            f"{metric} went from {percent(r['without'])}% to {percent(r['with'])}% {_p(r)}"
            for r in records
            if (metric := r["index"]) in ("sensitivity", "specificity")
        ]
        for time in (r for r in records if r["index"] == TIME):
            seconds = f"{number(time['without'], 1)} s to {number(time['with'], 1)} s"
            changes.append(f"reading time from {seconds} {_p(time)}")
        text = ", ".join(changes[:-1]) + f" and {changes[-1]}"
        sentences.append(f"With the model's assistance, {who} {text}.")
    return sentences


def _p(record: Mapping[str, Any]) -> str:
    """Both P values of an effect of assistance, in parentheses."""
    plain, adjusted = (
        f"< {text[1:]}" if (text := p_text(record[key])).startswith("<") else f"= {text}" for key in ("p2", "p2_holm")
    )
    return f"(P {plain}; adjusted P {adjusted})"


def methods(evaluation: Evaluation, tables: Sequence[Table]) -> str:
    """What was done, in the words of a methods section; only what was."""
    sentences = [
        f"Lesions with a predicted probability of malignancy above {THRESHOLD:g} were classified as malignant.",
        "Accuracy, sensitivity, specificity, positive and negative predictive value are given with Wilson 95% "
        "confidence intervals (CI), and with Clopper-Pearson and bootstrap intervals in the data files.",
        "The area under the receiver operating characteristic curve (AUC) is given with DeLong's CI on the logit "
        f"scale, the F1 score with a patient-stratified percentile bootstrap CI ({evaluation.rounds} rounds, seed "
        f"{evaluation.seed}).",
    ]
    if evaluation.clustered:
        sentences.append(
            "Where patients had several lesions, Wilson intervals used the effective sample size (Rao-Scott), AUC "
            "variances were clustered by patient (Obuchowski), McNemar's test was clustered by patient (Durkalski), "
            "and whole patients were resampled."
        )
    if _compares(tables):
        sentences.append(
            "Classifiers were compared on the same lesions by the paired DeLong test and McNemar's exact test."
        )
    if evaluation.several_cohorts:
        sentences.append("AUCs of different cohorts were compared by a z-test.")
    if evaluation.readings:
        sentences += _reader_methods(evaluation)
    if evaluation.detections is not None:
        sentences.append("Lesion detection is given as FROC, with CI from a bootstrap of volumes.")
    if not np.isnan(evaluation.predictions.age).all() or not np.isnan(evaluation.predictions.size_mm).all():
        sentences.append(
            "Malignant and benign lesions were compared by Welch's t-test, the chi-square test or, with expected "
            "counts below 5, Fisher's exact test."
        )
    sentences += [
        "Net benefit was calculated by decision curve analysis, and calibration by reliability curves and the Brier "
        "score.",
        "P values are two-sided, and are given unadjusted and adjusted by Holm's method over the tests of one kind in "
        "one cohort; P < 0.05 was considered significant.",
    ]
    return " ".join(sentences)


def _compares(tables: Sequence[Table]) -> bool:
    """Whether classifiers were compared: those that share the index one's planes or its model are."""
    return any(table.name in ("table2-differences", "table3-differences") for table in tables)


def _reader_methods(evaluation: Evaluation) -> list[str]:
    readings = evaluation.readings
    sentences = ["BI-RADS 4A and above counted as a positive reading."]
    if any(r.assisted for r in readings) and any(not r.assisted for r in readings):
        sentences.append(
            "Readers were compared with the model, and with themselves with and without assistance, by McNemar's exact "
            "test; readers pooled by level by McNemar's test clustered by patient (Durkalski)."
        )
        if any(not np.isnan(r.time_s).all() for r in readings):
            sentences.append("Reading times were compared by paired t-tests.")
    sentences.append(
        "Agreement of two raters is Cohen's kappa with its asymptotic CI, of several raters Fleiss' kappa with a "
        "bootstrap CI."
    )
    return sentences


def notes(evaluation: Evaluation, tables: Sequence[Table]) -> list[str]:
    """What a reader of the results must know about this cohort."""
    found = list(evaluation.predictions.notes)
    for accuracy in evaluation.accuracies:
        who = f"{accuracy.classifier} in {accuracy.cohort}"
        if accuracy.auc.auc in (0.0, 1.0):
            found.append(
                f"{who}: every pair is ranked alike, so the AUC's interval is the point alone and says nothing."
            )
        smallest = min(accuracy.auc.n_malignant, accuracy.auc.n_benign)
        if smallest < 30 and accuracy.classifier == evaluation.index:
            found.append(f"{accuracy.cohort}: only {smallest} lesions of one class; asymptotic intervals are rough.")
    if evaluation.clustered:
        found.append(
            "Some patients have several lesions. Cohen's kappa, the sizes' and the calibration's intervals take "
            "lesions as independent."
        )
    if len(evaluation.predictions.probability) > 1 and not _compares(tables):
        found.append(
            f"No other classifier shares {evaluation.index}'s model or its planes, so none is compared with it."
        )
    for cohort in dict.fromkeys(r.cohort for r in evaluation.readings):
        if evaluation.accuracy(cohort) is None:
            found.append(f"{cohort}: its readers are not in Table 5, because {evaluation.index} did not see it.")
    return [*found, *_unmatched(evaluation.readings)]


def _unmatched(readings: Sequence[Reading]) -> list[str]:
    """What Table 5 leaves out, because there is nothing to compare it with."""
    keys = {reading.key for reading in readings}
    alone: dict[tuple[int, bool], list[str]] = {}
    for reading in readings:
        if (reading.cohort, reading.reader, reading.planes, not reading.assisted) not in keys:
            names = alone.setdefault((reading.planes, reading.assisted), [])
            if reading.reader not in names:
                names.append(reading.reader)
    return [
        f"{PLANE_WORDS[planes][0].upper()}{PLANE_WORDS[planes][1:]} readings {'with' if assisted else 'without'} "
        f"assistance that have no counterpart {'without' if assisted else 'with'} it are not in Table 5: "
        f"{', '.join(names)}."
        for (planes, assisted), names in alone.items()
    ]

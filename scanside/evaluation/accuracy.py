"""How well each classifier does in each cohort: every metric with its intervals, computed once for all tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.evaluation.diagnosis import (
    PROPORTIONS,
    Confusion,
    Interval,
    confusion,
    proportion_interval,
)
from scanside.evaluation.predictions import THRESHOLD, Classifier, Predictions
from scanside.evaluation.resampling import Bootstrap, percentile_interval, weighted_accuracy, weighted_auc
from scanside.evaluation.roc import Auc, delong

METRICS = (*PROPORTIONS, "f1", "auc")
METRIC_WORDS = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "accuracy": "Accuracy",
    "f1": "F1 score",
    "auc": "AUC",
}


@dataclass(frozen=True)
class Accuracy:
    """One classifier in one cohort.

    `interval` holds, by metric, the one to print: Wilson's for proportions (by effective sample size where patients
    have several lesions), the bootstrap's for F1, DeLong's for the AUC. `bootstrap` holds that of every metric.
    """

    cohort: str
    classifier: Classifier
    confusion: Confusion
    auc: Auc
    interval: Mapping[str, Interval]
    bootstrap: Mapping[str, Interval]

    def estimate(self, metric: str) -> float:
        """The value of one of `METRICS`."""
        if metric == "auc":
            return self.auc.auc
        if metric == "f1":
            return self.confusion.f1
        return self.confusion.proportions[metric].estimate


def accuracies(cohort: Predictions, rounds: int, seed: int) -> tuple[Accuracy, ...]:
    """Every classifier that saw the cohort, in the predictions' order.

    Parameters
    ----------
    cohort : Predictions
        Of one cohort.
    rounds, seed : int
        Of the bootstrap; all classifiers share its resamples.
    """
    name = cohort.cohorts[0]
    statistics = [
        (weighted_accuracy(cohort.malignant, p > THRESHOLD), weighted_auc(cohort.malignant, p))
        for p in cohort.probability.values()
    ]

    def together(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.stack([np.column_stack((counts(weights), area(weights))) for counts, area in statistics], axis=1)

    draws = Bootstrap(cohort.malignant, cohort.patient, rounds, seed).values(together) if statistics else np.empty(0)
    found = []
    for i, (classifier, probability) in enumerate(cohort.probability.items()):
        resampled = {metric: percentile_interval(draws[:, i, j]) for j, metric in enumerate(METRICS)}
        area = delong(cohort.malignant, probability, cohort.patient)
        intervals = proportion_intervals(cohort.malignant, probability > THRESHOLD, cohort.patient)
        found.append(
            Accuracy(
                name,
                classifier,
                confusion(cohort.malignant, probability > THRESHOLD),
                area,
                {**intervals, "f1": resampled["f1"], "auc": area.interval()},
                resampled,
            )
        )
    return tuple(found)


def proportion_intervals(
    malignant: NDArray[np.bool_], called: NDArray[np.bool_], patient: NDArray
) -> dict[str, Interval]:
    """The intervals of sensitivity, specificity, PPV, NPV and accuracy of a binary call."""
    right = malignant == called
    among = (malignant, ~malignant, called, ~called, np.ones_like(malignant))
    return {
        metric: proportion_interval(right[who], patient[who]) for metric, who in zip(PROPORTIONS, among, strict=True)
    }

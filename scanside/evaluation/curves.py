"""What probabilities are worth: decision curves (the paper's Figure 3) and calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.evaluation.diagnosis import wilson
from scanside.evaluation.roc import _checked

THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit at each threshold probability, in true positives a case.

    It depends on the prevalence of the cohort, which is therefore part of it.
    """

    threshold: NDArray[np.float64]
    net_benefit: NDArray[np.float64]
    treat_all: NDArray[np.float64]
    prevalence: float

    @property
    def treat_none(self) -> NDArray[np.float64]:
        return np.zeros_like(self.threshold)


@dataclass(frozen=True)
class Calibration:
    """Observed against predicted, over bins of equal width that hold cases, and the Brier score.

    `scaled_brier` is 1 minus the Brier score over that of always saying the prevalence: 1 is perfect, 0 useless.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: NDArray[np.int64]
    brier: float
    scaled_brier: float


def decision_curve(malignant: ArrayLike, probability: ArrayLike, threshold: ArrayLike = THRESHOLDS) -> DecisionCurve:
    """Vickers and Elkin (Med Decis Making 2006;26:565): TP/n - FP/n * pt/(1 - pt), positive if probability > pt.

    Raises
    ------
    CohortError
        A class is absent, or a probability is NaN.
    """
    truth, score = _checked(malignant, probability)
    at = np.asarray(threshold, dtype=np.float64)
    positive, negative = np.sort(score[truth]), np.sort(score[~truth])
    n, prevalence = len(score), len(positive) / len(score)
    tp = len(positive) - np.searchsorted(positive, at, side="right")
    fp = len(negative) - np.searchsorted(negative, at, side="right")
    odds = at / (1 - at)
    return DecisionCurve(at, tp / n - fp / n * odds, prevalence - (1 - prevalence) * odds, prevalence)


def calibration(malignant: ArrayLike, probability: ArrayLike, bins: int = 10) -> Calibration:
    """The reliability curve with Wilson intervals, and the Brier score (mean squared error).

    Raises
    ------
    CohortError
        A class is absent, or a probability is NaN.
    """
    truth, score = _checked(malignant, probability)
    code = np.minimum((score * bins).astype(np.int64), bins - 1)
    count = np.bincount(code, minlength=bins)
    held = count > 0
    hits = np.bincount(code, truth, minlength=bins)[held]
    low, high = wilson(hits, count[held])
    brier, prevalence = float(np.mean((score - truth) ** 2)), float(truth.mean())
    return Calibration(
        np.bincount(code, score, minlength=bins)[held] / count[held],
        hits / count[held],
        low,
        high,
        count[held],
        brier,
        1 - brier / (prevalence * (1 - prevalence)),
    )

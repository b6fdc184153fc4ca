"""The bootstrap: patients are drawn with all their lesions, within strata of their pathology."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.evaluation.diagnosis import CONFIDENCE, Interval

METHOD = "patient-stratified bootstrap, percentile"
_CHUNK = 1 << 22
Statistic = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""From case weights [rounds, n] to values [rounds, ...]."""


@dataclass(frozen=True)
class Bootstrap:
    """How the cases of one cohort are drawn anew.

    A patient's lesions are drawn together. Patients are drawn within three strata, those with malignant lesions only,
    with benign ones only, and with both, so that every round has both classes in the cohort's proportion.

    Parameters
    ----------
    malignant : ndarray of bool [n]
        Pathology.
    patient : ndarray [n]
        Whose lesion each case is.
    rounds : int
        How many resamples.
    seed : int
        The same seed draws the same patients, also for another statistic: differences are paired.
    """

    malignant: NDArray[np.bool_]
    patient: NDArray
    rounds: int
    seed: int

    def values(self, statistic: Statistic) -> NDArray[np.float64]:
        """The statistic of every round, [rounds, ...]."""
        code = np.unique(self.patient, return_inverse=True)[1]
        n_malignant = np.bincount(code, self.malignant)
        n_benign = np.bincount(code, ~self.malignant)
        stratum = 2 * (n_malignant > 0) + (n_benign > 0)
        members = [np.flatnonzero(stratum == s) for s in np.unique(stratum)]
        rng = np.random.default_rng(self.seed)
        chunk = max(1, _CHUNK // len(code))
        parts = []
        for start in range(0, self.rounds, chunk):
            rounds = min(chunk, self.rounds - start)
            drawn = np.zeros((rounds, len(stratum)), dtype=np.float32)
            for who in members:
                drawn[:, who] = _times_drawn(rng, rounds, len(who))
            parts.append(statistic(drawn[:, code]))
        return np.concatenate(parts)


def _times_drawn(rng: np.random.Generator, rounds: int, n: int) -> NDArray[np.int64]:
    """How often each of `n` is drawn when `n` are drawn with replacement, [rounds, n]."""
    drawn = rng.integers(0, n, (rounds, n)) + n * np.arange(rounds)[:, None]
    return np.bincount(drawn.ravel(), minlength=rounds * n).reshape(rounds, n)


def percentile_interval(values: NDArray[np.float64], confidence: float = CONFIDENCE, method: str = METHOD) -> Interval:
    """The middle part of a statistic's values [rounds]; rounds in which it is not defined (NaN) are left out."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return Interval(np.nan, np.nan, method)
    low, high = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(low), float(high), method)


def weighted_auc(malignant: ArrayLike, probability: ArrayLike) -> Statistic:
    """The AUC under case weights, ties half."""
    truth, score = np.asarray(malignant, dtype=bool), np.asarray(probability, dtype=np.float64)
    order = np.argsort(score, kind="stable")
    first_of_tie = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    sorted_truth = truth[order]

    def areas(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        ordered = weights[:, order].astype(np.float64)
        positive, negative = ordered * sorted_truth, ordered * ~sorted_truth
        if len(first_of_tie) < len(order):
            positive, negative = (np.add.reduceat(w, first_of_tie, axis=1) for w in (positive, negative))
        below = np.cumsum(negative, axis=1) - negative / 2
        with np.errstate(invalid="ignore"):
            return (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))

    return areas


def weighted_accuracy(malignant: ArrayLike, called: ArrayLike) -> Statistic:
    """Sensitivity, specificity, PPV, NPV, accuracy and F1 under case weights, [rounds, 6]; 0 of 0 is NaN."""
    truth, call = np.asarray(malignant, dtype=bool), np.asarray(called, dtype=bool)
    columns = np.stack([truth & call, truth & ~call, ~truth & ~call, ~truth & call], axis=1).astype(np.float32)

    def metrics(weights: NDArray[np.float32]) -> NDArray[np.float64]:
        tp, fn, tn, fp = (weights @ columns).astype(np.float64).T
        pairs = ((tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn), (tp + tn, tp + fn + tn + fp))
        with np.errstate(invalid="ignore"):
            return np.stack([*(k / n for k, n in pairs), 2 * tp / (2 * tp + fp + fn)], axis=1)

    return metrics

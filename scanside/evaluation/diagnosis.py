"""Diagnostic accuracy at one operating point: confusion matrices, and proportions with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.errors import UsageError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and how it was made."""

    low: float
    high: float
    method: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Proportion:
    """`numerator` of `denominator`; the estimate is NaN when there is nothing to count."""

    numerator: int
    denominator: int

    def __post_init__(self) -> None:
        if not 0 <= self.numerator <= self.denominator:
            raise UsageError("no proportion", expected="0 <= numerator <= denominator", found=self)

    @property
    def estimate(self) -> float:
        return self.numerator / self.denominator if self.denominator else math.nan

    def wilson(self, confidence: float = CONFIDENCE) -> Interval:
        """Wilson's score interval (1927), without continuity correction."""
        low, high = wilson(self.numerator, self.denominator, confidence)
        return Interval(float(low), float(high), "Wilson")

    def clopper_pearson(self, confidence: float = CONFIDENCE) -> Interval:
        """The exact interval of Clopper and Pearson (1934)."""
        low, high = clopper_pearson(self.numerator, self.denominator, confidence)
        return Interval(float(low), float(high), "Clopper-Pearson")


@dataclass(frozen=True)
class Confusion:
    """Counts at one operating point. Malignant is positive."""

    tp: int
    fn: int
    tn: int
    fp: int

    @property
    def n(self) -> int:
        return self.tp + self.fn + self.tn + self.fp

    @property
    def sensitivity(self) -> Proportion:
        return Proportion(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> Proportion:
        return Proportion(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> Proportion:
        return Proportion(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> Proportion:
        return Proportion(self.tn, self.tn + self.fn)

    @property
    def accuracy(self) -> Proportion:
        return Proportion(self.tp + self.tn, self.n)

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and PPV (paper, Statistical analysis); NaN without any positive."""
        positives = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / positives if positives else math.nan

    @property
    def proportions(self) -> dict[str, Proportion]:
        """Sensitivity, specificity, PPV, NPV and accuracy, in the order of the paper's Table 2."""
        return {name: getattr(self, name) for name in PROPORTIONS}

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fn + other.fn, self.tn + other.tn, self.fp + other.fp)


PROPORTIONS = ("sensitivity", "specificity", "ppv", "npv", "accuracy")


def confusion(malignant: ArrayLike, called: ArrayLike) -> Confusion:
    """Count a binary call against pathology.

    Parameters
    ----------
    malignant, called : array of bool [n]
        Pathology, and whether the case was called malignant.

    Raises
    ------
    UsageError
        The shapes differ.
    """
    truth, call = np.asarray(malignant, dtype=bool), np.asarray(called, dtype=bool)
    if truth.shape != call.shape:
        raise UsageError("the calls do not fit the cases", expected=truth.shape, found=call.shape)
    tp, fp = int((truth & call).sum()), int((~truth & call).sum())
    return Confusion(tp, int(truth.sum()) - tp, int((~truth).sum()) - fp, fp)


def wilson(
    k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's score interval of `k` of `n`, elementwise; 0 to 1 where n is 0. `n` may be an effective size."""
    from scipy.special import ndtri

    successes, size = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    z = float(ndtri(0.5 + confidence / 2))
    safe = np.where(size > 0, size, 1)
    p = successes / safe
    middle = (p + z * z / (2 * safe)) / (1 + z * z / safe)
    half = z / (1 + z * z / safe) * np.sqrt(p * (1 - p) / safe + z * z / (4 * safe * safe))
    low = np.where(successes <= 0, 0.0, middle - half)
    high = np.where(successes >= size, 1.0, middle + half)
    return np.where(size > 0, low, 0.0), np.where(size > 0, high, 1.0)


def clopper_pearson(
    k: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact interval of `k` of `n`, elementwise; 0 to 1 where n is 0."""
    from scipy.special import betaincinv

    successes, size = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    tail = (1 - confidence) / 2
    failures = size - successes
    low = np.where(successes > 0, betaincinv(np.maximum(successes, 1), failures + 1, tail), 0.0)
    high = np.where(failures > 0, betaincinv(successes + 1, np.maximum(failures, 1), 1 - tail), 1.0)
    return low, high


def proportion_interval(hits: ArrayLike, patient: ArrayLike) -> Interval:
    """The interval that fits: Wilson's where each patient has one answer, else the clustered one."""
    who = np.asarray(patient)
    if len(np.unique(who)) == len(who):
        return Proportion(int(np.asarray(hits, dtype=bool).sum()), len(who)).wilson()
    return clustered_wilson(hits, who)


def clustered_wilson(hits: ArrayLike, cluster: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval on the effective sample size, for answers that come in clusters (Rao and Scott, 1992).

    Several answers to one case (pooled readers) or several lesions of one patient are not independent. The variance of
    the proportion is taken between clusters; the number of answers is divided by its ratio to the binomial variance
    (the design effect, never below 1). Where that cannot be estimated, because all answers are alike, the number of
    clusters is the sample size.

    Parameters
    ----------
    hits : array of bool [n]
        Whether each answer counts.
    cluster : array [n]
        The cluster each belongs to.

    Raises
    ------
    UsageError
        The shapes differ.
    """
    hit = np.asarray(hits, dtype=np.float64)
    names, code = np.unique(np.asarray(cluster), return_inverse=True)
    if hit.shape != code.shape:
        raise UsageError("the clusters do not fit the answers", expected=hit.shape, found=code.shape)
    n, m = len(hit), len(names)
    method = "Wilson, effective sample size by cluster"
    if n == 0:
        return Interval(0.0, 1.0, method)
    p = hit.mean()
    size = float(m)
    if m > 1 and 0 < p < 1:
        residual = np.bincount(code, weights=hit - p)
        variance = m / (m - 1) * float(residual @ residual) / n**2
        size = min(n, p * (1 - p) / variance) if variance > 0 else float(n)
    low, high = wilson(p * size, size, confidence)
    return Interval(float(low), float(high), method)

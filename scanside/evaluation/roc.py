"""ROC curves and their areas: DeLong's interval and tests, also for several lesions of one patient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.errors import UsageError
from scanside.evaluation.diagnosis import CONFIDENCE, Interval
from scanside.evaluation.errors import CohortError


@dataclass(frozen=True)
class Roc:
    """The empirical curve, from (0, 0) to (1, 1).

    `threshold[i]` is the smallest probability still called positive at point i; the first is infinite.
    """

    threshold: NDArray[np.float64]
    false_positive_rate: NDArray[np.float64]
    sensitivity: NDArray[np.float64]


@dataclass(frozen=True)
class Auc:
    """An area under the curve with its standard error; `method` says whose variance."""

    auc: float
    se: float
    n_malignant: int
    n_benign: int
    method: str

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """On the logit scale, where the distribution of an AUC near 1 is closer to normal (Pepe, 2003).

        An AUC of exactly 0 or 1 has no variance by this method: its interval is the point alone, and says so.
        """
        if not 0 < self.auc < 1:
            return Interval(self.auc, self.auc, f"{self.method}: no variance, every pair is ranked alike")
        half = _z(confidence) * self.se / (self.auc * (1 - self.auc))
        logit = math.log(self.auc / (1 - self.auc))
        return Interval(_expit(logit - half), _expit(logit + half), f"{self.method}, logit")

    def wald(self, confidence: float = CONFIDENCE) -> Interval:
        """AUC plus and minus z standard errors, cut at 0 and 1, as most statistics programs print it."""
        half = _z(confidence) * self.se
        return Interval(max(0.0, self.auc - half), min(1.0, self.auc + half), f"{self.method}, Wald")


@dataclass(frozen=True)
class AucDifference:
    """A difference of two areas, first minus second, with the z-test that it is 0."""

    difference: float
    se: float
    z: float
    p: float
    method: str

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        half = _z(confidence) * self.se
        return Interval(self.difference - half, self.difference + half, self.method)


def roc_curve(malignant: ArrayLike, probability: ArrayLike) -> Roc:
    """The empirical ROC curve, one point for each different probability.

    Raises
    ------
    CohortError
        A class is absent, or a probability is NaN.
    """
    truth, score = _checked(malignant, probability)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    tp, fp = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    return Roc(
        np.concatenate(([np.inf], score[order][last])),
        np.concatenate(([0.0], fp / fp[-1])),
        np.concatenate(([0.0], tp / tp[-1])),
    )


def auc(malignant: ArrayLike, probability: ArrayLike) -> float:
    """The chance that a malignant case has the higher probability, ties half: Mann-Whitney's U over all pairs.

    Raises
    ------
    CohortError
        A class is absent, or a probability is NaN.
    """
    truth, score = _checked(malignant, probability)
    return float(_components(truth, score)[0].mean())


def delong(malignant: ArrayLike, probability: ArrayLike, patient: ArrayLike | None = None) -> Auc:
    """AUC with the variance of DeLong et al. (Biometrics 1988;44:837), in O(n log n) by midranks (Sun and Xu, 2014).

    Parameters
    ----------
    malignant : array of bool [n]
        Pathology.
    probability : array of float [n]
        Of malignancy; any score will do, only its order counts.
    patient : array [n], optional
        Lesions of one patient are not independent: with patients that have several, the variance is Obuchowski's
        (Biometrics 1997;53:567), which is DeLong's when each has one.

    Raises
    ------
    CohortError
        Fewer than two cases (or, with patients, clusters) of a class, or a probability is NaN.
    """
    area, covariance, method = _covariance(malignant, [probability], patient)
    truth = np.asarray(malignant, dtype=bool)
    se = math.sqrt(max(0.0, covariance[0, 0]))
    return Auc(float(area[0]), se, int(truth.sum()), int((~truth).sum()), method)


def paired_delong(
    malignant: ArrayLike, first: ArrayLike, second: ArrayLike, patient: ArrayLike | None = None
) -> AucDifference:
    """Whether two classifiers differ in AUC on the same cases (DeLong's test; with patients, Obuchowski's).

    Raises
    ------
    CohortError
        As for `delong`.
    """
    area, covariance, method = _covariance(malignant, [first, second], patient)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return _difference(float(area[0] - area[1]), float(variance), f"paired {method}")


def unpaired_delong(first: Auc, second: Auc) -> AucDifference:
    """Whether two areas on different cases differ."""
    return _difference(first.auc - second.auc, first.se**2 + second.se**2, f"unpaired {first.method}")


def hanley_mcneil(malignant: ArrayLike, probability: ArrayLike) -> Auc:
    """AUC with the variance of Hanley and McNeil (Radiology 1982;143:29) as IBM SPSS Statistics computes it.

    The two probabilities over triples of cases are counted, not modelled, and of a tie of all three a third counts.
    With the binary calls of a reader this variance is larger than DeLong's; the intervals of the paper's Table 4 are
    its `wald`.

    Raises
    ------
    CohortError
        A class is absent, or a probability is NaN.
    """
    truth, score = _checked(malignant, probability)
    positive, negative = np.sort(score[truth]), np.sort(score[~truth])
    m, n = len(positive), len(negative)
    area = float(_components(truth, score)[0].mean())
    above, equal = _above_and_equal(negative, positive)
    q1 = float(np.mean((above**2 + above * equal + equal**2 / 3) / m**2))
    above, equal = _above_and_equal(-positive[::-1], -negative[::-1])
    q2 = float(np.mean((above**2 + above * equal + equal**2 / 3) / n**2))
    variance = (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
    return Auc(area, math.sqrt(max(0.0, variance)), m, n, "Hanley-McNeil")


def _above_and_equal(values: NDArray, reference: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each value, how many of the sorted `reference` are above it, and how many equal."""
    right = np.searchsorted(reference, values, side="right")
    left = np.searchsorted(reference, values, side="left")
    return (len(reference) - right).astype(np.float64), (right - left).astype(np.float64)


def _checked(malignant: ArrayLike, probability: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, score = np.asarray(malignant, dtype=bool), np.asarray(probability, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != score.shape:
        raise UsageError("the probabilities do not fit the cases", expected=truth.shape, found=score.shape)
    if np.isnan(score).any():
        raise CohortError("a probability is NaN", found=f"{int(np.isnan(score).sum())} of {len(score)}")
    n_malignant = int(truth.sum())
    if n_malignant in (0, len(truth)):
        raise CohortError(
            "one class only: no ROC curve",
            expected="malignant and benign cases",
            found=f"{n_malignant} malignant and {len(truth) - n_malignant} benign",
        )
    return truth, score


def _components(truth: NDArray[np.bool_], score: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """DeLong's structural components: of each malignant case the share of benign ones below it, and the converse."""
    positive, negative = score[truth], score[~truth]
    m, n = len(positive), len(negative)
    rank = _midrank(score)
    return (rank[truth] - _midrank(positive)) / n, 1 - (rank[~truth] - _midrank(negative)) / m


def _midrank(values: NDArray) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _covariance(
    malignant: ArrayLike, scores: list[ArrayLike], patient: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Areas [k] and their covariance [k, k]."""
    truth = np.asarray(malignant, dtype=bool)
    parts = [_components(*_checked(truth, score)) for score in scores]
    of_malignant = np.stack([a for a, _ in parts])
    of_benign = np.stack([b for _, b in parts])
    m, n = of_malignant.shape[1], of_benign.shape[1]
    area = of_malignant.mean(axis=1)
    cluster = np.arange(len(truth)) if patient is None else np.unique(np.asarray(patient), return_inverse=True)[1]
    if cluster.shape != truth.shape:
        raise UsageError("the patients do not fit the cases", expected=truth.shape, found=cluster.shape)
    count = int(cluster.max()) + 1
    with_malignant = len(np.unique(cluster[truth]))
    with_benign = len(np.unique(cluster[~truth]))
    if min(with_malignant, with_benign) < 2:
        raise CohortError(
            "too few cases for the variance of an AUC",
            expected="at least 2 malignant and 2 benign ones, of different patients",
            found=f"{with_malignant} and {with_benign}",
        )
    x = np.stack([np.bincount(cluster[truth], row, count) for row in of_malignant - area[:, None]])
    y = np.stack([np.bincount(cluster[~truth], row, count) for row in of_benign - area[:, None]])
    covariance = with_malignant / (with_malignant - 1) * (x @ x.T) / m**2
    covariance = covariance + with_benign / (with_benign - 1) * (y @ y.T) / n**2
    if count == len(truth):
        return area, covariance, "DeLong"
    cross = count / (count - 1) * (x @ y.T) / (m * n)
    return area, covariance + cross + cross.T, "DeLong clustered by patient (Obuchowski)"


def _difference(difference: float, variance: float, method: str) -> AucDifference:
    """The z-test. Without any variance p is 1 where the areas are equal, and else not defined (NaN)."""
    from scipy.special import ndtr

    se = math.sqrt(max(0.0, variance))
    if se < 1e-12:
        z, p = (0.0, 1.0) if abs(difference) < 1e-12 else (math.nan, math.nan)
        return AucDifference(difference, 0.0, z, p, method)
    z = difference / se
    return AucDifference(difference, se, z, float(2 * ndtr(-abs(z))), method)


def _z(confidence: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

"""Agreement of raters: Cohen's kappa of two, Fleiss' kappa of several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.errors import UsageError
from scanside.evaluation.diagnosis import CONFIDENCE, Interval


@dataclass(frozen=True)
class Kappa:
    """Chance-corrected agreement; NaN where all ratings are the same class, so that nothing can be corrected."""

    kappa: float
    se: float
    method: str

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Kappa plus and minus z standard errors, cut at -1 and 1."""
        from scipy.special import ndtri

        half = float(ndtri(0.5 + confidence / 2)) * self.se
        return Interval(max(-1.0, self.kappa - half), min(1.0, self.kappa + half), self.method)

    @property
    def words(self) -> str:
        """Landis and Koch (Biometrics 1977;33:159)."""
        if math.isnan(self.kappa):
            return "not defined"
        steps = ((0.0, "poor"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
        return next((word for limit, word in steps if self.kappa <= limit), "almost perfect")


def cohen_kappa(first: ArrayLike, second: ArrayLike) -> Kappa:
    """Cohen's kappa of two raters' binary calls, with the large-sample error of Fleiss, Cohen and Everitt (1969).

    Raises
    ------
    UsageError
        The shapes differ, or there is no case.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.size == 0:
        raise UsageError("the two raters judged different cases", expected=a.shape, found=b.shape)
    table = np.array([[(~a & ~b).sum(), (~a & b).sum()], [(a & ~b).sum(), (a & b).sum()]])
    return cohen_kappa_from_table(table)


def cohen_kappa_from_table(table: ArrayLike) -> Kappa:
    """The same, from the counts [k, k] of the first rater's class by the second's."""
    counts = np.asarray(table, dtype=np.float64)
    n = counts.sum()
    p = counts / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, expected = float(np.trace(p)), float(rows @ columns)
    method = "Fleiss-Cohen-Everitt, asymptotic"
    if math.isclose(expected, 1):
        return Kappa(math.nan, math.nan, method)
    kappa = (observed - expected) / (1 - expected)
    marginal = columns[:, None] + rows[None, :]
    diagonal = np.diag(p) @ (1 - np.diag(marginal) * (1 - kappa)) ** 2
    off = (1 - kappa) ** 2 * float(((p * marginal**2) * (1 - np.eye(len(p)))).sum())
    variance = (float(diagonal) + off - (kappa - expected * (1 - kappa)) ** 2) / (n * (1 - expected) ** 2)
    return Kappa(kappa, math.sqrt(max(0.0, variance)), method)


def fleiss_kappa(calls: ArrayLike) -> float:
    """Fleiss' kappa (Psychol Bull 1971;76:378) of binary calls [cases, raters]; NaN where all are the same class.

    Its interval is a bootstrap of patients: `fleiss_kappa_resampled`.

    Raises
    ------
    UsageError
        Not two dimensions with at least one case and two raters.
    """
    ratings = _ratings(calls)
    return float(fleiss_kappa_resampled(ratings, np.ones((1, len(ratings))))[0])


def fleiss_kappa_resampled(calls: ArrayLike, weights: NDArray) -> NDArray[np.float64]:
    """Fleiss' kappa for each row of case `weights` [rounds, cases]."""
    ratings = _ratings(calls)
    raters = ratings.shape[1]
    positive = ratings.sum(axis=1).astype(np.float64)
    alike = (positive * (positive - 1) + (raters - positive) * (raters - positive - 1)) / (raters * (raters - 1))
    total = weights.sum(axis=1, dtype=np.float64)
    share = weights @ positive / (total * raters)
    expected = share**2 + (1 - share) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = (weights @ alike / total - expected) / (1 - expected)
    return np.where(np.isclose(expected, 1), np.nan, kappa)


def _ratings(calls: ArrayLike) -> NDArray[np.bool_]:
    ratings = np.asarray(calls, dtype=bool)
    if ratings.ndim != 2 or ratings.shape[0] < 1 or ratings.shape[1] < 2:
        raise UsageError("no agreement of several raters", expected="calls [cases, 2 or more]", found=ratings.shape)
    return ratings

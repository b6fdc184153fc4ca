"""Tests on the same cases twice: McNemar, also over several readers, the paired t-test, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.errors import UsageError
from scanside.evaluation.diagnosis import CONFIDENCE, Interval


@dataclass(frozen=True)
class McNemar:
    """Two raters on the same cases.

    Attributes
    ----------
    only_first, only_second : int
        Cases that only one of them has right.
    p_exact : float
        Two-sided binomial test of the discordant cases; the one to quote.
    statistic, p_asymptotic : float
        Chi-square with one degree of freedom and continuity correction; 0 and 1 without discordant cases.
    """

    only_first: int
    only_second: int
    p_exact: float
    statistic: float
    p_asymptotic: float


@dataclass(frozen=True)
class ClusteredMcNemar:
    """As `McNemar`, over clusters of answers: `difference` is first minus second, of all answers."""

    difference: float
    statistic: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two raters' shares of right answers: `difference` is first minus second, and `method` the test behind `p`."""

    difference: float
    only_first: int
    only_second: int
    p: float
    p_asymptotic: float
    method: str


@dataclass(frozen=True)
class PairedT:
    """A paired t-test; `mean` is the mean of first minus second."""

    mean: float
    sd: float
    n: int
    t: float
    p: float
    interval: Interval


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Whether two raters are right equally often on the same cases.

    Give the malignant cases alone to compare sensitivity, the benign ones for specificity, all of them for accuracy.

    Raises
    ------
    UsageError
        The shapes differ.
    """
    first, second = _same_shape(first_right, second_right)
    return mcnemar_from_counts(int((first & ~second).sum()), int((second & ~first).sum()))


def mcnemar_from_counts(only_first: int, only_second: int) -> McNemar:
    """The same, from the two discordant counts."""
    from scipy.special import bdtr, chdtrc

    n = only_first + only_second
    if n == 0:
        return McNemar(0, 0, 1.0, 0.0, 1.0)
    exact = min(1.0, 2 * float(bdtr(min(only_first, only_second), n, 0.5)))
    statistic = max(0, abs(only_first - only_second) - 1) ** 2 / n
    return McNemar(only_first, only_second, exact, statistic, float(chdtrc(1, statistic)))


def clustered_mcnemar(first_right: ArrayLike, second_right: ArrayLike, cluster: ArrayLike) -> ClusteredMcNemar:
    """McNemar's test over answers in clusters, by Durkalski et al. (Stat Med 2003;22:2417).

    For pooled readers the cluster is the patient. With one answer a cluster it is the asymptotic test without
    continuity correction.

    Raises
    ------
    UsageError
        The shapes differ.
    """
    from scipy.special import chdtrc

    first, second = _same_shape(first_right, second_right)
    code = np.unique(np.asarray(cluster), return_inverse=True)[1]
    if code.shape != first.shape:
        raise UsageError("the clusters do not fit the answers", expected=first.shape, found=code.shape)
    change = first.astype(np.float64) - second
    mean = float(change.mean()) if len(change) else math.nan
    share = np.bincount(code, change) / np.bincount(code)
    spread = float(share @ share)
    if spread == 0:
        return ClusteredMcNemar(mean, 0.0, 1.0)
    statistic = float(share.sum()) ** 2 / spread
    return ClusteredMcNemar(mean, statistic, float(chdtrc(1, statistic)))


def compare_right(first_right: ArrayLike, second_right: ArrayLike, patient: ArrayLike) -> Comparison:
    """The test that fits: McNemar's exact one where each patient has one answer, else the clustered one.

    Raises
    ------
    UsageError
        The shapes differ.
    """
    plain = mcnemar(first_right, second_right)
    clustered = clustered_mcnemar(first_right, second_right, patient)
    who = np.asarray(patient)
    counts = (clustered.difference, plain.only_first, plain.only_second)
    if len(np.unique(who)) == len(who):
        return Comparison(*counts, plain.p_exact, plain.p_asymptotic, "McNemar, exact")
    return Comparison(*counts, clustered.p, clustered.p, "McNemar clustered by patient (Durkalski)")


def paired_t(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> PairedT:
    """Paired t-test of two measurements of the same cases.

    Without any spread of the differences p is 1 when they are all 0, and not defined (NaN) otherwise.

    Raises
    ------
    UsageError
        The shapes differ, or there are fewer than two pairs.
    """
    from scipy.special import stdtr, stdtrit

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise UsageError("no paired t-test", expected="two arrays of one length, at least 2", found=(a.shape, b.shape))
    change = a - b
    n, mean, sd = len(change), float(change.mean()), float(change.std(ddof=1))
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * sd / math.sqrt(n)
    interval = Interval(mean - half, mean + half, "t")
    if sd == 0:
        t, p = (0.0, 1.0) if mean == 0 else (math.nan, math.nan)
    else:
        t = mean / (sd / math.sqrt(n))
        p = 2 * float(stdtr(n - 1, -abs(t)))
    return PairedT(mean, sd, n, t, p, interval)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of one family adjusted by Holm (Scand J Stat 1979;6:65); NaN, a test that was not possible, stays."""
    p = np.asarray(p_values, dtype=np.float64)
    done = np.flatnonzero(~np.isnan(p))
    order = done[np.argsort(p[done], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    stepped = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped)) if len(order) else stepped
    return [float(v) for v in adjusted]


def holm_by_family(p_values: Sequence[float], families: Sequence[Hashable]) -> list[float]:
    """P values adjusted by Holm within each family, in their order."""
    adjusted = [math.nan] * len(p_values)
    for family in dict.fromkeys(families):
        members = [i for i, name in enumerate(families) if name == family]
        for i, value in zip(members, holm([p_values[i] for i in members]), strict=True):
            adjusted[i] = value
    return adjusted


def _same_shape(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise UsageError("the two raters judged different cases", expected=a.shape, found=b.shape)
    return a, b

"""Tests of Table 1: two groups of different cases, by categories and by means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.errors import UsageError

SIZE_CLASSES = ("T1 (< 20 mm)", "T2 (20–50 mm)", "T3 (> 50 mm)")
_MIN_EXPECTED = 5


@dataclass(frozen=True)
class Test:
    """A test's name, statistic (NaN where it has none) and two-sided p."""

    name: str
    statistic: float
    p: float


def size_class(size_mm: ArrayLike) -> NDArray[np.int64]:
    """0, 1, 2 for the paper's T1 (< 20 mm), T2 (20 to 50 mm) and T3 (> 50 mm); -1 where the size is NaN."""
    size = np.asarray(size_mm, dtype=np.float64)
    return np.where(np.isnan(size), -1, (size >= 20).astype(np.int64) + (size > 50))


def compare_categories(counts: ArrayLike) -> Test:
    """Whether two groups have the same distribution over categories.

    Pearson's chi-square without continuity correction; Fisher's exact test (Freeman-Halton for more than two
    categories) where an expected count is below 5. Categories that nobody has are left out.

    Parameters
    ----------
    counts : array of int [k, 2]
        Cases of each category and group.

    Raises
    ------
    UsageError
        Not two columns of counts.
    """
    from scipy.special import chdtrc

    table = np.asarray(counts, dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != 2 or (table < 0).any():
        raise UsageError("no table of two groups", expected="counts [categories, 2]", found=table.shape)
    table = table[table.sum(axis=1) > 0]
    groups = table.sum(axis=0)
    if len(table) < 2 or (groups == 0).any():
        return Test("not possible", math.nan, math.nan)
    expected = np.outer(table.sum(axis=1), groups) / table.sum()
    if expected.min() < _MIN_EXPECTED and len(table) <= 3:
        return Test("Fisher's exact", math.nan, fisher_exact(table))
    statistic = float(((table - expected) ** 2 / expected).sum())
    return Test("chi-square", statistic, float(chdtrc(len(table) - 1, statistic)))


def fisher_exact(counts: ArrayLike) -> float:
    """Two-sided p of Fisher's exact test for 2 x 2 or 3 x 2 counts: all tables no likelier than this one.

    Raises
    ------
    UsageError
        Another shape.
    """
    from scipy.special import gammaln

    table = np.asarray(counts, dtype=np.int64)
    if table.shape not in ((2, 2), (3, 2)):
        raise UsageError("no table for the exact test", expected="counts [2 or 3, 2]", found=table.shape)
    rows = table.sum(axis=1) if len(table) == 3 else np.append(table.sum(axis=1), 0)
    first = int(table[:, 0].sum())
    a, b = np.meshgrid(np.arange(rows[0] + 1), np.arange(rows[1] + 1), indexing="ij")
    c = first - a - b
    possible = (c >= 0) & (c <= rows[2])

    def log_choose(n: NDArray | int, k: NDArray) -> NDArray[np.float64]:
        return gammaln(np.asarray(n) + 1) - gammaln(k + 1) - gammaln(np.asarray(n) - k + 1)

    cells = (a[possible], b[possible], c[possible])
    log_p = sum(log_choose(int(n), k) for n, k in zip(rows, cells, strict=True))
    log_p = log_p - log_choose(int(rows.sum()), np.array(first))
    here = (cells[0] == table[0, 0]) & (cells[1] == table[1, 0])
    limit = log_p[here][0] + 1e-7
    return float(min(1.0, np.exp(log_p[log_p <= limit]).sum()))


def compare_means(first: ArrayLike, second: ArrayLike) -> Test:
    """Welch's t-test of two groups; NaN values are left out, and groups without spread cannot be tested."""
    from scipy.special import stdtr

    groups = [np.asarray(g, dtype=np.float64) for g in (first, second)]
    a, b = (g[~np.isnan(g)] for g in groups)
    if min(len(a), len(b)) < 2:
        return Test("not possible", math.nan, math.nan)
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0:
        return Test("not possible", math.nan, math.nan)
    t = float((a.mean() - b.mean()) / math.sqrt(va + vb))
    df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return Test("Welch's t", t, 2 * float(stdtr(df, -abs(t))))

"""Percentiles of repeated measurements with confidence intervals that assume no distribution.

The interval of a percentile is given by two of the measurements themselves: of n independent ones, the number below
the true p-th percentile is binomial(n, p), whatever the distribution (Conover, Practical Nonparametric Statistics,
section 3.2).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scanside.errors import UsageError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Percentile:
    """The `percent`-th percentile of some measurements, in their unit, and its 95 % confidence interval."""

    percent: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """How several ratios (or other figures) lie: their median and their range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def repetitions_for(percent: float) -> int:
    """The fewest repetitions whose interval for this percentile has both ends among the measurements.

    36 for the 90th, 72 for the 95th, 368 for the 99th percentile.

    Raises
    ------
    UsageError
        Not a percentile.
    """
    p = _fraction(percent)
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(p, 1 - p)) - 1e-12)


def require_repetitions(count: int, percents: Sequence[float]) -> None:
    """Raise unless `count` repetitions support every percentile.

    Raises
    ------
    UsageError
        They do not; the message gives the number needed.
    """
    for percent in percents:
        needed = repetitions_for(percent)
        if count < needed:
            raise UsageError(
                f"too few repetitions for the {percent:g}th percentile",
                expected=f"at least {needed}, so that its 95 % interval is bounded",
                found=count,
                remedy=f"use --repetitions {needed}, or ask for a percentile nearer to 50",
            )


def percentile(values: Sequence[float], percent: float) -> Percentile:
    """The smallest value that at least `percent` % of `values` do not exceed, and its 95 % interval.

    Raises
    ------
    UsageError
        Too few values (see `repetitions_for`), or not a percentile.
    """
    require_repetitions(len(values), [percent])
    ordered, n, p = sorted(values), len(values), _fraction(percent)
    low, high = interval_ranks(n, p)
    rank = min(n, max(1, math.ceil(n * p - 1e-9)))
    return Percentile(percent, ordered[rank - 1], ordered[low - 1], ordered[high - 1])


def interval_ranks(n: int, p: float) -> tuple[int, int]:
    """Ranks (from 1) of the ordered measurements between which the p-quantile lies with 95 % confidence.

    The narrowest equal-tailed pair: P(binomial(n, p) < low) and P(binomial(n, p) >= high) are at most 2.5 % each.
    """
    tail = (1 - CONFIDENCE) / 2
    low, below = 0, 0.0
    while low < n and below + _binomial(low, n, p) <= tail:
        below += _binomial(low, n, p)
        low += 1
    high, above = n + 1, 0.0
    while high > 1 and above + _binomial(high - 1, n, p) <= tail:
        above += _binomial(high - 1, n, p)
        high -= 1
    return max(1, low), min(n, high)


def _binomial(k: int, n: int, p: float) -> float:
    log_ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log_ways + k * math.log(p) + (n - k) * math.log1p(-p))


def _fraction(percent: float) -> float:
    if not 0 < percent < 100:
        raise UsageError("not a percentile", expected="above 0 and below 100", found=percent)
    return percent / 100

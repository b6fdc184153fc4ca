"""Finding lesions in volumes: FROC, and sensitivity by size class."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.errors import UsageError
from scanside.evaluation.diagnosis import Interval, Proportion
from scanside.evaluation.errors import CohortError
from scanside.evaluation.groups import SIZE_CLASSES, size_class
from scanside.evaluation.resampling import percentile_interval
from scanside.evaluation.rows import read_rows

FALSE_POSITIVE_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a volume at which the sensitivity is averaged (LUNA16, TDSC-ABUS)."""


@dataclass(frozen=True)
class Detections:
    """Every true lesion and every false positive of a set of volumes, matched as in `scanside.evaluation.matching`.

    Attributes
    ----------
    n_volumes : int
        Volumes looked at, those with neither lesions nor findings included.
    lesion_volume : ndarray of int [lesions]
        The volume of each true lesion, 0 to n_volumes - 1.
    lesion_score : ndarray of float [lesions]
        Detection score of the finding that matches it; -inf when it was missed at every threshold.
    lesion_size_mm : ndarray of float [lesions]
        Largest diameter; NaN where not stated.
    false_volume, false_score : ndarray [false positives]
        Of each finding that matches no lesion.
    """

    n_volumes: int
    lesion_volume: NDArray[np.int64]
    lesion_score: NDArray[np.float64]
    lesion_size_mm: NDArray[np.float64]
    false_volume: NDArray[np.int64]
    false_score: NDArray[np.float64]

    def __post_init__(self) -> None:
        lesions, false = self.lesion_volume, self.false_volume
        fits = lesions.shape == self.lesion_score.shape == self.lesion_size_mm.shape
        if not fits or false.shape != self.false_score.shape:
            raise UsageError("the detections do not fit together", expected="one score and size a lesion, one score")
        highest = max([-1, *lesions.tolist(), *false.tolist()])
        if self.n_volumes < 1 or highest >= self.n_volumes:
            raise UsageError("a volume is out of range", expected=f"0 to {self.n_volumes - 1}", found=highest)
        if np.isnan(self.lesion_score).any() or np.isnan(self.false_score).any():
            raise CohortError("a detection score is NaN")


@dataclass(frozen=True)
class Froc:
    """Sensitivity against false positives a volume, one point for each different score, from the highest.

    The first point is (0, 0): nothing reported.
    """

    threshold: NDArray[np.float64]
    false_positives_per_volume: NDArray[np.float64]
    sensitivity: NDArray[np.float64]

    def sensitivity_at(self, false_positives_per_volume: float) -> float:
        """The highest sensitivity that costs no more false positives a volume than this."""
        allowed = self.false_positives_per_volume <= false_positives_per_volume + 1e-12
        return float(self.sensitivity[allowed].max())

    @property
    def mean_sensitivity(self) -> float:
        """Mean of the sensitivities at `FALSE_POSITIVE_RATES`: the FROC score."""
        return float(np.mean([self.sensitivity_at(rate) for rate in FALSE_POSITIVE_RATES]))


def froc(detections: Detections, volume_weight: ArrayLike | None = None) -> Froc:
    """The empirical FROC curve, with `volume_weight` [n_volumes] as a bootstrap draws it.

    Raises
    ------
    CohortError
        There is no true lesion.
    """
    d = detections
    weight = np.ones(d.n_volumes) if volume_weight is None else np.asarray(volume_weight, dtype=np.float64)
    lesion_weight, false_weight = weight[d.lesion_volume], weight[d.false_volume]
    if lesion_weight.sum() == 0:
        raise CohortError("no true lesion: no FROC curve", expected="at least one", found=0)
    found = np.isfinite(d.lesion_score)
    score = np.concatenate((d.lesion_score[found], d.false_score))
    true = np.concatenate((lesion_weight[found], np.zeros(len(d.false_score))))
    false = np.concatenate((np.zeros(int(found.sum())), false_weight))
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))
    return Froc(
        np.concatenate(([np.inf], score[order][last])),
        np.concatenate(([0.0], np.cumsum(false[order])[last] / weight.sum())),
        np.concatenate(([0.0], np.cumsum(true[order])[last] / lesion_weight.sum())),
    )


def froc_intervals(detections: Detections, rounds: int, seed: int) -> dict[float, Interval]:
    """Percentile intervals of `sensitivity_at` each of `FALSE_POSITIVE_RATES`, and of their mean under the key NaN.

    Whole volumes are drawn; rounds without any lesion are left out.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(detections.n_volumes, np.full(detections.n_volumes, 1 / detections.n_volumes), rounds)
    values = []
    for weight in drawn:
        if weight[detections.lesion_volume].any():
            curve = froc(detections, weight)
            values.append([curve.sensitivity_at(rate) for rate in FALSE_POSITIVE_RATES])
    table = np.array(values)
    method = "bootstrap of volumes, percentile"
    intervals = {r: percentile_interval(table[:, i], method=method) for i, r in enumerate(FALSE_POSITIVE_RATES)}
    return intervals | {np.nan: percentile_interval(table.mean(axis=1), method=method)}


def sensitivity_by_size(size_mm: ArrayLike, found: ArrayLike) -> dict[str, Proportion]:
    """How many lesions of each of the paper's size classes were found; lesions without a size are left out.

    Parameters
    ----------
    size_mm : array of float [n]
        Largest diameter of each true lesion.
    found : array of bool [n]
        Whether it was found (or, for malignant ones, called malignant).
    """
    hit, classes = np.asarray(found, dtype=bool), size_class(size_mm)
    if hit.shape != classes.shape:
        raise UsageError("the sizes do not fit the lesions", expected=hit.shape, found=classes.shape)
    return {
        name: Proportion(int(hit[classes == i].sum()), int((classes == i).sum())) for i, name in enumerate(SIZE_CLASSES)
    }


def read_detections(path: str | os.PathLike[str]) -> Detections:
    """Read DETECTIONS.csv: one row a true lesion and one a false positive.

    Columns: `volume`; `lesion`, the name of a true lesion within its volume, empty for a false positive; `score`, empty
    for a lesion that was missed; optionally `size_mm`. A volume without lesions and findings has one row with both
    empty.

    Raises
    ------
    CohortError
        The table cannot be used; the message names the row.
    """
    table = read_rows(path, ("volume", "lesion", "score"), ("size_mm",))
    volumes: dict[str, int] = {}
    seen: dict[tuple[str, str], int] = {}
    lesions, false = [], []
    for row in table.rows:
        volume = volumes.setdefault(row.text("volume"), len(volumes))
        score = row.number("score", -1e9, 1e9)
        name = row.cells["lesion"]
        if name:
            line = seen.setdefault((row.cells["volume"], name), row.line)
            if line != row.line:
                raise CohortError("the lesion is there twice", where=row.where, found=f"that of row {line} again")
            lesions.append((volume, -np.inf if np.isnan(score) else score, row.number("size_mm", 0.1, 500)))
        elif not np.isnan(score):
            false.append((volume, score))
    if not lesions:
        raise CohortError("no true lesion in the table: no FROC curve", where=path)
    of_lesion = np.array(lesions, dtype=np.float64).reshape(-1, 3)
    of_false = np.array(false, dtype=np.float64).reshape(-1, 2)
    return Detections(
        len(volumes),
        of_lesion[:, 0].astype(np.int64),
        of_lesion[:, 1],
        of_lesion[:, 2],
        of_false[:, 0].astype(np.int64),
        of_false[:, 1],
    )

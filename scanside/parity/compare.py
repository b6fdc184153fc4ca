"""Two networks' answers to the same cases, compared: by AUC and verdicts, or by masks and components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.engine.components import components, level_of
from scanside.evaluation.errors import CohortError
from scanside.evaluation.resampling import Bootstrap, percentile_interval, weighted_auc
from scanside.evaluation.roc import auc, paired_delong
from scanside.evaluation.segmentation import dice, hd95
from scanside.pack import AucParity, MaskParity, SegmenterSpec, Spread
from scanside.parity.answers import Answers, planes_of
from scanside.parity.cohort import Case

MALIGNANT_ABOVE = 0.5


@dataclass(frozen=True)
class Compared:
    """What two networks differ in, on `lesions` lesions and `items` sections or triplets; `flips` are lesion ids."""

    lesions: int
    items: int
    probability: Spread
    flips: tuple[str, ...]
    auc: AucParity | None = None
    masks: MaskParity | None = None


def compare_classifiers(found: Answers, reference: Answers, *, rounds: int, seed: int) -> Compared:
    """Verdicts of the same lesions; a lesion's probability is the mean of its frames'.

    Raises
    ------
    CohortError
        One class only, or too few lesions for a variance.
    """
    names: list[str] = []
    patients: list[str] = []
    malignant: list[bool] = []
    ours: list[float] = []
    theirs: list[float] = []
    items = 0
    for case in found.question.cohort.cases:
        a, b = (answers.of(case)["probability"].astype(np.float64) for answers in (found, reference))
        items += a.size
        for lesion, is_malignant in enumerate(case.malignant):
            names.append(case.lesion_name(lesion))
            patients.append(f"{case.data}\n{case.patient}")
            malignant.append(is_malignant)
            ours.append(float(a[lesion].mean()))
            theirs.append(float(b[lesion].mean()))
    p, q = np.array(ours), np.array(theirs)
    truth, who = np.array(malignant, bool), np.array(patients)
    error = np.abs(p - q)
    flipped = (p > MALIGNANT_ABOVE) != (q > MALIGNANT_ABOVE)
    return Compared(
        lesions=len(p),
        items=items,
        probability=Spread(float(error.mean()), float(np.percentile(error, 99)), float(error.max())),
        flips=tuple(name for name, flip in zip(names, flipped, strict=True) if flip),
        auc=auc_parity(truth, p, q, who, rounds=rounds, seed=seed),
    )


def auc_parity(
    malignant: NDArray[np.bool_], found: NDArray, reference: NDArray, patient: NDArray, *, rounds: int, seed: int
) -> AucParity:
    """The paired difference in AUC with both its intervals.

    Raises
    ------
    CohortError
        One class only, or too few lesions for a variance.
    """
    difference = paired_delong(malignant, found, reference, patient)
    delong = difference.interval()
    drawn = Bootstrap(malignant, patient, rounds, seed)
    changes = drawn.values(weighted_auc(malignant, found)) - drawn.values(weighted_auc(malignant, reference))
    bootstrap = percentile_interval(changes)
    return AucParity(
        auc(malignant, found),
        auc(malignant, reference),
        difference.difference,
        (delong.low, delong.high),
        (bootstrap.low, bootstrap.high),
    )


def compare_segmenters(found: Answers, reference: Answers) -> Compared:
    """Masks of the same sections, cut at the pack's threshold; see `MaskParity`.

    Raises
    ------
    CohortError
        No section shows a lesion.
    """
    spec = found.question.manifest.segmenter
    sums = _MaskSums(spec)
    for case in found.question.cohort.cases:
        sums.add_case(case, found.of(case), reference.of(case), found.question.sections)
    return sums.result()


class _MaskSums:
    def __init__(self, spec: SegmenterSpec) -> None:
        self.level = level_of(spec.threshold)
        self.smallest_px = spec.min_lesion_mm / spec.pitch_mm
        self.rows: list[tuple[float, float, float, float]] = []
        self.histogram = np.zeros(256, np.int64)
        self.recounted = self.matched = self.appeared = self.vanished = 0
        self.lesions = self.sections = 0
        self.flips: list[str] = []

    def add_case(
        self, case: Case, found: Mapping[str, NDArray], reference: Mapping[str, NDArray], sections: int
    ) -> None:
        touched: dict[int, list[bool]] = {}
        for plane in planes_of(found):
            cut = case.sections(plane, sections)
            shown: dict[int, list[int]] = {}
            for row, lesion in cut.lesions:
                shown.setdefault(row, []).append(lesion)
            for row, truth in enumerate(cut.masks):
                ours, theirs = found[plane.value][row], reference[plane.value][row]
                a, b = self._section(ours, theirs, truth, case.pitch_mm)
                for lesion in shown.get(row, ()):
                    before = touched.setdefault(lesion, [False, False])
                    # A section that several lesions share counts for each: which pixels are whose is not stored.
                    touched[lesion] = [before[0] or a, before[1] or b]
        self.lesions += len(touched)
        self.flips += [case.lesion_name(lesion) for lesion, (a, b) in sorted(touched.items()) if a != b]

    def _section(
        self, ours: NDArray[np.uint8], theirs: NDArray[np.uint8], truth: NDArray[np.bool_], pitch_mm: float
    ) -> tuple[bool, bool]:
        """Add one section; whether each precision's mask touches the truth."""
        self.sections += 1
        self.histogram += np.bincount(_distance(ours, theirs).ravel(), minlength=256)
        a, b = ours >= self.level, theirs >= self.level
        self._components(ours, theirs)
        if truth.any():
            same = bool((a == b).all())
            spacing = (pitch_mm, pitch_mm)
            first = dice(a, truth), hd95(a, truth, spacing)
            second = first if same else (dice(b, truth), hd95(b, truth, spacing))
            self.rows.append((first[0], second[0], first[1], second[1]))
        return bool((a & truth).any()), bool((b & truth).any())

    def _components(self, ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> None:
        a, b = (self._kept(probability) for probability in (ours, theirs))
        self.recounted += a.max(initial=0) != b.max(initial=0)
        both = (a > 0) & (b > 0)
        matched = len(np.unique(a[both])), len(np.unique(b[both]))
        self.matched += matched[0]
        self.appeared += int(a.max(initial=0)) - matched[0]
        self.vanished += int(b.max(initial=0)) - matched[1]

    def _kept(self, probability: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Labels from 1 of the components whose longer side reaches the pack's smallest lesion; 0 elsewhere."""
        found = components(probability, self.level)
        sides = np.maximum(found.boxes[:, 2] - found.boxes[:, 0], found.boxes[:, 3] - found.boxes[:, 1])
        kept = sides >= self.smallest_px
        numbers = np.zeros(len(found) + 1, np.int64)
        numbers[1:][kept] = np.arange(1, int(kept.sum()) + 1)
        return numbers[found.labels]

    def result(self) -> Compared:
        if not self.rows:
            raise CohortError(
                "no section shows a lesion", expected="sections with true masks", found=f"{self.sections} sections"
            )
        a, b, c, d = np.array(self.rows).T
        masks = MaskParity(
            dice=float(a.mean()),
            reference=float(b.mean()),
            dice_difference=float((a - b).mean()),
            hd95_mm=float(c.mean()),
            reference_hd95_mm=float(d.mean()),
            hd95_difference_mm=float((c - d).mean()),
            recounted=int(self.recounted),
            matched=int(self.matched),
            appeared=int(self.appeared),
            vanished=int(self.vanished),
        )
        return Compared(self.lesions, self.sections, _spread(self.histogram), tuple(self.flips), masks=masks)


def _distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """|a - b| without a detour through wider numbers."""
    return np.maximum(a, b) - np.minimum(a, b)


def _spread(histogram: NDArray[np.int64]) -> Spread:
    """Mean, 99th percentile and maximum of levels 0 to 255, as probabilities."""
    total = int(histogram.sum())
    mean = float(np.arange(256) @ histogram) / total
    p99 = int(np.searchsorted(np.cumsum(histogram), 0.99 * total))
    return Spread(mean / 255, p99 / 255, int(np.flatnonzero(histogram)[-1]) / 255)

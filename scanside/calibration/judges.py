"""How much a changed graph matters: clinical measures of its answers against the FP32 graph's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.calibration.agreement import probabilities
from scanside.calibration.observe import Batch, run_batch, session
from scanside.evaluation.roc import auc
from scanside.evaluation.segmentation import dice

VERDICT = 0.5


@dataclass(frozen=True)
class Judgement:
    """`loss` ranks (0 is the reference's own answers, lower is better); `metrics` say what it is made of."""

    loss: float
    metrics: Mapping[str, float]


Judge = Callable[[bytes], Judgement]
"""Any judge of a graph: sensitivity asks for nothing else."""


class SegmenterJudge:
    """Masks: loss is 1 minus the Dice of all pixels cut at the pack's threshold, against the reference's masks.

    Metrics: `dice`; `worst_dice` of a section that has a mask in either; `mask_flips`, sections whose mask appears or
    vanishes; `mean_error` and `max_error` in probability; and where the true masks are given `dice_difference`, the
    mean over sections with a lesion of the Dice with the truth, minus the same of the reference.
    """

    def __init__(
        self,
        reference: bytes,
        output: str,
        batches: Sequence[Callable[[], Batch]],
        threshold: float,
        truth: Sequence[Callable[[], NDArray[np.bool_]]] | None = None,
        threads: int = 0,
    ) -> None:
        self._batches, self._output, self._threads = tuple(batches), output, threads
        self._threshold = threshold
        self._expected = self._answers(reference)
        self._truth = None if truth is None else [mask.reshape(-1) for make in truth for mask in make()]

    def __call__(self, graph: bytes) -> Judgement:
        both = total = 0
        flips, worst, errors, largest = 0, 1.0, 0.0, 0.0
        pixels = 0
        differences: list[float] = []
        truth = iter(self._truth or ())
        for found, expected in zip(self._answers(graph), self._expected, strict=True):
            for ours, theirs in zip(found, expected, strict=True):
                a, b = probabilities(ours), probabilities(theirs)
                mask_a, mask_b = a >= self._threshold, b >= self._threshold
                shared, size = int((mask_a & mask_b).sum()), int(mask_a.sum() + mask_b.sum())
                both, total = both + shared, total + size
                flips += bool(mask_a.any() != mask_b.any())
                worst = min(worst, 2 * shared / size) if size else worst
                known = next(truth, None)
                if known is not None and known.any():
                    differences.append(dice(mask_a, known) - dice(mask_b, known))
                error = np.abs(a - b)
                errors, largest, pixels = errors + float(error.sum()), max(largest, float(error.max())), pixels + a.size
        overlap = 2 * both / total if total else 1.0
        metrics = {
            "dice": overlap,
            "worst_dice": worst,
            "mask_flips": float(flips),
            "mean_error": errors / max(1, pixels),
            "max_error": largest,
        }
        if differences:
            metrics["dice_difference"] = float(np.mean(differences))
        return Judgement(1 - overlap, metrics)

    def _answers(self, graph: bytes) -> list[NDArray]:
        return _answers(graph, self._output, self._batches, self._threads)


class ClassifierJudge:
    """Verdicts: loss is the mean difference in probability, plus the AUC difference where labels are given.

    Metrics: `mean_error`, `p99_error`, `max_error` in probability; `flips`, verdicts that change; with labels of both
    classes `auc_difference`, of this graph from the reference.
    """

    def __init__(
        self,
        reference: bytes,
        output: str,
        batches: Sequence[Callable[[], Batch]],
        malignant: Sequence[bool | None] = (),
        threads: int = 0,
    ) -> None:
        self._batches, self._output, self._threads = tuple(batches), output, threads
        self._expected = self._probabilities(reference)
        known = [label for label in malignant if label is not None]
        labelled = len(known) == len(self._expected) and len(set(known)) == 2
        self._labels = np.array(known, bool) if labelled else None

    def __call__(self, graph: bytes) -> Judgement:
        found, expected = self._probabilities(graph), self._expected
        error = np.abs(found - expected)
        metrics = {
            "mean_error": float(error.mean()),
            "p99_error": float(np.percentile(error, 99)),
            "max_error": float(error.max()),
            "flips": float(((found > VERDICT) != (expected > VERDICT)).sum()),
        }
        loss = metrics["mean_error"]
        if self._labels is not None:
            difference = auc(self._labels, found) - auc(self._labels, expected)
            metrics["auc_difference"] = difference
            loss += abs(difference)
        return Judgement(loss, metrics)

    def _probabilities(self, graph: bytes) -> NDArray[np.float64]:
        answers = _answers(graph, self._output, self._batches, self._threads)
        return np.concatenate([probabilities(answer) for answer in answers])


def _answers(graph: bytes, output: str, batches: Sequence[Callable[[], Batch]], threads: int) -> list[NDArray]:
    runtime = session(graph, threads)
    return [run_batch(runtime, [output], make())[0] for make in batches]

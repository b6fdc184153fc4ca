"""Found lesions against known ones: who matches whom, and how well.

Rule: a report lesion may match a truth lesion when its centroid lies in the truth box (half-open) or the two boxes'
3-D intersection over union is at least `MIN_IOU`. Of all such pairs the one of largest overlap is taken first (nearest
centroids, then lowest numbers, among equals); each lesion is used once. A truth lesion without a partner is missed, a
report lesion without one is a false positive.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scanside.errors import ExamReadError
from scanside.exam.geometry import Box

if TYPE_CHECKING:
    from scanside.exam.phantom import TruthLesion

MIN_IOU = 0.2


class Located(Protocol):
    """What matching needs of a lesion, found or known."""

    @property
    def id(self) -> int: ...
    @property
    def box_mm(self) -> Box: ...
    @property
    def centroid_mm(self) -> tuple[float, float, float]: ...
    @property
    def malignant(self) -> bool: ...


class Found(Located, Protocol):
    """A lesion of a report."""

    @property
    def probability(self) -> float: ...


@dataclass(frozen=True)
class Match:
    """What became of one truth lesion. The fields after `found` are None when it was missed.

    `centroid_error_mm` is the distance between the centroids; `malignant` is the truth, `called_malignant` the report.
    """

    truth_id: int
    malignant: bool
    found: bool
    lesion_id: int | None = None
    iou: float | None = None
    centroid_error_mm: float | None = None
    probability: float | None = None
    called_malignant: bool | None = None


@dataclass(frozen=True)
class Matches:
    """All truth lesions in their order, and the numbers of the report lesions that match none."""

    truth: tuple[Match, ...]
    false_positives: tuple[int, ...]

    @property
    def n_truth(self) -> int:
        return len(self.truth)

    @property
    def n_found(self) -> int:
        return sum(match.found for match in self.truth)

    @property
    def n_false_positives(self) -> int:
        return len(self.false_positives)

    @property
    def n_called_right(self) -> int:
        """Found lesions whose class is the true one."""
        return sum(match.found and match.called_malignant == match.malignant for match in self.truth)


@dataclass(frozen=True)
class Truth:
    """The content of truth.json."""

    seed: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    lesions: tuple[TruthLesion, ...]


def iou_3d(a: Box, b: Box) -> float:
    """Volume of the intersection of two boxes over that of their union; 0 when both are empty."""
    sides = np.minimum(a.max, b.max) - np.maximum(a.min, b.min)
    shared = float(np.prod(np.maximum(sides, 0)))
    union = math.prod(a.size) + math.prod(b.size) - shared
    return shared / union if union > 0 else 0.0


def match_truth(report_lesions: Sequence[Found], truth: Sequence[Located]) -> Matches:
    """Match the lesions of a report to the known ones, one to one.

    Parameters
    ----------
    report_lesions : sequence
        Lesions of a report.
    truth : sequence
        Lesions of a truth.json or a phantom, in the same frame (mm from the volume's corner).

    Returns
    -------
    Matches
        One entry for each truth lesion, and the false positives.
    """
    pairs = []
    for t, known in enumerate(truth):
        for r, found in enumerate(report_lesions):
            overlap = iou_3d(found.box_mm, known.box_mm)
            if overlap >= MIN_IOU or _inside(found.centroid_mm, known.box_mm):
                distance = math.dist(found.centroid_mm, known.centroid_mm)
                pairs.append((-overlap, distance, known.id, found.id, t, r))
    partner: dict[int, tuple[int, float, float]] = {}
    used: set[int] = set()
    for negative, distance, _, _, t, r in sorted(pairs):
        if t not in partner and r not in used:
            partner[t] = (r, -negative, distance)
            used.add(r)
    matches = []
    for t, known in enumerate(truth):
        if t not in partner:
            matches.append(Match(known.id, known.malignant, False))
            continue
        r, overlap, distance = partner[t]
        found = report_lesions[r]
        matches.append(
            Match(known.id, known.malignant, True, found.id, overlap, distance, found.probability, found.malignant)
        )
    return Matches(tuple(matches), tuple(f.id for r, f in enumerate(report_lesions) if r not in used))


def load_truth(path: str | os.PathLike[str]) -> Truth:
    """Read truth.json, as `scanside phantom` writes it.

    Raises
    ------
    ExamReadError
        The file cannot be read, is no JSON, or is not of the schema `scanside-truth/1`.
    """
    from scanside.exam.phantom.save import TRUTH_SCHEMA

    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExamReadError("the truth cannot be read", where=path, found=error) from error
    found = data.get("schema") if isinstance(data, dict) else None
    if found != TRUTH_SCHEMA:
        raise ExamReadError("this is no truth file", where=path, expected=f"schema {TRUTH_SCHEMA}", found=found)
    try:
        return Truth(
            int(data["seed"]),
            _three(data["shape"], int),
            _three(data["spacing_mm"], float),
            tuple(_lesion(entry) for entry in data["lesions"]),
        )
    except KeyError as error:
        raise ExamReadError("the truth is incomplete", where=path, expected=f"an entry {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ExamReadError("the truth is damaged", where=path, found=error) from error


def _lesion(entry: dict[str, Any]) -> TruthLesion:
    from scanside.exam.phantom import TruthLesion

    return TruthLesion(
        id=int(entry["id"]),
        box_index=_box(entry["box_index"], int),
        box_mm=_box(entry["box_mm"], float),
        centroid_mm=_three(entry["centroid_mm"], float),
        malignant=bool(entry["malignant"]),
        kind=str(entry["kind"]),
        diameters_mm=_three(entry["diameters_mm"], float),
        volume_mm3=float(entry["volume_mm3"]),
        descriptors=dict(entry["descriptors"]),
    )


def _box(entry: dict[str, Any], kind: type) -> Box:
    return Box(_three(entry["min"], kind), _three(entry["max"], kind))


def _three(values: Sequence[Any], kind: type) -> Any:
    a, b, c = (kind(v) for v in values)
    return a, b, c


def _inside(point: Sequence[float], box: Box) -> bool:
    return all(low <= p < high for p, low, high in zip(point, box.min, box.max, strict=True))

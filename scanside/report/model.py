"""The result as typed objects; `to_json` of them is report.json (schema-versioned)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box, Geometry

SCHEMA = "scanside-report/1"
NOTICE = "Research use only. Not a medical device."


@dataclass(frozen=True)
class PlaneHeatmap:
    """One plane of a `Heatmap`.

    `index` is the native slice, `window_mm` ((row_min, row_max), (column_min, column_max)) what of it the crop shows,
    `crop` uint8 (size, size) what the classifier saw, and `values` float32 (h, w), zero or more, lie over the whole
    crop: how much a place raised the score of the lesion's class, in logits per feature pixel.
    """

    index: int
    window_mm: tuple[tuple[float, float], tuple[float, float]]
    crop: NDArray[np.uint8]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Heatmap:
    """Where the classifier looked: Grad-CAM of the lesion's class, by plane (paper, Figures 4 and 5).

    It belongs to one triplet, number `frame` of `frame_probabilities`, the one that stands for the lesion. The planes
    have one scale and can be compared.
    """

    frame: int
    planes: Mapping[str, PlaneHeatmap]


@dataclass(frozen=True)
class Lesion:
    """One lesion: a 3-D box, how surely it was detected, and how likely it is malignant.

    Axes are (sweep, depth, lateral). `diameters_mm` are the box's sides. `detection_score` is the mean segmentation
    probability inside the lesion; `probability` is the mean of `frame_probabilities` (paper, Methods);
    `malignant` is `probability > 0.5`. `planes_seen` lists the planes whose own sections show the lesion.
    """

    id: int
    box_index: Box
    box_mm: Box
    centroid_mm: tuple[float, float, float]
    diameters_mm: tuple[float, float, float]
    volume_mm3: float
    detection_score: float
    probability: float
    frame_probabilities: tuple[float, ...]
    malignant: bool
    planes_seen: tuple[str, ...]
    frames: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Native slice indices of the triplets, by plane, in pairing order."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    heatmap: Heatmap | None = field(default=None, compare=False)
    """Only when asked for (``scanside.load(explain="gradcam")``); not part of report.json."""


@dataclass(frozen=True)
class ExamRecord:
    """What was analysed. `source` is a file or folder name, never a patient's.

    `missing_frames` of a live sweep never came and were taken as black: the findings are those of the frames that did,
    and the report is incomplete.
    """

    source: str
    sop_instance_uids: tuple[str, ...]
    laterality: str
    view: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    geometry_source: str
    warnings: tuple[str, ...]
    missing_frames: int = 0

    @property
    def complete(self) -> bool:
        """Whether every frame of the sweep was analysed."""
        return self.missing_frames == 0


@dataclass(frozen=True)
class PackRecord:
    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class NetworkRecord:
    """What ran one network: e.g. runtime "onnxruntime/cpu", precision "fp32"."""

    runtime: str
    precision: str


@dataclass(frozen=True)
class DeviceRecord:
    """What really ran: e.g. runtime "onnxruntime/cpu", precision "fp32", policy "exact", name "AMD EPYC".

    `networks` says it for "segmenter" and "classifier"; where they differ, `runtime` and `precision` hold both, the
    segmenter's first ("bf16+int8").
    `sections` counts the sections that were looked at, by plane; under ``confirm`` one seen through two windows counts
    twice. `blank_sections` counts those of them that were black all over: for them stands the network's answer to
    black, computed once.
    """

    runtime: str
    precision: str
    policy: str
    name: str
    fallbacks: tuple[str, ...]
    sections: Mapping[str, int] = field(default_factory=dict)
    blank_sections: Mapping[str, int] = field(default_factory=dict)
    networks: Mapping[str, NetworkRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Wall milliseconds: `total`, and the busy time of each stage (stages overlap, so they may add up to more)."""

    total: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class LesionMask:
    """Lesion ids (0 is background) on an isotropic grid of `pitch_mm` from the volume's corner.

    `labels` is uint16 (sweep, depth, lateral) of the section grid; the report resamples it (nearest) to the volume's
    own grid for masks.nrrd.
    """

    labels: NDArray[np.uint16]
    pitch_mm: float


@dataclass(frozen=True)
class Report:
    """The findings of one volume. `to_json()` gives the content of report.json."""

    software: Mapping[str, str]
    pack: PackRecord
    exam: ExamRecord
    device: DeviceRecord
    lesions: tuple[Lesion, ...]
    timing_ms: Timing
    geometry: Geometry
    mask: LesionMask
    trace: tuple[Mapping[str, Any], ...] = ()
    notice: str = NOTICE
    schema: str = SCHEMA

"""A small volume with two lesions, a benign and a malignant one, and its report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from scanside.exam.geometry import Box, Geometry
from scanside.report.model import DeviceRecord, ExamRecord, Lesion, LesionMask, PackRecord, Report, Timing

SHAPE, SPACING_MM = (12, 64, 80), (1.0, 0.25, 0.4)


@dataclass(frozen=True)
class Example:
    report: Report
    voxels: NDArray[np.uint8]


def make_lesion(number: int, geometry: Geometry, low: tuple, high: tuple, probability: float) -> Lesion:
    box = Box(low, high)
    box_mm = geometry.box_mm_from_index(box)
    volume_mm3 = float(np.prod(box_mm.size))
    return Lesion(
        id=number,
        box_index=box,
        box_mm=box_mm,
        centroid_mm=box_mm.centre,
        diameters_mm=box_mm.size,
        volume_mm3=volume_mm3,
        detection_score=0.8,
        probability=probability,
        frame_probabilities=(probability, probability),
        malignant=probability > 0.5,
        planes_seen=("transverse", "coronal"),
        frames={"transverse": (3, 4)},
    )


def make_report(geometry: Geometry, lesions: tuple[Lesion, ...], *, source: str = "exam.dcm") -> Report:
    labels = np.zeros(tuple(max(1, round(extent / 0.5)) for extent in geometry.extent_mm), np.uint16)
    for lesion in lesions:
        low, high = (np.round(np.divide(edge, 0.5)).astype(int) for edge in (lesion.box_mm.min, lesion.box_mm.max))
        labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = lesion.id
    return Report(
        software={"name": "scanside", "version": "0.1.0"},
        pack=PackRecord("tiny", "1", "0" * 64),
        exam=ExamRecord(
            source=source,
            sop_instance_uids=("1.2.826.0.1",),
            laterality="right",
            view="AP",
            shape=geometry.shape,
            spacing_mm=geometry.spacing_mm,
            geometry_source="test",
            warnings=(),
        ),
        device=DeviceRecord("onnxruntime/cpu", "fp32", "exact", "a processor", ()),
        lesions=lesions,
        timing_ms=Timing(12.5, {"decode": 1.25, "segment": 9.0}),
        geometry=geometry,
        mask=LesionMask(labels, 0.5),
        trace=({"name": "segment", "ph": "X", "ts": 0, "dur": 9000, "pid": 1, "tid": 1},),
    )


@pytest.fixture(scope="session")
def example() -> Example:
    geometry = Geometry(SHAPE, SPACING_MM)
    lesions = (
        make_lesion(1, geometry, (2, 8, 10), (6, 24, 25), 0.12),
        make_lesion(2, geometry, (7, 30, 50), (10, 46, 65), 0.93),
    )
    voxels = np.random.default_rng(5).integers(70, 110, SHAPE, dtype=np.uint8)
    for lesion in lesions:
        low, high = lesion.box_index.min, lesion.box_index.max
        voxels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 20
    voxels.setflags(write=False)
    return Example(make_report(geometry, lesions), voxels)


@pytest.fixture(scope="session")
def report_of():
    """`make_report`, for tests that need lesions of their own."""
    return make_report


@pytest.fixture(scope="session")
def lesion_at():
    """`make_lesion`, for tests that need lesions of their own."""
    return make_lesion

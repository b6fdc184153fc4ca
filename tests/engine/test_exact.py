"""Policy `exact` gives the numbers it always gave."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from scanside.engine.predictor import Predictor
from scanside.exam.geometry import Box

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

MASK_SHA256 = "ac5e1d81513248c8e7071716d63028f916221077968a4003cfb248f19e687931"
LESIONS = [
    (
        Box((11.0, 19.0, 46.0), (20.0, 31.0, 62.0)),
        (15.494834018528366, 24.8672169841908, 54.080224017706996),
        955.0,
        0.9498860486603018,
        (0.9999679923057556, 0.9999977946281433, 0.999997615814209, 0.9999080896377563),
    ),
    (
        Box((4.0, 9.0, 15.0), (12.0, 18.0, 29.0)),
        (7.999809794063519, 13.903216022536833, 21.99719831796264),
        450.0,
        0.8476078431372549,
        (0.04742586612701416,) * 4,
    ),
]
"""As written down before there was another policy."""


def test_golden_numbers(predictor: Predictor, blob_volume: BlobVolume) -> None:
    report = predictor.analyze(blob_volume.volume())
    for lesion, (box, centroid, volume_mm3, score, frames) in zip(report.lesions, LESIONS, strict=True):
        assert lesion.box_mm == box
        assert lesion.centroid_mm == centroid
        assert lesion.volume_mm3 == volume_mm3
        assert lesion.detection_score == score
        assert lesion.frame_probabilities == pytest.approx(frames, abs=1e-6)  # exponentials differ by processor
    assert hashlib.sha256(report.mask.labels.tobytes()).hexdigest() == MASK_SHA256
    assert report.device.sections == {"transverse": 24, "sagittal": 77, "coronal": 40}

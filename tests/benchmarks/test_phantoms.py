"""The table of findings on phantoms: what its summary says, and that training seeds cannot slip in."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import scanside
from benchmarks import phantoms
from benchmarks.phantoms import make_table, summarise, with_every_candidate
from scanside.errors import UsageError
from scanside.evaluation.detection import read_detections
from scanside.exam.geometry import Box, Geometry
from scanside.pack import load_pack
from scanside.report.masks import mask_frames
from tests.conftest import BlobVolume


def row(found: int, malignant: int, probability: float = 0.5, error: float = 1.0, size: float = 12.0) -> dict:
    judged = {"centroid_error_mm": error, "dice": error / 10}
    return {"found": found, "malignant": malignant, "probability": probability, "size_mm": size, **judged}


def test_the_summary_by_hand() -> None:
    lesions = [row(1, 1, 0.9, 1.0), row(1, 0, 0.2, 2.0), row(1, 1, 0.1, 3.0), row(1, 0, 0.6, 7.0), row(0, 1, size=50.1)]
    summary = summarise(lesions, [{"false_positives": 1}, {"false_positives": 0}])
    assert summary["sensitivity"] == 0.8
    assert summary["false_positives_per_volume"] == 0.5
    assert summary["median_centroid_error_mm"] == 2.5
    assert (summary["dice_mean"], summary["dice_median"]) == (0.325, 0.25)
    assert list(summary["found_by_size"].values()) == [[4, 4], [0, 0], [0, 1]]
    assert summary["auc"] == 0.5  # (0.9 beats both, 0.1 neither) = 2 of 4 pairs
    assert summary["accuracy"] == 0.5


def test_one_class_has_no_auc() -> None:
    assert summarise([row(1, 0)], [{"false_positives": 0}])["auc"] is None


def test_training_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="training"):
        make_table(range(1990, 2010), tmp_path, None)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_the_tables_of_two_volumes(
    tiny_pack: Path, blob_volume: BlobVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One volume whose truth is what the tiny pack finds in it but for one lesion, and one with no lesion at all."""
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)
    with scanside.load(tiny_pack, device="cpu", threads=1) as predictor:
        report = predictor.analyze(blob_volume.volume())
    first = report.lesions[0]
    mask = np.stack(list(mask_frames(report.mask, geometry, np.uint8)))
    mask[mask != first.id] = 0
    known = [
        SimpleNamespace(
            id=id_, kind="blob", malignant=first.malignant, box_mm=box, centroid_mm=box.centre, diameters_mm=(size,) * 3
        )
        for id_, box, size in ((first.id, first.box_mm, 12.0), (9, Box((0, 0, 0), (1, 1, 1)), 30.0))
    ]

    def made(seed: int) -> SimpleNamespace:
        voxels = blob_volume.voxels if seed == 5000 else np.zeros_like(blob_volume.voxels)
        return SimpleNamespace(
            seed=seed, voxels=voxels, mask=mask, geometry=geometry, truth=known if seed == 5000 else []
        )

    monkeypatch.setattr(phantoms, "make_phantom", made)
    make_table(range(5000, 5002), tmp_path, tiny_pack)
    lesions = rows_of(tmp_path / "phantoms-lesions.csv")
    assert [(row["found"], row["dice"]) for row in lesions] == [("1", "1.0"), ("0", "")]
    others = len(report.lesions) - 1
    assert [row["false_positives"] for row in rows_of(tmp_path / "phantoms-volumes.csv")] == [str(others), "0"]
    detections = read_detections(tmp_path / "phantoms-detections.csv")
    assert (detections.n_volumes, len(detections.lesion_score), len(detections.false_score)) == (2, 2, others)
    assert [row["sensitivity"] for row in rows_of(tmp_path / "phantoms-froc.csv")][-1] == "0.5"
    summary = json.loads((tmp_path / "phantoms-summary.json").read_text())
    assert list(summary["found_by_size"].values()) == [[1, 1], [0, 1], [0, 0]]
    assert 0 < summary["froc_score"] <= 0.5
    assert summary["pack"]["sha256"] == load_pack(tiny_pack).sha256


def test_every_candidate_is_asked_for_and_nothing_else_changes(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    changed = with_every_candidate(pack).manifest
    assert changed.segmenter.min_detection_score == 0
    assert changed.classifier == pack.manifest.classifier

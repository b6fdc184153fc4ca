"""The cohort tables at a tiny size: real lesions, ResNet50 alone and fused, one CSV a model, nothing twice."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.cohort_tables import (
    MODELS,
    PARTS,
    make_table,
    model_from,
    plane_weights,
    point_estimates,
    require_planes,
)
from scanside.errors import UsageError
from scanside.training import lesion_cohort

RECIPE = """trains = "classifier"
steps = 1
batch = 2
accumulate = 2
size = 32
recalibration_batches = 0
"""


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"malignant": 1, "benign": 1, "malignant_size_mm": (8.0, 0.5), "benign_size_mm": (8.0, 0.5)}
    parts = {name: replace(part, **small) for name, part in lesion_cohort.PARTS.items()}
    monkeypatch.setattr(lesion_cohort, "PARTS", parts)


@pytest.mark.usefixtures("tiny_parts")
def test_one_csv_a_model_written_at_once_and_left_alone_afterwards(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    models = [("resnet50", "sagittal"), ("resnet50", "transverse"), ("resnet50", "fusion1")]

    def make() -> None:
        make_table(
            tmp_path / "cohort",
            tmp_path / "runs",
            tmp_path / "out",
            models=[":".join(model) for model in models],
            recipe=str(recipe),
            fusion_recipe=str(recipe),
            parts=("train", "validation", "external-b"),
            workers=0,
            seed=4,
        )

    make()
    for backbone, variant in models:
        file = tmp_path / "out" / f"cohort-{backbone}-{variant}.csv"
        rows = rows_of(file)
        assert list(rows[0]) == ["case", "label", "probability", "patient", "cohort", "size_mm"]
        assert [r["cohort"] for r in rows] == ["validation"] * 2 + ["external-b"] * 2
        assert sorted(r["label"] for r in rows) == ["0", "0", "1", "1"]
        assert all(4 < float(r["size_mm"]) < 12 for r in rows)
        record = json.loads(file.with_suffix(".json").read_text())
        assert record["recipe"]["variant"] == variant
        assert record["recipe"]["seed"] == 4
        assert record["data"]["start"] == ("single planes" if variant == "fusion1" else "random")
        assert record["command"].startswith("python -m benchmarks")
        assert (tmp_path / "out" / f"cohort-{backbone}-{variant}.log.jsonl").is_file()
    table = rows_of(tmp_path / "out" / "cohort-tables.csv")
    assert [(r["variant"], r["cohort"], r["lesions"]) for r in table] == [
        ("fusion1", "validation", "2"),
        ("fusion1", "external-b", "2"),
        ("sagittal", "validation", "2"),
        ("sagittal", "external-b", "2"),
        ("transverse", "validation", "2"),
        ("transverse", "external-b", "2"),
    ]
    weights = {f: f.stat().st_mtime_ns for f in (tmp_path / "runs").rglob("*.safetensors")}
    assert len(weights) == 3
    make()
    assert weights == {f: f.stat().st_mtime_ns for f in (tmp_path / "runs").rglob("*.safetensors")}


def test_planes_that_a_fusion_starts_from_are_asked_for_before_hours_of_training(tmp_path: Path) -> None:
    fusion = ("resnet50", "fusion1")
    with pytest.raises(UsageError, match="are not trained; found resnet50:transverse, resnet50:sagittal"):
        make_table(tmp_path / "cohort", tmp_path, tmp_path, models=["resnet50:fusion1"], fusion_recipe="tables")
    assert not (tmp_path / "cohort").exists()
    with pytest.raises(UsageError, match="found resnet50:sagittal"):
        require_planes([("resnet50", "transverse"), fusion, ("resnet50", "sagittal")], tmp_path)
    plane_weights(tmp_path, "resnet50", "sagittal").parent.mkdir()
    plane_weights(tmp_path, "resnet50", "sagittal").touch()
    require_planes([("resnet50", "transverse"), fusion], tmp_path)


def test_the_models_are_those_of_tables_2_and_3() -> None:
    assert len(MODELS) == 8
    assert MODELS[-1] == ("resnet101", "fusion2")
    assert set(PARTS) == set(lesion_cohort.PARTS) - {"parity"}


def test_point_estimates_by_hand() -> None:
    labels = np.array([True, True, False, False, False])
    found = point_estimates(labels, np.array([0.9, 0.4, 0.6, 0.5, 0.1]))
    assert (found["sensitivity"], found["specificity"], found["accuracy"]) == (0.5, 0.6667, 0.6)
    assert found["auc"] == round((3 + 1) / 6, 4)
    assert found["f1"] == 0.5
    assert point_estimates(labels[:2], np.array([0.9, 0.4]))["auc"] == ""


def test_a_model_needs_both_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_from("vgg19:fusion1") == ("vgg19", "fusion1")
    with pytest.raises(UsageError, match="resnet50:fusion2"):
        model_from("vgg19")
    words = ["benchmarks", "cohort-tables", "--cohort", "c", "--runs", "r"]
    monkeypatch.setattr(sys, "argv", [*words, "--model", "vgg19"])
    assert command.main() == 2
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(lesion_cohort, "build_lesion_cohort", lambda *a, **k: [])
    assert command.main() == 3  # there is no cohort
    assert "no such folder" in capsys.readouterr().err

"""The cohort tables at a tiny size: real lesions, ResNet50 alone and fused, one CSV a model, nothing twice."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from benchmarks import __main__ as command
from benchmarks.cohort_tables import (
    INDEX,
    LATE,
    MODELS,
    PARTS,
    SINGLE,
    make_table,
    model_from,
    plane_weights,
    require_planes,
    write_tables,
)
from scanside.errors import UsageError
from scanside.evaluation.errors import CohortError
from scanside.evaluation.predictions import Classifier
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
    small = {"malignant": 2, "benign": 2, "malignant_size_mm": (8.0, 0.5), "benign_size_mm": (8.0, 0.5)}
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
        assert [r["cohort"] for r in rows] == ["validation"] * 4 + ["external-b"] * 4
        assert sorted(r["label"] for r in rows) == ["0"] * 4 + ["1"] * 4
        assert all(4 < float(r["size_mm"]) < 12 for r in rows)
        record = json.loads(file.with_suffix(".json").read_text())
        assert record["recipe"]["variant"] == variant
        assert record["recipe"]["seed"] == 4
        assert record["data"]["start"] == ("single planes" if variant == "fusion1" else "random")
        assert record["command"].startswith("python -m benchmarks")
        assert (tmp_path / "out" / f"cohort-{backbone}-{variant}.log.jsonl").is_file()
    table = rows_of(tmp_path / "out" / "cohort-table3.csv")
    aucs = [(r["cohort"], r["planes"]) for r in table if r["metric"] == "auc"]
    assert aucs == [(c, p) for c in ("external-b", "validation") for p in ("transverse", "sagittal", "fusion1")]
    assert "**Table 3." in (tmp_path / "out" / "cohort-table3.md").read_text()
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


LESIONS = [("A 1", 1, "validation"), ("A 2", 0, "validation"), ("A 3", 1, "validation"), ("A 4", 0, "validation")]
LESIONS += [("A 5", 1, "test"), ("A 6", 0, "test"), ("A 7", 1, "test"), ("A 8", 0, "test"), ("A 9", 0, "test")]


def write_predictions(out: Path, backbone: str, variant: str, probabilities: list[float]) -> None:
    lines = ["case,label,probability,patient,cohort,size_mm"]
    lines += [f"{c},{y},{p},{c},{part},9.5" for (c, y, part), p in zip(LESIONS, probabilities, strict=True)]
    (out / f"cohort-{backbone}-{variant}.csv").write_text("\n".join(lines) + "\n")


def test_the_tables_against_scikit_learn_with_late_beside_its_planes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    models = [*SINGLE, INDEX, Classifier("vgg19", "fusion2")]
    given = {who: rng.random(len(LESIONS)).round(3) for who in models}
    for who, probability in given.items():
        write_predictions(tmp_path, who.model, who.planes, probability.tolist())
    given[LATE] = np.mean([given[plane] for plane in SINGLE], axis=0)
    write_tables(tmp_path)
    table2, table3 = (rows_of(tmp_path / f"cohort-table{number}.csv") for number in (2, 3))
    order = [r["planes"] for r in table3 if r["metric"] == "auc" and r["cohort"] == "test"]
    assert order == ["transverse", "sagittal", "coronal", "late", "fusion2"]
    assert {r["model"] for r in table2} == {"resnet50", "vgg19"}
    judged = {(r["cohort"], r["model"], r["planes"], r["metric"]): float(r["estimate"]) for r in (*table2, *table3)}
    assert next(iter(judged))[0] == "test"
    for who, probability in given.items():
        for part in ("test", "validation"):
            here = [i for i, lesion in enumerate(LESIONS) if lesion[2] == part]
            labels, scores = np.array([LESIONS[i][1] for i in here]), probability[here]
            expected = {
                "auc": roc_auc_score(labels, scores),
                "f1": f1_score(labels, scores > 0.5),
                "accuracy": accuracy_score(labels, scores > 0.5),
            }
            for metric, value in expected.items():
                assert judged[part, who.model, who.planes, metric] == pytest.approx(value, abs=1e-5)
    differences = rows_of(tmp_path / "cohort-table3-differences.csv")
    assert [r["cohort"] for r in differences if r["other"] == "resnet50 (late)"] == ["test", "validation"]


def test_models_of_other_cases_make_no_table(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no predictions of the cohort here"):
        write_tables(tmp_path)
    write_predictions(tmp_path, "resnet50", "transverse", [0.5] * len(LESIONS))
    write_predictions(tmp_path, "resnet50", "coronal", [0.5] * len(LESIONS))
    file = tmp_path / "cohort-resnet50-coronal.csv"
    file.write_text(file.read_text().replace("A 5", "A 55"))
    with pytest.raises(CohortError, match=r"coronal\.csv: the models were not judged on the same cases"):
        write_tables(tmp_path)
    assert not list(tmp_path.glob("cohort-table*"))


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

"""A recipe, data and a folder: every kind of data set trains both networks, or says why not."""

from __future__ import annotations

import csv
import json

import pytest

from scanside.errors import UsageError
from scanside.training.datasets import open_data
from scanside.training.errors import LeakError, TrainingDataError
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe
from scanside.training.run import train_classifier, train_recipe, train_segmenter
from scanside.training.split import read_split

SEGMENTER = SegmenterRecipe(
    steps=1,
    batch=2,
    crop_sizes=(32,),
    busbra_longer_side=32,
    recalibration_batches=0,
    validation_images=2,
    validation_sections=3,
    validation_phantoms=1,
)
CLASSIFIER = ClassifierRecipe(
    steps=1, batch=2, size=32, variant="transverse", recalibration_batches=0, validation_phantoms=1, frames=2
)


def rows_of(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_volumes_and_pictures_together_train_a_segmenter(stub_cohort, tiny_busbra, tmp_path):
    sets = [open_data(stub_cohort, tmp_path), open_data(tiny_busbra, tmp_path, validation_images=2)]
    weights = train_segmenter(SEGMENTER, sets, tmp_path / "run")
    record = json.loads(weights.with_suffix(".json").read_text())
    busbra = record["data"]["data_sets"]["BUS-BRA"]
    assert set(busbra) == {"train", "validation", "test"}
    assert record["data"]["data_sets"]["phantom"]["validation"] == ["phantom 13"]
    origins, parts = read_split(tmp_path / "run" / "segmenter.split.csv")
    assert len(origins) == len(parts) == 4 + len(sets[1].pictures)


def test_a_classifier_leaves_its_predictions_for_what_it_never_saw(stub_cohort, tmp_path):
    sets = [open_data(stub_cohort, tmp_path)]
    train_classifier(CLASSIFIER, sets, tmp_path / "run")
    rows = rows_of(tmp_path / "run" / "classifier.predictions.csv")
    assert list(rows[0]) == ["case", "label", "probability", "patient", "cohort", "size_mm"]
    assert {r["patient"] for r in rows} == {"phantom 13"}
    assert {r["cohort"] for r in rows} == {"validation"}
    assert [r["label"] for r in rows] == ["0", "1", "0"][: len(rows)]
    assert rows[1]["case"] == "phantom 13 lesion 2"
    assert all(0 < float(r["probability"]) < 1 and float(r["size_mm"]) > 5 for r in rows)


def test_pictures_train_a_single_view_and_nothing_else(busi, tmp_path):
    from dataclasses import replace

    sets = [open_data(busi, tmp_path)]
    train_classifier(replace(CLASSIFIER, validation_fraction=0.3, test_fraction=0.2), sets, tmp_path / "run")
    rows = rows_of(tmp_path / "run" / "classifier.predictions.csv")
    assert {r["cohort"] for r in rows} == {"validation", "test"}
    assert not any("normal" in r["case"] for r in rows)
    assert {r["size_mm"] for r in rows} == {""}
    with pytest.raises(UsageError, match="one view of a lesion") as caught:
        train_classifier(replace(CLASSIFIER, variant="fusion1"), sets, tmp_path / "other")
    assert caught.value.exit_code == 2


def test_tdsc_through_a_recipe_file(tdsc, tmp_path, monkeypatch):
    """From the folder as it unpacks to weights, cut volumes, split and predictions; a second run changes nothing."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'trains = "classifier"\nsteps = 1\nbatch = 2\nsize = 32\nvariant = "coronal"\nrecalibration_batches = 0\n'
    )
    seen = []
    weights = train_recipe(recipe, [tdsc], tmp_path / "run", workers=0, seed=3, progress=seen.append)
    assert ("cut TDSC", 4, 4) in [(p.stage, p.done, p.total) for p in seen]
    assert ("classifier", 1, 1) in [(p.stage, p.done, p.total) for p in seen]
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["recipe"]["seed"] == 3
    assert record["data"]["lesions"] == {"benign": 1, "malignant": 1}
    rows = rows_of(tmp_path / "run" / "classifier.predictions.csv")
    assert [(r["case"], r["label"], r["cohort"]) for r in rows] == [("100", "1", "validation"), ("130", "1", "test")]
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*") if f.is_file()}
    assert train_recipe(recipe, [tdsc], tmp_path / "run", workers=0, seed=3) == weights
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*") if f.is_file()}


def test_other_data_in_the_same_folder_are_refused(stub_cohort, tiny_busbra, tmp_path):
    phantoms = open_data(stub_cohort, tmp_path)
    train_classifier(CLASSIFIER, [phantoms], tmp_path / "run")
    with pytest.raises(LeakError, match="another split"):
        train_classifier(CLASSIFIER, [phantoms, open_data(tiny_busbra, tmp_path)], tmp_path / "run")


def test_bad_requests(stub_cohort, tmp_path):
    with pytest.raises(UsageError, match="no data"):
        train_recipe("classifier", [], tmp_path)
    with pytest.raises(UsageError, match="no ImageNet weights"):
        train_recipe("segmenter", [stub_cohort], tmp_path, imagenet=tmp_path)
    with pytest.raises(TrainingDataError, match="no such folder"):
        train_recipe("segmenter", [tmp_path / "nowhere"], tmp_path)
    (tmp_path / "mute.toml").write_text("steps = 1\n")
    with pytest.raises(UsageError, match="does not say what it trains"):
        train_recipe(tmp_path / "mute.toml", [stub_cohort], tmp_path)

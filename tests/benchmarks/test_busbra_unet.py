"""The UNet's folds: trained on the other folds, judged on the held-out one, going on where they stopped."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks import busbra_unet
from scanside.training.recipe import SegmenterRecipe, load_recipe

pytest.importorskip("torch")

RECIPE = """
trains = "segmenter"
steps = 2
batch = 2
crop_sizes = [32]
crop_until = [1.0]
busbra_longer_side = 32
recalibration_batches = 1
validation_images = 1
"""


@pytest.fixture
def small_busbra(tmp_path: Path) -> Path:
    """Three cases of two images in each of two folds."""
    return busbra_of(range(6), tmp_path / "busbra")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two steps on windows of 32 pixels."""
    file = tmp_path / "small.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture
def start(recipe: Path, tmp_path: Path) -> Path:
    """A segmenter trained on four cases that are none of the small BUS-BRA."""
    from scanside.training.datasets.open import open_busbra
    from scanside.training.run import train_segmenter

    others = open_busbra(busbra_of(range(90, 96), tmp_path / "others"), test_fold=1, validation_images=1)
    return train_segmenter(load_recipe(recipe, SegmenterRecipe, seed=7), [others], tmp_path / "start")


def busbra_of(cases: range, folder: Path) -> Path:
    """Cases of two images each, by turns in two folds, in BUS-BRA's layout."""
    for name in ("Images", "Masks"):
        (folder / name).mkdir(parents=True)
    data, folds = ["ID,Case,Pathology"], ["ID,kFold,valid_1,valid_2"]
    for number, case in enumerate(cases):
        fold = 1 + number % 2
        for side in "lr":
            mask = np.zeros((40, 30), np.uint8)
            cv2.circle(mask, (15, 20), 5 + number, 255, -1)
            cv2.imwrite(str(folder / "Images" / f"bus_{case}-{side}.png"), 220 - mask // 2)
            cv2.imwrite(str(folder / "Masks" / f"mask_{case}-{side}.png"), mask)
            data.append(f"bus_{case}-{side},{case},{'malignant' if number < 2 else 'benign'}")
            folds.append(f"bus_{case}-{side},{fold},{int(number != 1)},{int(number != 2)}")
    (folder / "bus_data.csv").write_text("\n".join(data) + "\n")
    (folder / "5-fold-cv.csv").write_text("\n".join(folds) + "\n")
    return folder


def test_folds_leave_their_images_and_go_on(
    small_busbra: Path, start: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scanside.training import run

    train, trained = run.train_segmenter, []

    def once_killed(recipe: Any, *given: Any, **named: Any) -> Path:
        trained.append(recipe.seed)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(recipe, *given, **named)

    monkeypatch.setattr(run, "train_segmenter", once_killed)
    out = tmp_path / "out"
    out.mkdir()
    given = {"busbra": small_busbra, "work": tmp_path / "work", "folds": range(1, 3), "start": start, "recipe": recipe}
    given["out"] = out
    with pytest.raises(KeyboardInterrupt):
        busbra_unet.make_table(**given)  # type: ignore[arg-type]
    assert not (out / "busbra-unet-folds.csv").exists()
    busbra_unet.make_table(**given)  # type: ignore[arg-type]
    assert trained == [1, 2, 2]

    rows = list(csv.DictReader((out / "busbra-unet-folds.csv").read_text().splitlines()))
    assert [(row["fold"], row["images"], row["cases"]) for row in rows] == [("1", "6", "3"), ("2", "6", "3")]
    for row in rows:
        images = list(csv.DictReader((out / f"busbra-unet-fold{row['fold']}.csv").read_text().splitlines()))
        dices = [float(image["dice"]) for image in images]
        assert float(row["mean"]) == pytest.approx(np.mean(dices), abs=1e-3)
        assert int(row["missed"]) == dices.count(0)
        record = json.loads((out / f"busbra-unet-fold{row['fold']}.json").read_text())
        patients = record["data"]["data_sets"]["BUS-BRA"]
        assert set(patients["test"]) == {image["case"] for image in images}
        assert record["data"]["start_seen"] == {"BUS-BRA": ["93", "95"]}
        assert not set(patients["test"]) & {*patients["train"], *patients["validation"]}
        assert (out / f"busbra-unet-fold{row['fold']}.log.jsonl").read_text()
    record = json.loads((out / "busbra-unet-folds.json").read_text())
    assert record["start"]["trained_on"] == {"BUS-BRA": 2}
    assert record["start"]["recipe"]["seed"] == 7
    assert record["over_folds"]["mean_two_looks"] == pytest.approx(
        np.mean([float(row["mean_two_looks"]) for row in rows]), abs=1e-3
    )
    assert record["over_folds"]["mean"] == pytest.approx(np.mean([float(row["mean"]) for row in rows]), abs=1e-3)

"""BUS-BRA's folds go on where they stopped, row by row; the networks are stood in for."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import busbra
from scanside.errors import UsageError

pytest.importorskip("torch")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(fold's folder, network) of each training; the third one is interrupted."""
    from scanside.training import views

    calls: list[tuple[str, str]] = []
    lesions = [views.ViewedLesion(f"case {n}", n > 1, ("a", "b"), np.zeros((2, 8, 8), np.uint8)) for n in range(4)]
    split = SimpleNamespace(test=lesions, two_views=lambda: split)

    def train(recipe: Any, split: Any, out: Path, *, name: str, **_: Any) -> Path:
        calls.append((Path(out).name, name))
        if len(calls) == 3:
            raise KeyboardInterrupt
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / f"{name}.log.jsonl").write_text("{}\n")
        data = {"start": "imagenet" if name == "view" else "single view", "fresh": ["conv2", "bn2"]}
        (Path(out) / f"{name}.json").write_text(json.dumps({"recipe": {}, "data": data, "validation": {}}))
        return Path(out) / f"{name}.safetensors"

    monkeypatch.setattr(views, "split_views", lambda *_, **__: split)
    monkeypatch.setattr(views, "train_views", train)
    probabilities = [np.array([p, p]) for p in (0.1, 0.6, 0.5, 0.9)]
    monkeypatch.setattr(views, "predict_views", lambda *_, **__: probabilities)
    return calls


def test_folds_go_on_where_they_stopped(trained: list[tuple[str, str]], tmp_path: Path) -> None:
    given = {"busbra": tmp_path, "imagenet": tmp_path, "work": tmp_path / "work", "folds": range(1, 3)}
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        busbra.make_table(out=out, **given)  # type: ignore[arg-type]
    assert not list(out.glob("busbra-folds-*.csv"))
    busbra.make_table(out=out, **given)  # type: ignore[arg-type]
    assert trained == [
        ("resnet50-fold1", "view"),
        ("resnet50-fold1", "two_views"),
        ("resnet50-fold2", "view"),
        ("resnet50-fold2", "view"),
        ("resnet50-fold2", "two_views"),
    ]
    (table,) = out.glob("busbra-folds-*.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["fold"], row["recipe"]) for row in rows] == [
        (fold, recipe) for fold in "12" for recipe in ("view", "two_views")
    ]
    assert {(row["cases"], row["malignant"], row["auc"]) for row in rows} == {("4", "2", "0.75")}
    assert [row["start"] for row in rows[:2]] == ["ImageNet ResNet50, 1 convolutions random", "single view"]
    assert len(list(out.glob("busbra-*-fold?.csv"))) == 4
    record = json.loads(table.with_suffix(".json").read_text())
    assert record["folds"] == [1, 2]
    assert set(record["recipes"]) == {"view", "two_views"}


def test_a_resnet_is_not_started_at_random(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="starts from ImageNet"):
        busbra.make_table(tmp_path, None, tmp_path, [1], tmp_path, backbone="resnet101")
    with pytest.raises(UsageError, match="unknown backbone"):
        busbra.make_table(tmp_path, None, tmp_path, [1], tmp_path, backbone="resnet18")


def test_other_backbones_start_at_random(trained: list[tuple[str, str]], tmp_path: Path) -> None:
    busbra.make_table(tmp_path, None, tmp_path / "work", [1], tmp_path, backbone="vgg19")
    assert trained == [("vgg19-fold1", "view"), ("vgg19-fold1", "two_views")]
    assert (tmp_path / "busbra-folds-vgg19.csv").is_file()


def test_the_short_recipes_load_and_are_kept_apart_from_the_committed_tables(tmp_path: Path) -> None:
    from benchmarks.busbra import RECIPES, make_table
    from benchmarks.table import RESULTS
    from scanside.training.recipe import ClassifierRecipe, ViewsRecipe, load_recipe

    short = RECIPES / "short"
    single, both = (load_recipe(short / f"{name}.toml", ViewsRecipe) for name in ("view", "two_views"))
    assert (single.size, single.variant, both.size, both.variant) == (80, "transverse", 80, "fusion1")
    assert load_recipe(short / "cohort.toml", ClassifierRecipe).size == 80
    with pytest.raises(UsageError, match="tables of other recipes are kept apart; expected --out DIR"):
        make_table(tmp_path, tmp_path, tmp_path, range(1, 2), RESULTS, recipes=short)

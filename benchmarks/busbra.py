"""Benign or malignant on BUS-BRA's five official folds, by case: one view, and `fusion1` of two views.

The single-view ResNets start from ImageNet ResNet50 weights (a ResNet101 in the layers that both have), the other
backbones from random ones; the column `start` counts the random convolutions (those of a ResNet101's further blocks
count, though such a block starts as the identity). `fusion1` starts from the single view.
Every finished fold leaves its predictions at once; a killed run continues where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.done import Rows
from benchmarks.record import conditions, source_tree, write_json
from benchmarks.table import RESULTS, Table, seed_range
from scanside.errors import UsageError
from scanside.evaluation.roc import auc
from scanside.training.recipe import ViewsRecipe, load_recipe

RECIPES = Path(__file__).parent / "recipes"
STARTED = ("resnet50", "resnet101")
"""Backbones that start from ImageNet weights."""


def make_table(
    busbra: Path,
    imagenet: Path | None,
    work: Path,
    folds: Sequence[int],
    out: Path,
    *,
    backbone: str = "resnet50",
    recipes: Path = RECIPES,
) -> None:
    """Write busbra-folds-<backbone>.csv, its record, and busbra-<recipe>-<backbone>-fold<n>.csv a fold into `out`.

    `recipes` holds `view.toml` and `two_views.toml`.

    Raises
    ------
    UsageError
        Other recipes than the committed tables' would be mixed with these, or ImageNet weights are missing.
    """
    if recipes.resolve() != RECIPES and out.resolve() == RESULTS:
        raise UsageError("tables of other recipes are kept apart", expected="--out DIR", found=out)
    from scanside.models.backbones import known_backbone
    from scanside.training.start import training_record
    from scanside.training.views import ViewedLesion, predict_views, split_views, train_views, write_predictions

    known_backbone(backbone)
    start = imagenet if backbone in STARTED else None
    if backbone in STARTED and imagenet is None:
        raise UsageError(f"a {backbone} starts from ImageNet weights here", expected="--imagenet DIR")
    names = ("view", "two_views")
    chosen = {name: load_recipe(recipes / f"{name}.toml", ViewsRecipe, backbone=backbone) for name in names}
    view, two_views = chosen.values()
    made_with = {
        "folds": list(folds),
        "recipes": {name: asdict(recipe) for name, recipe in chosen.items()},
        "tree": source_tree(),
    }
    table = out / f"busbra-folds-{backbone}.csv"
    kept = Rows(table, ("fold", "recipe"), made_with)
    for fold in folds:
        if all((fold, name) in kept for name in chosen):
            continue
        split = split_views(busbra, test_fold=fold, validation_images=view.validation_images)
        pairs = split.two_views()

        def finish(name: str, weights: Path, lesions: Sequence[ViewedLesion]) -> None:
            probabilities = predict_views(weights, chosen[name], lesions)
            predictions = out / f"busbra-{name}-{backbone}-fold{fold}.csv"  # noqa: B023
            write_predictions(predictions, fold, lesions, probabilities)  # noqa: B023
            shutil.copy(weights.with_suffix(".log.jsonl"), predictions.with_suffix(".log.jsonl"))
            means = [float(p.mean()) for p in probabilities]
            malignant = [int(lesion.malignant) for lesion in lesions]
            row = {"fold": fold, "recipe": name, "cases": len(lesions), "malignant": sum(malignant)}  # noqa: B023
            kept.add(
                {**row, "auc": round(auc(malignant, means), 4), "start": start_of(training_record(weights)["data"])}
            )
            print(kept.rows[-1], flush=True)

        folder = work / f"{backbone}-fold{fold}"
        single = train_views(replace(view, seed=fold), split, folder, name="view", imagenet=start)
        if (fold, "view") not in kept:
            finish("view", single, split.test)
        both = train_views(replace(two_views, seed=fold), split, folder, name="two_views", single=single)
        finish("two_views", both, pairs.test)
    write_json(table.with_suffix(".json"), {**conditions(), **made_with, "seed": "a fold's number"})
    kept.finish()


def start_of(data: Mapping[str, Any]) -> str:
    """How a network started, by its training's record: `fresh` names each random convolution and its norm."""
    from scanside.training.start import IMAGENET

    if data["start"] != IMAGENET:
        return str(data["start"])
    return f"ImageNet ResNet50, {len(data['fresh']) // 2} convolutions random"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--busbra", type=Path, required=True, help="folder of BUS-BRA")
    parser.add_argument("--backbone", default="resnet50", help="resnet50, resnet101, densenet161 or vgg19")
    parser.add_argument("--imagenet", type=Path, help="folder of ResNet50 weights (Keras layout), for a ResNet")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights and checkpoints")
    recipes = "folder of view.toml and two_views.toml"
    parser.add_argument("--recipes", type=Path, default=RECIPES, help=recipes)
    parser.add_argument("--folds", type=seed_range, default=range(1, 6), help="FIRST:END")


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly forty minutes a fold."""
    return len(given["folds"]) * 40


TABLE = Table(
    "busbra",
    "classification of BUS-BRA's lesions over its five folds",
    make_table,
    minutes,
    arguments,
    needs="BUS-BRA and ImageNet weights",
    takes_pack=False,
)

"""Benign or malignant on BUS-BRA's five official folds, by case: one view, and `fusion1` of two views.

Every finished fold leaves its predictions at once; a killed run continues where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.record import conditions, write_json
from benchmarks.table import Table, seed_range
from scanside.training.recipe import ViewsRecipe, load_recipe

STRIDE_AT = "1x1"
RECIPES = Path(__file__).parent / "recipes"


def make_table(busbra: Path, imagenet: Path, work: Path, folds: Sequence[int], out: Path) -> None:
    """Write busbra-{view,two_views}-<backbone>-fold<n>.csv and their records into `out`."""
    from scanside.training.views import ViewedLesion, predict_views, split_views, train_views, write_predictions

    view, two_views = (load_recipe(RECIPES / f"{name}.toml", ViewsRecipe) for name in ("view", "two_views"))
    for fold in folds:
        tables = {r: out / f"busbra-{r}-{view.backbone}-fold{fold}.csv" for r in ("view", "two_views")}
        if all(table.is_file() for table in tables.values()):
            continue
        split = split_views(busbra, test_fold=fold, validation_images=view.validation_images)
        pairs = split.two_views()

        def finish(name: str, recipe: ViewsRecipe, weights: Path, lesions: Sequence[ViewedLesion]) -> None:
            write_predictions(
                tables[name],  # noqa: B023
                fold,  # noqa: B023
                lesions,
                predict_views(weights, recipe, lesions, stride_at=STRIDE_AT),
            )
            shutil.copy(weights.with_suffix(".log.jsonl"), tables[name].with_suffix(".log.jsonl"))  # noqa: B023
            write_json(tables[name].with_suffix(".json"), {**conditions(), "recipe": name, "fold": fold})  # noqa: B023

        folder = work / f"fold{fold}"
        single = train_views(replace(view, seed=fold), split, folder, name="view", imagenet=imagenet)
        finish("view", view, single, split.test)
        both = train_views(replace(two_views, seed=fold), split, folder, name="two_views", single=single)
        finish("two_views", two_views, both, pairs.test)
        print(f"fold {fold} done", flush=True)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--busbra", type=Path, required=True, help="folder of BUS-BRA")
    parser.add_argument("--imagenet", type=Path, required=True, help="folder of ResNet50 weights in the Keras layout")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights and checkpoints")
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

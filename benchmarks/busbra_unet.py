"""The UNet on BUS-BRA's five official folds: trained on four, its Dice measured on the fifth.

It starts from a trained segmenter, which is refused if it saw a case that validates or tests in the fold. Dice is given
twice: as deployed, and of the mean of the probabilities of an image and of its mirror image. Every finished fold leaves
its images' Dice at once; a killed run continues where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.done import Rows
from benchmarks.record import conditions, source_tree, write_json
from benchmarks.table import Table, seed_range
from scanside.training.recipe import SegmenterRecipe, load_recipe

RECIPE = Path(__file__).parent / "recipes" / "unet.toml"
MEANS = ("mean", "mean_by_case", "mean_two_looks")
REACHED = (*MEANS, "median", "median_by_case", "mean_benign", "mean_malignant", "missed")


def make_table(busbra: Path, work: Path, folds: Sequence[int], start: Path, recipe: str | Path, out: Path) -> None:
    """Write busbra-unet-folds.csv and its record, and busbra-unet-fold<n>.csv, .json and .log.jsonl, into `out`."""
    from scanside.training.datasets.open import open_busbra
    from scanside.training.evaluate_busbra import evaluate_busbra
    from scanside.training.process import denormals_flushed
    from scanside.training.run import train_segmenter
    from scanside.training.start import read_start

    chosen = load_recipe(recipe, SegmenterRecipe)
    began = read_start(start, "segmenter", {})
    start_of = {
        "sha256": began.sha256,
        "recipe": began.record["recipe"],
        "trained_on": {name: len(patients) for name, patients in began.seen.items()},
    }
    made_with = {"folds": list(folds), "recipe": asdict(chosen), "start": start_of, "tree": source_tree()}
    table = out / "busbra-unet-folds.csv"
    kept = Rows(table, ("fold",), made_with)
    for fold in folds:
        if (fold,) in kept:
            continue
        folder = work / f"unet-fold{fold}"
        data = open_busbra(busbra, test_fold=fold, validation_images=chosen.validation_images)
        with denormals_flushed():
            weights = train_segmenter(replace(chosen, seed=fold), [data], folder, start=start)
            summary = asdict(evaluate_busbra(weights, busbra, folder, fold=fold, longer_side=chosen.busbra_longer_side))
        dice = folder / f"busbra-fold{fold}-dice.csv"
        for source, ending in (
            (dice, ".csv"),
            (weights.with_suffix(".json"), ".json"),
            (weights.with_suffix(".log.jsonl"), ".log.jsonl"),
        ):
            shutil.copyfile(source, out / f"busbra-unet-fold{fold}{ending}")
        kept.add({name: summary[name] for name in ("fold", "images", "cases", *REACHED)})
        print(kept.rows[-1], flush=True)
    over_folds = {name: round(fmean(row[name] for row in kept.rows), 4) for name in MEANS}
    record = {**conditions(), **made_with, "seed": "a fold's number", "over_folds": over_folds}
    write_json(table.with_suffix(".json"), record)
    kept.finish()


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--busbra", type=Path, required=True, help="folder of BUS-BRA")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights and checkpoints")
    parser.add_argument("--folds", type=seed_range, default=range(1, 6), help="FIRST:END")
    parser.add_argument("--start", type=Path, required=True, help="trained segmenter to start from, with its record")
    parser.add_argument("--recipe", default=RECIPE, help="a recipe of the package, or the path of a .toml file")


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly twenty minutes a fold, in FP32 on two cores with AVX2."""
    return len(given["folds"]) * 20


TABLE = Table(
    "busbra-unet",
    "Dice of the UNet over BUS-BRA's five folds",
    make_table,
    minutes,
    arguments,
    needs="BUS-BRA and a trained segmenter",
    takes_pack=False,
)

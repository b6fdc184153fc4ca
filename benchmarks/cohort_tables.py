"""Tables 2 and 3 of the paper on the phantom lesion cohort: every backbone, every plane and fusion.

Each model is trained by one recipe on hospital A's training part, and judged on what it never saw: A's validation and
test parts and the hospitals B and C (and the parity part, when it is there). A model's predictions are written as soon
as it is finished, and the tables made anew as `scanside evaluate` makes them; run again, finished models are left alone
and a killed one goes on from its checkpoint. `late`, the mean of the three planes' probabilities, needs no training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.busbra import STARTED
from benchmarks.record import conditions, write_json
from benchmarks.table import Table
from scanside.errors import UsageError
from scanside.evaluation.errors import CohortError
from scanside.evaluation.evaluate import evaluate_cohorts, tables
from scanside.evaluation.predictions import LABELS, Classifier, Predictions, predictions_from_arrays
from scanside.evaluation.rows import read_rows
from scanside.exam.planes import Plane
from scanside.exam.write import atomic_file

TABLE_2 = tuple((backbone, "fusion2") for backbone in ("vgg19", "densenet161", "resnet101", "resnet50"))
TABLE_3 = tuple(("resnet50", variant) for variant in (*map(str, Plane), "fusion1", "fusion2"))
MODELS = tuple(dict.fromkeys((*TABLE_3, *TABLE_2)))
"""(backbone, variant) of both tables, each once, the cheap ones first."""
PARTS = ("train", "validation", "test", "external-b", "external-c")
JUDGED = {part: place for place, part in enumerate(("test", "external-b", "external-c", "parity", "validation"))}
"""The parts' places in the tables: the first is the one that others are compared with."""
COLUMNS = ("case", "label", "probability", "patient", "cohort", "size_mm")
SINGLE = tuple(Classifier("resnet50", str(plane)) for plane in Plane)
LATE, INDEX = Classifier("resnet50", "late"), Classifier("resnet50", "fusion2")
RESULT = "cohort"


def model_from(text: str) -> tuple[str, str]:
    """`resnet50:fusion2` as (backbone, variant)."""
    backbone, colon, variant = text.partition(":")
    if not (backbone and colon and variant):
        raise UsageError("a model is BACKBONE:VARIANT", expected="for example resnet50:fusion2", found=text)
    return backbone, variant


def make_table(
    cohort: Path,
    runs: Path,
    out: Path,
    *,
    models: Sequence[str] | None = None,
    recipe: str = "tables",
    fusion_recipe: str | None = None,
    parts: Sequence[str] | None = None,
    difficulty: float = 0.0,
    imagenet: Path | None = None,
    workers: int = 2,
    **overrides: Any,
) -> None:
    """Make what is missing of the cohort, train what is not trained, and write predictions and the table into `out`.

    Parameters
    ----------
    cohort, runs : path
        Folders of the lesions and of the trainings; both are continued.
    models, parts : sequences, optional
        Which models ("resnet50:fusion2") and parts of the cohort; both tables, and all parts but that for parity, when
        not given.
    fusion_recipe : str, optional
        The recipe of the models of several planes, whose branches then start from the same backbone's single-plane
        models in `runs`; without it they train like those, by `recipe`.
    imagenet : path, optional
        ResNet50 weights in the Keras layout: the start of the ResNets (of a ResNet101 in the layers that both have).
        Others start random.
    overrides
        Keys of the recipe: `seed`, `steps`, `minutes`.

    Writes ``cohort-<backbone>-<variant>.csv`` (case, label, probability, patient, cohort, size_mm), its training record
    ``.json`` and ``.log.jsonl``, and of all models finished so far what `write_tables` writes.
    """
    from scanside.models.fusion import PLANES_OF
    from scanside.training.datasets import open_data
    from scanside.training.lesion_cohort import build_lesion_cohort
    from scanside.training.process import denormals_flushed
    from scanside.training.recipe import ClassifierRecipe, load_recipe
    from scanside.training.run import train_classifier

    def lesions(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            print(f"lesions {done}/{total}", file=sys.stderr, flush=True)

    def steps(progress: Any) -> None:
        if progress.done % 10 == 0 or progress.done == progress.total:
            print(f"{progress.stage} {progress.done}/{progress.total}", file=sys.stderr, flush=True)

    chosen_models = [model_from(text) for text in models] if models else MODELS
    if fusion_recipe is not None:
        require_planes(chosen_models, runs)
    build_lesion_cohort(cohort, parts or PARTS, difficulty=difficulty, workers=workers, progress=lesions)
    data = open_data(cohort, runs)
    out.mkdir(parents=True, exist_ok=True)
    for backbone, variant in chosen_models:
        run = runs / f"{backbone}-{variant}"
        start = imagenet if backbone in STARTED else None
        planes: list[Path] = []
        name = recipe
        if fusion_recipe is not None and len(PLANES_OF[variant]) > 1:
            planes = [plane_weights(runs, backbone, plane) for plane in PLANES_OF[variant]]
            name, start = fusion_recipe, None
        chosen = load_recipe(name, ClassifierRecipe, backbone=backbone, variant=variant, **overrides)
        print(f"{backbone} {variant}", file=sys.stderr, flush=True)
        with denormals_flushed():
            weights = train_classifier(chosen, [data], run, imagenet=start, start=planes, progress=steps)
        target = out / f"{RESULT}-{backbone}-{variant}.csv"
        shutil.copyfile(run / "classifier.predictions.csv", target)
        shutil.copyfile(run / "classifier.log.jsonl", target.with_suffix(".log.jsonl"))
        record = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
        write_json(target.with_suffix(".json"), conditions() | {"difficulty": difficulty, **record})
        write_tables(out)


def require_planes(models: Sequence[tuple[str, str]], runs: Path) -> None:
    """Raise unless every plane that a fusion starts from is trained before it, now or earlier.

    Raises
    ------
    UsageError
        Some are not.
    """
    from scanside.models.fusion import PLANES_OF

    ready: set[tuple[str, str]] = set()
    missing = []
    for backbone, variant in models:
        needed = [(backbone, plane) for plane in PLANES_OF[variant]] if len(PLANES_OF[variant]) > 1 else []
        missing += [
            f"{backbone}:{plane}"
            for backbone, plane in needed
            if (backbone, plane) not in ready and not plane_weights(runs, backbone, plane).is_file()
        ]
        ready.add((backbone, variant))
    if missing:
        found = ", ".join(dict.fromkeys(missing))
        raise UsageError(
            "planes that a fusion starts from are not trained", found=found, remedy="name them with --model"
        )


def plane_weights(runs: Path, backbone: str, plane: str) -> Path:
    """Where the single-plane network's weights lie."""
    return runs / f"{backbone}-{plane}" / "classifier.safetensors"


def write_tables(out: Path) -> None:
    """Write ``cohort-table2*`` and ``cohort-table3*``, as CSV and Markdown, of the predictions in `out`."""
    predictions = predictions_in(out)
    index = INDEX if INDEX in predictions.probability else next(iter(predictions.probability))
    for table in tables(evaluate_cohorts(predictions, index=index)):
        if table.name.startswith(("table2", "table3")):
            for ending, text in (("csv", table.csv()), ("md", table.markdown())):
                with atomic_file(out / f"{RESULT}-{table.name}.{ending}") as file:
                    file.write(text.encode())


def predictions_in(out: Path) -> Predictions:
    """The predictions of every model in `out`, in the order of the tables, and of `late` once its planes are there.

    Raises
    ------
    CohortError
        There are none, or two models were not judged on the same cases.
    """
    files = {model: out / f"{RESULT}-{model[0]}-{model[1]}.csv" for model in MODELS}
    rows = {
        Classifier(*model): sorted(read_rows(file, COLUMNS, ()).rows, key=lambda row: row.choice("cohort", JUDGED))
        for model, file in files.items()
        if file.is_file()
    }
    if not rows:
        raise CohortError("no predictions of the cohort here", where=out, remedy="python -m benchmarks cohort-tables")
    cases = next(iter(rows.values()))
    for classifier, own in rows.items():
        if [row.text("case") for row in own] != [row.text("case") for row in cases]:
            raise CohortError(
                "the models were not judged on the same cases",
                where=files[classifier.model, classifier.planes],
                remedy="make all with the same cohort and --part",
            )
    probability = {who: np.array([row.needed_number("probability", 0, 1) for row in own]) for who, own in rows.items()}
    if all(plane in probability for plane in SINGLE):
        probability[LATE] = np.mean([probability[plane] for plane in SINGLE], axis=0)
    order = dict.fromkeys((*SINGLE, LATE, *probability))
    return predictions_from_arrays(
        [row.choice("label", LABELS) for row in cases],
        {who: probability[who] for who in order if who in probability},
        case=[row.text("case") for row in cases],
        patient=[row.text("patient") for row in cases],
        cohort=[row.text("cohort") for row in cases],
        size_mm=[row.needed_number("size_mm", 0, 1000) for row in cases],
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--cohort", type=Path, required=True, help="folder of the lesions; made, or continued")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings; continued")
    parser.add_argument("--imagenet", type=Path, help="ResNet50 weights (Keras layout) for the ResNets")
    models = "may be given several times; all of both tables if absent"
    parser.add_argument("--model", dest="models", action="append", metavar="BACKBONE:VARIANT", help=models)
    parser.add_argument("--part", dest="parts", action="append", help="parts of the cohort; all but parity if absent")
    parser.add_argument("--recipe", default="tables", help="a recipe of the package, or the path of a .toml file")
    starts = "recipe of the models of several planes, which start from the single-plane ones"
    parser.add_argument("--fusion-recipe", help=starts)
    parser.add_argument("--difficulty", type=float, default=0.0, help="how far the classes' looks overlap, 0 to 1")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float)


def minutes(given: Mapping[str, Any]) -> float:
    """Half an hour for the lesions and twenty minutes a model."""
    return 30 + 20 * len(given["models"] or [None] * 8)


TABLE = Table(
    "cohort-tables",
    "the paper's Tables 2 and 3 on phantom lesions",
    make_table,
    minutes,
    arguments,
    needs="folders for the cohort and the trainings",
    takes_pack=False,
)

"""From tables of predictions and readings to the paper's tables and figures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scanside
from scanside.errors import UsageError
from scanside.evaluation.detection import Detections, read_detections
from scanside.evaluation.errors import require_eval_extra
from scanside.evaluation.predictions import Classifier, Predictions, read_predictions
from scanside.evaluation.readings import Reading, read_readings
from scanside.evaluation.result import Evaluation
from scanside.evaluation.table import Table, csv_text
from scanside.report.folder import new_folder, output_errors, refuse_foreign, write_file

SCHEMA = "scanside-evaluation/1"
ROUNDS = 2000
SEED = 2025


def evaluate_cohorts(
    predictions: Predictions,
    readings: Sequence[Reading] = (),
    detections: Detections | None = None,
    *,
    index: Classifier | None = None,
    rounds: int = ROUNDS,
    seed: int = SEED,
) -> Evaluation:
    """Judge every classifier in every cohort.

    Parameters
    ----------
    predictions : Predictions
        Cases and probabilities.
    readings : sequence of Reading
        Of the same cases.
    detections : Detections, optional
        Of whole volumes.
    index : Classifier, optional
        The one that others and readers are compared with; the first by default.
    rounds, seed : int
        Of the bootstrap.

    Raises
    ------
    MissingExtraError
        SciPy or Matplotlib is absent.
    UsageError
        The index classifier is not among the predictions, or `rounds` is below 100.
    CohortError
        A cohort cannot be judged.
    """
    require_eval_extra()
    from scanside.evaluation.accuracy import accuracies

    chosen = next(iter(predictions.probability)) if index is None else index
    if chosen not in predictions.probability:
        names = ", ".join(str(name) for name in predictions.probability)
        raise UsageError("the index classifier is not among the predictions", expected=names, found=chosen)
    if rounds < 100:
        raise UsageError("too few bootstrap rounds for an interval", expected="at least 100", found=rounds)
    judged = [a for name in predictions.cohorts for a in accuracies(predictions.of_cohort(name), rounds, seed)]
    return Evaluation(predictions, chosen, tuple(judged), tuple(readings), detections, rounds, seed)


def tables(evaluation: Evaluation) -> list[Table]:
    """Every table that the data allow, in the order of the summary."""
    from scanside.evaluation import tables_agreement, tables_cohort, tables_lesions, tables_models, tables_readers

    made: list[Table | None] = [
        tables_cohort.table1(evaluation.predictions),
        tables_models.table2(evaluation),
        tables_models.table2_differences(evaluation),
        tables_models.table3(evaluation),
        tables_models.table3_differences(evaluation),
        tables_models.table3_cohorts(evaluation),
    ]
    if evaluation.readings:
        made += [
            tables_readers.table4(evaluation),
            tables_readers.table4_differences(evaluation),
            tables_readers.table5(evaluation),
            tables_agreement.table6(evaluation),
            tables_agreement.table6_fleiss(evaluation),
        ]
    made += [
        tables_lesions.table_sizes(evaluation),
        tables_lesions.table_calibration(evaluation),
        tables_lesions.table_detection(evaluation),
    ]
    return [table for table in made if table is not None]


def evaluate_to_folder(
    predictions: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    readers: str | os.PathLike[str] | None = None,
    detections: str | os.PathLike[str] | None = None,
    model: str | None = None,
    planes: str | None = None,
    rounds: int = ROUNDS,
    seed: int = SEED,
) -> Evaluation:
    """Read CSV files, judge, and write `summary.md`, `tables/`, `figures/` and `evaluation.json` into `out`.

    Parameters
    ----------
    predictions : path
        PREDICTIONS.csv, see `read_predictions`.
    out : path
        A new or empty folder, or an earlier evaluation, which is replaced.
    readers : path, optional
        READERS.csv, see `read_readings`.
    detections : path, optional
        DETECTIONS.csv, see `read_detections`.
    model, planes : str, optional
        The index classifier; the first of the file that fits by default.
    rounds, seed : int
        Of the bootstrap.

    Raises
    ------
    MissingExtraError
        SciPy or Matplotlib is absent.
    CohortError
        A table cannot be used; the message names the row.
    UsageError
        An option makes no sense.
    OutputError
        `out` holds something else, or cannot be written. Nothing is half-written.
    """
    require_eval_extra()
    refuse_foreign(out)
    cases = read_predictions(predictions)
    evaluation = evaluate_cohorts(
        cases,
        read_readings(readers, cases) if readers is not None else (),
        read_detections(detections) if detections is not None else None,
        index=_index(cases, model, planes),
        rounds=rounds,
        seed=seed,
    )
    named = {"predictions": predictions, "readers": readers, "detections": detections}
    inputs = {name: Path(path) for name, path in named.items() if path is not None}
    write_evaluation(evaluation, out, inputs)
    return evaluation


def write_evaluation(evaluation: Evaluation, out: str | os.PathLike[str], inputs: dict[str, Path]) -> None:
    """Write every table and figure; `inputs` are the files it came from, kept by name and SHA-256.

    Raises
    ------
    OutputError
        `out` holds something else, or cannot be written. Nothing is half-written.
    """
    from scanside.evaluation.drawing import image
    from scanside.evaluation.figures import drawings
    from scanside.evaluation.summary import summary

    made, drawn = tables(evaluation), drawings(evaluation)
    files: dict[str, bytes] = {}
    for table in made:
        files[f"tables/{table.name}.csv"] = table.csv().encode()
        files[f"tables/{table.name}.md"] = table.markdown().encode()
    for drawing in drawn:
        for kind in ("png", "svg"):
            files[f"figures/{drawing.name}.{kind}"] = image(drawing, kind)
        for name, records in drawing.data.items():
            files[f"figures/{name}.csv"] = csv_text(records).encode()
    files["summary.md"] = summary(evaluation, made, drawn).encode()
    files["evaluation.json"] = (json.dumps(_record(evaluation, inputs), indent=2) + "\n").encode()
    with new_folder(out) as folder, output_errors(Path(out)):
        for name in ("tables", "figures"):
            (folder / name).mkdir()
        for name, content in files.items():
            write_file(folder / name, content)


def _index(predictions: Predictions, model: str | None, planes: str | None) -> Classifier | None:
    """The first classifier of that model and those planes."""
    fitting = [c for c in predictions.probability if model in (None, c.model) and planes in (None, c.planes)]
    if not fitting:
        wanted = " ".join(name for name in (model, planes) if name)
        names = ", ".join(str(name) for name in predictions.probability)
        raise UsageError("no predictions of this classifier", expected=names, found=wanted)
    return fitting[0]


def _record(evaluation: Evaluation, inputs: dict[str, Path]) -> dict[str, Any]:
    """How the evaluation was made."""
    from importlib.metadata import version

    return {
        "schema": SCHEMA,
        "software": {"name": "scanside", "version": scanside.__version__},
        "libraries": {name: version(name) for name in ("numpy", "scipy", "matplotlib")},
        "inputs": {
            name: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for name, path in inputs.items()
        },
        "index": str(evaluation.index),
        "bootstrap": {"rounds": evaluation.rounds, "seed": evaluation.seed},
        "cohorts": {
            name: {"cases": len(cases), "patients": cases.n_patients, "malignant": int(cases.malignant.sum())}
            for name in evaluation.predictions.cohorts
            for cases in [evaluation.predictions.of_cohort(name)]
        },
    }

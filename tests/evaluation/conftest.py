"""A small invented cohort: two hospitals, four models, six readers, forty volumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.invented import write_invented
from scanside.evaluation.detection import read_detections
from scanside.evaluation.evaluate import evaluate_cohorts
from scanside.evaluation.predictions import read_predictions
from scanside.evaluation.readings import read_readings
from scanside.evaluation.result import Evaluation


@pytest.fixture(scope="session")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with predictions.csv, readers.csv and detections.csv."""
    folder = tmp_path_factory.mktemp("invented")
    write_invented(folder, {"internal": (20, 24), "external": (18, 15)}, seed=5)
    return folder


@pytest.fixture(scope="session")
def evaluation(invented: Path) -> Evaluation:
    """That cohort, judged with few bootstrap rounds."""
    cases = read_predictions(invented / "predictions.csv")
    return evaluate_cohorts(
        cases,
        read_readings(invented / "readers.csv", cases),
        read_detections(invented / "detections.csv"),
        rounds=200,
        seed=1,
    )

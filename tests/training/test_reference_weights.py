"""The PyTorch reference weights of the repository: they load, and answer as is committed."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from scanside.export.check import reference_answers
from scanside.models.unet import build_segmenter
from scanside.pack import load_pack
from scanside.pack.golden import golden_cases
from scanside.pack_from_training import find_trained
from scanside.training.checkpoint import load_weights
from scanside.training.classify import frame_probabilities
from scanside.training.lesion_cohort import LESION_SETTINGS, PARTS, lesion_jobs

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights"
DIFFICULTY = 0.15
"""That of the committed tables."""


def test_the_reference_segmenter_reproduces_the_golden_cases() -> None:
    model = build_segmenter()
    load_weights(model, WEIGHTS / "segmenter.safetensors")
    cases = [case for case in golden_cases(load_pack()) if case.network == "segmenter"]
    assert len(cases) == 3  # one a plane
    for case in cases:
        (answer,) = reference_answers(model.eval(), [case.inputs])
        (expected,) = case.outputs.values()
        error = np.abs(answer.astype(int) - expected)
        assert expected.max() > 200  # the case shows a lesion
        assert error.max() <= 3  # of 255: the file holds FP16, the golden answers come from FP32
        assert error.mean() < 0.05


@pytest.mark.parametrize(("part", "seed"), [("test", 21090), ("external-b", 22069), ("external-c", 23013)])
def test_the_reference_classifier_gives_the_committed_probability_of_a_lesion_made_anew(part: str, seed: int) -> None:
    """From a seed to a probability: the phantom, its crops and the network."""
    (trained,) = find_trained(WEIGHTS / "classifier.safetensors")
    assert trained.recipe.variant == "fusion2"
    (job,) = (job for job in lesion_jobs(PARTS[part], DIFFICULTY) if job.number == seed)
    triplets = job.arrays(LESION_SETTINGS)["triplets"]
    with (ROOT / "benchmarks/results/reference-classifier.csv").open(encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if row["cohort"] == part and row["case"].endswith(f" {seed}"))
    assert int(row["label"]) == job.malignant
    with torch.inference_mode():
        probability = frame_probabilities(trained.model(), triplets[0, 0], trained.recipe).mean()
    assert abs(probability - float(row["probability"])) < 0.005  # the file holds FP16

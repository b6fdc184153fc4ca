"""The PyTorch reference weights of the repository: they load, and answer as is committed."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scanside.export.check import reference_answers
from scanside.models.unet import build_segmenter
from scanside.models.weights import weights_sha256
from scanside.pack import load_pack
from scanside.pack.golden import golden_cases
from scanside.pack_from_training import Trained, find_trained
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


def test_the_reference_classifier_reproduces_the_golden_cases() -> None:
    pack = load_pack()
    planes, output = pack.manifest.classifier.inputs, pack.manifest.classifier.output
    model = classifier().model()
    (case,) = (case for case in golden_cases(pack) if case.network == "classifier")
    (answer,) = reference_answers(model, [{plane: case.inputs[tensor] for plane, tensor in planes.items()}])
    expected = case.outputs[output]
    assert len(expected) >= 9
    assert expected.min() < 0.2 < 0.8 < expected.max()  # both classes, and called so
    assert np.abs(answer - expected).max() < 1e-3  # the golden answers are of the very weights in the file


def test_the_shipped_networks_are_those_whose_weights_lie_here() -> None:
    provenance = load_pack().manifest.provenance
    for network in ("segmenter", "classifier"):
        assert provenance[network] == json.loads((WEIGHTS / f"{network}.json").read_text(encoding="utf-8"))
    assert provenance["files"]["classifier"]["sha256"] == weights_sha256(WEIGHTS / "classifier.safetensors")


def classifier() -> Trained:
    (trained,) = find_trained(WEIGHTS / "classifier.safetensors")
    return trained


@pytest.mark.parametrize(("part", "seed"), [("test", 21090), ("external-b", 22069), ("external-c", 23013)])
def test_the_reference_classifier_gives_the_committed_probability_of_a_lesion_made_anew(part: str, seed: int) -> None:
    """From a seed to a probability: the phantom, its crops and the network."""
    trained = classifier()
    assert trained.recipe.variant == "fusion2"
    (job,) = (job for job in lesion_jobs(PARTS[part], DIFFICULTY) if job.number == seed)
    triplets = job.arrays(LESION_SETTINGS)["triplets"]
    with (ROOT / "benchmarks/results/reference-classifier.csv").open(encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if row["cohort"] == part and row["case"].endswith(f" {seed}"))
    assert int(row["label"]) == job.malignant
    with torch.inference_mode():
        probability = frame_probabilities(trained.model(), triplets[0, 0], trained.recipe).mean()
    assert abs(probability - float(row["probability"])) < 0.005  # the file holds FP16

"""The PyTorch reference weights of the shipped segmenter give its golden answers."""

from pathlib import Path

import numpy as np

from scanside.export.check import reference_answers
from scanside.models.unet import build_segmenter
from scanside.pack import load_pack
from scanside.pack.golden import golden_cases
from scanside.training.checkpoint import load_weights

WEIGHTS = Path(__file__).parents[2] / "weights" / "segmenter.safetensors"


def test_the_reference_segmenter_reproduces_the_golden_cases() -> None:
    model = build_segmenter()
    load_weights(model, WEIGHTS)
    cases = [case for case in golden_cases(load_pack()) if case.network == "segmenter"]
    assert len(cases) == 3  # one a plane
    for case in cases:
        (answer,) = reference_answers(model.eval(), [case.inputs])
        (expected,) = case.outputs.values()
        error = np.abs(answer.astype(int) - expected)
        assert expected.max() > 200  # the case shows a lesion
        assert error.max() <= 3  # of 255: the file holds FP16, the golden answers come from FP32
        assert error.mean() < 0.05

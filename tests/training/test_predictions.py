"""Predictions: the mean of a lesion's frames around its true box, named by case and lesion."""

from __future__ import annotations

import numpy as np
import torch

from scanside.training.cohort_data import PhantomData
from scanside.training.cutting import Origin
from scanside.training.predictions import COLUMNS, lesion_predictions, write_predictions
from scanside.training.recipe import ClassifierRecipe

RECIPE = ClassifierRecipe(steps=1, size=16)


class Brightness(torch.nn.Module):
    """P(malignant) is the brightness of the transverse crop."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def normalise(self, x):
        return x.float() / 255

    def forward(self, t, s, c):
        p = t.mean((1, 2, 3)).clamp(1e-6, 1 - 1e-6) * self.weight
        return torch.stack([torch.log(1 - p), torch.log(p)], 1)


def lesions(*brightness):
    """A volume whose lesions have frames of these grey levels; the jittered boxes are all black."""
    triplets = np.zeros((len(brightness), 2, 2, 3, 24, 24), np.uint8)
    for number, frames in enumerate(brightness):
        for frame, grey in enumerate(frames):
            triplets[number, 0, frame] = grey
    return PhantomData(
        seed=1,
        pitch_mm=0.66,
        planes={},
        triplets=triplets,
        malignant=np.array([n % 2 == 1 for n in range(len(brightness))]),
        boxes_mm=np.zeros((len(brightness), 2, 3), np.float32),
        diameters_mm=np.full((len(brightness), 3), 12.34, np.float32),
        origin=Origin("stub", "7", "P3"),
    )


def test_rows_are_means_over_frames(tmp_path):
    rows = lesion_predictions(Brightness(), [lesions((51, 102)), lesions((0, 0), (255, 51))], RECIPE, "test")
    assert [r["case"] for r in rows] == ["7", "7 lesion 1", "7 lesion 2"]
    assert [r["label"] for r in rows] == [0, 0, 1]
    np.testing.assert_allclose([float(r["probability"]) for r in rows], [0.3, 0.0, 0.6], atol=1e-4)
    assert {(r["patient"], r["cohort"], r["size_mm"]) for r in rows} == {("P3", "test", "12.3")}
    write_predictions(tmp_path / "p.csv", rows)
    text = (tmp_path / "p.csv").read_text().splitlines()
    assert text[0] == ",".join(COLUMNS) == "case,label,probability,patient,cohort,size_mm"
    assert text[1] == "7,0,0.300000,P3,test,12.3"
    assert len(text) == 4

"""What a trained classifier says of every lesion of a part, as the CSV that statistics are computed from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scanside.exam.write import atomic_file
from scanside.training.classify import frame_probabilities
from scanside.training.cohort_data import PhantomData
from scanside.training.recipe import ClassifierRecipe

COLUMNS = ("case", "label", "probability", "patient", "cohort", "size_mm")


def lesion_predictions(
    model: nn.Module, lesions: Iterable[PhantomData], recipe: ClassifierRecipe, cohort: str
) -> list[dict[str, Any]]:
    """A row a lesion: the mean probability of its frames around its true box (paper, Methods), label 1 is malignant.

    `size_mm` is the largest diameter, empty where a data set states no pixel spacing.
    """
    rows = []
    for data in lesions:
        for number, malignant in enumerate(data.malignant):
            with torch.inference_mode():
                probability = float(frame_probabilities(model, data.triplets[number, 0], recipe).mean())
            size = float(data.diameters_mm[number].max())
            rows.append(
                {
                    "case": data.origin.case if len(data.malignant) == 1 else f"{data.origin.case} lesion {number + 1}",
                    "label": int(malignant),
                    "probability": f"{probability:.6f}",
                    "patient": data.origin.patient,
                    "cohort": cohort,
                    "size_mm": "" if np.isnan(size) else f"{size:.1f}",
                }
            )
    return rows


def write_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())

"""An invented cohort of the paper's make-up: three hospitals, four models, five choices of planes, six radiologists.

No patient stands behind it: every number is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write_csv
from scanside.evaluation.readings import CATEGORIES

PAPER_SIZES = {"internal test": (54, 62), "external test 1": (53, 49), "external test 2": (57, 62)}
MODELS = {"ResNet50": 2.9, "VGG19": 2.5, "DenseNet161": 2.7, "ResNet101": 2.4}
PLANES = {"fusion2": 0.0, "fusion1": -0.3, "transverse": -0.5, "sagittal": -0.5, "coronal": -0.6}
READERS = {
    "R1": ("junior", 0.9, 41),
    "R2": ("junior", 1.2, 40),
    "R3": ("middle", 2.6, 36),
    "R4": ("middle", 3.1, 38),
    "R5": ("senior", 3.3, 33),
    "R6": ("senior", 3.4, 31),
}
_CUTS = (-2.2, -1.2, 0.0, 0.8, 1.6, 2.6)


@dataclass(frozen=True)
class Case:
    """One invented lesion. `hardness` shifts what everybody sees of it."""

    name: str
    patient: str
    cohort: str
    malignant: bool
    hardness: float
    facts: dict[str, Any]


def write_invented(folder: Path, sizes: dict[str, tuple[int, int]], seed: int) -> None:
    """Write predictions.csv, readers.csv and detections.csv into `folder`.

    Parameters
    ----------
    sizes : dict
        Cohort to its number of malignant and benign lesions.
    seed : int
        The same seed gives the same bytes.
    """
    rng = np.random.default_rng(seed)
    cases = list(_cases(rng, sizes))
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "predictions.csv", list(_predictions(rng, cases)))
    write_csv(folder / "readers.csv", list(_readings(rng, cases)))
    write_csv(folder / "detections.csv", list(_detections(rng)))


def _cases(rng: np.random.Generator, sizes: dict[str, tuple[int, int]]) -> Iterator[Case]:
    number = patient = 0
    for cohort, (n_malignant, n_benign) in sizes.items():
        for malignant in [True] * n_malignant + [False] * n_benign:
            number += 1
            patient += rng.random() > 0.01
            kinds = ("invasive ductal carcinoma", "ductal carcinoma in situ", "other malignant lesion")
            if not malignant:
                kinds = ("fibroadenoma", "adenosis", "other benign lesion")
            age = rng.normal(57 if malignant else 43, 12)
            size = rng.lognormal(math.log(25 if malignant else 17), 0.45)
            facts = {
                "size_mm": round(float(np.clip(size, 4, 130)), 1),
                "age": int(np.clip(age, 18, 95)),
                "histology": str(rng.choice(kinds, p=(0.75, 0.1, 0.15))),
            }
            yield Case(f"L{number:05d}", f"P{patient:05d}", cohort, malignant, float(rng.normal(0, 0.6)), facts)


def _predictions(rng: np.random.Generator, cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    first = cases[0].cohort
    for model, separation in MODELS.items():
        for planes, shift in PLANES.items():
            if model != "ResNet50" and planes != "fusion2":
                continue
            for case in cases:
                if case.cohort != first and (model, planes) != ("ResNet50", "fusion2"):
                    continue
                distance = separation + shift - (0 if case.cohort == first else 0.4)
                score = distance * (0.5 if case.malignant else -0.5) + case.hardness + rng.normal(0, 0.6)
                probability = 1 / (1 + math.exp(-2.6 * score))
                yield {
                    "case": case.name,
                    "patient": case.patient,
                    "cohort": case.cohort,
                    "label": "malignant" if case.malignant else "benign",
                    "model": model,
                    "planes": planes,
                    "probability": f"{probability:.4f}",
                    **case.facts,
                }


def _readings(rng: np.random.Generator, cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    for reader, (level, separation, seconds) in READERS.items():
        for planes, assisted in ((2, 0), (3, 0), (3, 1)):
            help_given = assisted * (3.4 - separation) * 0.5
            distance = separation + (0.2 if planes == 3 else 0.0) + help_given
            for case in cases:
                seen = distance * (0.5 if case.malignant else -0.5) + 0.6 * case.hardness + rng.normal(0, 0.7) + 0.3
                category = CATEGORIES[int(np.searchsorted(_CUTS, seen))]
                time = rng.normal(seconds * (0.42 if assisted else 1), 6 * (0.6 if assisted else 1))
                yield {
                    "case": case.name,
                    "reader": reader,
                    "level": level,
                    "planes": planes,
                    "assisted": assisted,
                    "birads": category.upper(),
                    "reading_time_s": f"{max(3.0, time):.1f}",
                }


def _detections(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for volume in range(1, 41):
        name = f"V{volume:02d}"
        lesions, false = rng.integers(0, 4), rng.poisson(1.2)
        for lesion in range(1, lesions + 1):
            size = float(np.clip(rng.lognormal(math.log(18), 0.5), 4, 90))
            found = rng.random() < 0.75 + 0.2 * (size > 15)
            score = f"{rng.beta(5, 2):.3f}" if found else ""
            yield {"volume": name, "lesion": lesion, "score": score, "size_mm": round(size, 1)}
        for _ in range(false):
            yield {"volume": name, "lesion": "", "score": f"{rng.beta(2, 4):.3f}", "size_mm": ""}
        if not lesions and not false:
            yield {"volume": name, "lesion": "", "score": "", "size_mm": ""}

"""The phantom lesion cohort: the paper's hospitals, parts and sizes (Liu et al. 2025, Table 1), synthetic.

A lesion is cut out of its own one-lesion exam without making the rest of it (`make_lesion`). Hospital A gives the
training, validation and test parts and a larger one for parity; B and C stand for the two external hospitals, whose
probes, gain, noise and depth differ. The counts, the classes' shares and the mean sizes are Table 1's; sizes are cut
to 4 to 60 mm, the phantom's limits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.errors import UsageError
from scanside.exam.phantom import Acquisition, Population, make_lesion, seeds
from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE
from scanside.training.cohort import Job, OnCase, build_files
from scanside.training.cutting import CohortSettings, Origin, crops_window, lesion_arrays, volume_arrays

LESION_COHORT = "phantom lesions"
LESION_SETTINGS = CohortSettings(boxes=2, frames=8, crop_size=160)
BILATERAL_PATIENTS = 5
"""Patients of hospital A with a lesion in each breast (paper, Results); here they are the first of the training."""


@dataclass(frozen=True)
class Hospital:
    """A scanner and how it is set: exams vary around `acquisition` (`Acquisition.drawn`), `depth_mm` deep."""

    name: str
    acquisition: Acquisition
    depth_mm: float


HOSPITAL_A = Hospital("A", Acquisition(), STANDARD_EXTENT_MM[1])
HOSPITAL_B = Hospital(
    "B",
    replace(Acquisition().at_frequency(1.2), gain_db=30.5, dynamic_range_db=66.0, noise_floor_db=-32.0),
    50.0,
)
HOSPITAL_C = Hospital(
    "C",
    replace(Acquisition().at_frequency(0.75), gain_db=36.5, dynamic_range_db=54.0, noise_floor_db=-26.0),
    70.0,
)


@dataclass(frozen=True)
class Part:
    """One part of the cohort: lesions of each class, and their sizes (mean and standard deviation in mm).

    With `sections` a file also holds sections through the lesion's surroundings and their masks, as those of whole
    volumes do: what a segmenter is judged on.
    """

    name: str
    hospital: Hospital
    first_seed: int
    malignant: int
    benign: int
    malignant_size_mm: tuple[float, float]
    benign_size_mm: tuple[float, float]
    sections: bool = False

    @property
    def seeds(self) -> range:
        """One seed a lesion."""
        return range(self.first_seed, self.first_seed + self.malignant + self.benign)

    def classes(self) -> NDArray[np.bool_]:
        """Whether each lesion is malignant, in the order of `seeds`: the exact counts, shuffled."""
        labels = np.arange(len(self.seeds)) < self.malignant
        return np.random.default_rng([self.first_seed, 70]).permutation(labels)

    def patients(self) -> list[str]:
        """Each lesion's patient, in the order of `seeds`."""
        twice = min(BILATERAL_PATIENTS, len(self.seeds) // 2) if self.name == "train" else 0
        numbers = [*np.repeat(np.arange(twice), 2), *range(twice, len(self.seeds) - twice)]
        return [f"{self.hospital.name} {self.name} {n:04d}" for n in numbers]


_A = seeds.LESIONS_A.start
PARTS = {
    part.name: part
    for part in (
        Part("train", HOSPITAL_A, _A, 386, 446, (33.5, 19.3), (18.8, 9.9)),
        Part("validation", HOSPITAL_A, _A + 832, 95, 109, (29.6, 14.1), (19.4, 12.2)),
        Part("test", HOSPITAL_A, _A + 1036, 54, 62, (29.2, 11.4), (18.5, 8.1)),
        Part("external-b", HOSPITAL_B, seeds.LESIONS_B.start, 53, 49, (21.8, 6.77), (20.5, 10.5)),
        Part("external-c", HOSPITAL_C, seeds.LESIONS_C.start, 57, 62, (22.3, 13.4), (19.7, 11.4)),
        Part("parity", HOSPITAL_A, seeds.LESIONS_PARITY.start, 279, 321, (29.2, 11.4), (18.5, 8.1), True),
    )
}


@dataclass(frozen=True)
class LesionJob:
    """Makes one lesion of a part."""

    number: int
    part: Part
    malignant: bool
    patient: str
    difficulty: float

    @property
    def made_with(self) -> dict[str, Any]:
        """The difficulty: another one is another cohort, and so is one with sections."""
        with_sections = {"sections": True} if self.part.sections else {}
        return {"difficulty": self.difficulty} | with_sections

    def arrays(self, settings: CohortSettings) -> dict[str, NDArray]:
        """Make the lesion and cut its triplets, and its sections where the part has them."""
        part, hospital = self.part, self.part.hospital
        population = Population(
            float(self.malignant), part.malignant_size_mm, part.benign_size_mm, difficulty=self.difficulty
        )
        volume = make_lesion(
            self.number,
            shape=STANDARD_SHAPE,
            extent_mm=(STANDARD_EXTENT_MM[0], hospital.depth_mm, STANDARD_EXTENT_MM[2]),
            acquisition=hospital.acquisition.drawn(np.random.default_rng([self.number, 73])),
            population=population,
            window_mm=partial(crops_window, number=self.number, settings=settings),
        )
        origin = Origin(LESION_COHORT, f"{hospital.name} {self.number}", self.patient, part.name)
        cut = volume_arrays if part.sections else lesion_arrays
        return cut(volume, self.number, settings, origin, **self.made_with)


def lesion_jobs(part: Part, difficulty: float = 0.0) -> list[LesionJob]:
    """What makes the lesions of a part."""
    return [
        LesionJob(seed, part, bool(malignant), patient, difficulty)
        for seed, malignant, patient in zip(part.seeds, part.classes(), part.patients(), strict=True)
    ]


def build_lesion_cohort(
    out: str | Path,
    parts: Iterable[str] | None = None,
    *,
    difficulty: float = 0.0,
    workers: int = 2,
    settings: CohortSettings = LESION_SETTINGS,
    progress: OnCase | None = None,
) -> list[Path]:
    """Make the named parts in the folder `out`, one file a lesion; see `build_files` for what a killed run leaves.

    Parameters
    ----------
    parts : iterable of str, optional
        All if not given: "train", "validation", "test" (hospital A: 832, 204 and 116 lesions), "external-b" (102),
        "external-c" (119), "parity" (600, hospital A).
    difficulty : float
        How far the classes overlap (`Population.difficulty`).

    Raises
    ------
    UsageError
        An unknown part, or `out` holds lesions of other settings or another difficulty.
    """
    jobs: list[Job] = []
    for name in PARTS if parts is None else parts:
        if name not in PARTS:
            raise UsageError("the lesion cohort has no such part", expected=" | ".join(PARTS), found=name)
        jobs += lesion_jobs(PARTS[name], difficulty)
    return build_files(out, jobs, workers=workers, settings=settings, progress=progress)

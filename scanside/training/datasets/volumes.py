"""Volumes with masks and labels, and how a case of them is cut into a file like a phantom's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError
from scanside.exam.geometry import Box, Geometry
from scanside.exam.open import open_exam
from scanside.exam.readers.labels import read_labels
from scanside.training.cutting import CohortSettings, Origin, volume_arrays
from scanside.training.errors import TrainingDataError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class MaskedLesion:
    """A lesion measured on its mask; axes (sweep, depth, lateral)."""

    id: int
    box_index: Box
    box_mm: Box
    malignant: bool
    diameters_mm: Triple


@dataclass(frozen=True)
class MaskedVolume:
    """A volume and its lesion ids, uint8 (sweep, depth, lateral)."""

    voxels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    geometry: Geometry
    truth: tuple[MaskedLesion, ...]


@dataclass(frozen=True)
class VolumeCase:
    """One volume of a data set: its files, and the class of each lesion by its value in the mask.

    `spacing_mm` (sweep, depth, lateral) is used where the exam states none, and in the place of `placeholder_mm`,
    which a data set may state in the place of the truth.
    """

    number: int
    origin: Origin
    exam: Path
    mask: Path
    malignant: tuple[tuple[int, bool], ...]
    spacing_mm: Triple | None = None
    placeholder_mm: Triple | None = None

    @property
    def made_with(self) -> dict[str, Any]:
        """Whose volume it is: a file left by another table is not taken for this one's."""
        labels = ", ".join(f"{id} {'malignant' if malignant else 'benign'}" for id, malignant in self.malignant)
        return {"case": self.origin.case, "exam": self.exam.name, "labels": labels}

    def arrays(self, settings: CohortSettings) -> dict[str, NDArray]:
        """Read and cut the volume; see `scanside.training.cohort.Job`."""
        return volume_arrays(self.read(), self.number, settings, self.origin, **self.made_with)

    def read(self) -> MaskedVolume:
        """The volume and its lesions.

        Raises
        ------
        TrainingDataError
            The exam or mask cannot be read, they differ in size, or a lesion's mask is empty.
        """
        try:
            volume = open_exam(self.exam, spacing_mm=self.spacing_mm).only()
            geometry = volume.geometry
            if self.spacing_mm is not None and geometry.spacing_mm == self.placeholder_mm:
                geometry = Geometry(geometry.shape, self.spacing_mm)
            mask = read_labels(self.mask, geometry)
            voxels = volume.decode(threads=1)
        except ExamReadError as error:
            raise TrainingDataError(
                f"case {self.origin.case} cannot be used: {error.what}",
                where=error.where or self.exam,
                expected=error.expected,
                found=error.found,
                remedy=error.remedy,
            ) from None
        known = dict(self.malignant)
        kept = np.where(np.isin(mask, list(known)), mask, np.uint8(0))
        return MaskedVolume(voxels, kept, geometry, tuple(self._lesion(kept, i, known[i], geometry) for i in known))

    def _lesion(self, mask: NDArray[np.uint8], id: int, malignant: bool, geometry: Geometry) -> MaskedLesion:
        inside = mask == id
        edges = []
        for axis in range(3):
            seen = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
            if not len(seen):
                raise TrainingDataError(
                    "the lesion's mask is empty",
                    where=self.mask,
                    expected=f"voxels of value {id} (case {self.origin.case})",
                )
            edges.append((int(seen[0]), int(seen[-1]) + 1))
        box = Box(tuple(a for a, _ in edges), tuple(b for _, b in edges))  # type: ignore[arg-type]
        box_mm = geometry.box_mm_from_index(box)
        return MaskedLesion(id, box, box_mm, malignant, box_mm.size)

"""Label maps: masks on an exam's grid, as NRRD or NIfTI, with the values they were stored with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError
from scanside.exam.geometry import Geometry
from scanside.exam.readers import nifti, nrrd

_FORMATS = {".nrrd": nrrd, ".nhdr": nrrd, ".nii": nifti, ".nii.gz": nifti}


def read_labels(path: str | Path, geometry: Geometry) -> NDArray[np.uint8]:
    """The labels of a mask that lies on the grid of `geometry`, uint8 (sweep, depth, lateral); 0 is background.

    Raises
    ------
    ExamReadError
        Neither NRRD nor NIfTI, damaged, of another size than the exam, or values that are no labels (0 to 255).
    """
    path = Path(path)
    name = path.name.lower()
    module = next((m for suffix, m in _FORMATS.items() if name.endswith(suffix)), None)
    if module is None:
        raise ExamReadError("this is no mask", where=path.name, expected=", ".join(_FORMATS))
    stored, _, _, _ = module.parse(path, geometry.spacing_mm)
    if stored.shape != geometry.shape:
        raise ExamReadError(
            "the mask is of another size than its exam",
            where=path.name,
            expected=" x ".join(map(str, geometry.shape)),
            found=" x ".join(map(str, stored.shape)),
        )
    labels = np.empty(stored.shape, np.uint8)
    for k, frame in enumerate(stored.frames()):
        if not (
            np.isfinite(frame).all() and frame.min() >= 0 and frame.max() <= 255 and (frame == np.rint(frame)).all()
        ):
            raise ExamReadError(
                "the mask holds values that are no labels",
                where=path.name,
                expected="whole numbers from 0 to 255",
                found=f"{frame.min()} to {frame.max()} in frame {k}",
            )
        labels[k] = frame
    return labels

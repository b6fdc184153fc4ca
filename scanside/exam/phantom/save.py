"""Writing a phantom: the exam as a scanner would store it, truth.json, and the truth mask."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from scanside.errors import OutputError, UsageError
from scanside.exam.geometry import Box
from scanside.exam.phantom.make import Phantom
from scanside.exam.write import atomic_file, write_nrrd

TRUTH_SCHEMA = "scanside-truth/1"
FORMATS = ("dicom", "nrrd")


def save_phantom(
    phantom: Phantom, out: str | os.PathLike[str], *, format: str = "dicom", vendor: str = "siemens"
) -> Path:
    """Write `phantom` into the folder `out`: exam.dcm or exam.nrrd, truth.json and truth_mask.nrrd.

    Returns
    -------
    Path
        The exam's file. Files of those names that were there are replaced, each atomically.

    Raises
    ------
    UsageError
        An unknown format or vendor.
    OutputError
        The folder cannot be written.
    """
    if format not in FORMATS:
        raise UsageError("unknown phantom format", expected=" or ".join(FORMATS), found=format)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("the folder cannot be made", where=out, found=error.strerror) from None
    if format == "dicom":
        from scanside.exam.write_dicom import write_dicom

        exam = write_dicom(
            out / "exam.dcm",
            phantom.voxels,
            phantom.geometry,
            vendor=vendor,
            seed=phantom.seed,
            nipple_mm=phantom.nipple_mm if vendor == "ge" else None,
        )
    else:
        exam = write_nrrd(out / "exam.nrrd", phantom.voxels, phantom.geometry)
    write_nrrd(out / "truth_mask.nrrd", phantom.mask, phantom.geometry)
    with atomic_file(out / "truth.json") as file:
        file.write((json.dumps(truth_json(phantom), indent=2) + "\n").encode())
    return exam


def truth_json(phantom: Phantom) -> dict[str, Any]:
    """The content of truth.json: lesions with boxes in index and mm, axes (sweep, depth, lateral)."""

    def box(value: Box) -> dict[str, list[float]]:
        return {"min": [round(v, 4) for v in value.min], "max": [round(v, 4) for v in value.max]}

    return {
        "schema": TRUTH_SCHEMA,
        "seed": phantom.seed,
        "synthetic": True,
        "shape": list(phantom.geometry.shape),
        "spacing_mm": list(phantom.geometry.spacing_mm),
        "nipple_mm": [round(v, 4) for v in phantom.nipple_mm],
        "lesions": [
            {
                "id": lesion.id,
                "box_index": box(lesion.box_index),
                "box_mm": box(lesion.box_mm),
                "centroid_mm": list(lesion.centroid_mm),
                "malignant": lesion.malignant,
                "kind": lesion.kind,
                "diameters_mm": list(lesion.diameters_mm),
                "volume_mm3": lesion.volume_mm3,
                "descriptors": lesion.descriptors,
            }
            for lesion in phantom.truth
        ],
    }

"""The same exam written in every supported format and transfer syntax, and what is found in each."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid

import scanside
from benchmarks.done import Rows
from benchmarks.record import conditions, source_tree, write_json
from benchmarks.table import Table
from scanside.exam.phantom import Phantom, make_phantom
from scanside.exam.write import write_dicom, write_dicom_series, write_enhanced_us, write_nrrd
from scanside.report.model import Lesion

NATIVE = {
    "implicit little endian": uid.ImplicitVRLittleEndian,
    "explicit little endian": uid.ExplicitVRLittleEndian,
    "explicit big endian": uid.ExplicitVRBigEndian,
}
LOSSLESS = {
    "RLE": uid.RLELossless,
    "JPEG Lossless": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000 lossless": uid.JPEG2000Lossless,
}


# A quarter of the standard exam at its native resolution: half the sweep, half the width.
SHAPE, EXTENT_MM = (159, 600, 400), (84.0, 60.0, 77.0)


def writers(phantom: Phantom) -> dict[str, Callable[[Path], object]]:
    """Each form's name and what writes it into a folder."""
    v, g = phantom.voxels, phantom.geometry

    def multi_frame(**options: Any) -> Callable[[Path], object]:
        return lambda folder: write_dicom(folder / "exam.dcm", v, g, **options)

    forms = {f"US Multi-frame, {n}": multi_frame(transfer_syntax=s) for n, s in (NATIVE | LOSSLESS).items()}
    forms["US Multi-frame, GE style"] = multi_frame(vendor="ge")
    forms["US Multi-frame, JPEG Baseline grey (lossy)"] = multi_frame(transfer_syntax=uid.JPEGBaseline8Bit)
    forms["US Multi-frame, JPEG Baseline YBR_FULL_422 (lossy)"] = multi_frame(
        transfer_syntax=uid.JPEGBaseline8Bit, photometric="YBR_FULL_422"
    )
    forms["US Multi-frame, JPEG 2000 (lossy)"] = multi_frame(transfer_syntax=uid.JPEG2000)
    forms["Enhanced US Volume"] = lambda folder: write_enhanced_us(folder / "exam.dcm", v, g)
    forms["single-frame series"] = lambda folder: write_dicom_series(folder / "series", v, g)
    forms["NRRD"] = lambda folder: write_nrrd(folder / "exam.nrrd", v, g)
    forms["NumPy .npz"] = lambda folder: np.savez(folder / "exam.npz", voxels=v, spacing_mm=g.spacing_mm)

    def nifti(folder: Path) -> None:
        import nibabel

        sweep, depth, lateral = g.spacing_mm
        nibabel.save(nibabel.Nifti1Image(v.transpose(), np.diag([lateral, depth, sweep, 1])), folder / "exam.nii.gz")

    def metaimage(folder: Path) -> None:
        import SimpleITK

        image = SimpleITK.GetImageFromArray(v)
        image.SetSpacing(g.spacing_mm[::-1])
        SimpleITK.WriteImage(image, str(folder / "exam.mha"))

    forms["NIfTI"] = nifti
    forms["MetaImage"] = metaimage
    return forms


def differences(reference: tuple[Lesion, ...], lesions: tuple[Lesion, ...]) -> dict[str, Any]:
    """Largest distance of centroids and box corners in mm, and of probabilities, lesion by lesion."""
    row: dict[str, Any] = {"lesions": len(lesions), "centroid_mm": "", "box_mm": "", "probability": ""}
    if len(lesions) == len(reference):
        pairs = [
            (a, min(lesions, key=lambda b: np.linalg.norm(np.subtract(a.centroid_mm, b.centroid_mm))))
            for a in reference
        ]
        row["centroid_mm"] = round(
            max(float(np.linalg.norm(np.subtract(a.centroid_mm, b.centroid_mm))) for a, b in pairs), 4
        )
        row["box_mm"] = round(
            max(
                float(np.abs(np.subtract((*a.box_mm.min, *a.box_mm.max), (*b.box_mm.min, *b.box_mm.max))).max())
                for a, b in pairs
            ),
            4,
        )
        row["probability"] = round(max(abs(a.probability - b.probability) for a, b in pairs), 5)
    return row


def make_table(seed: int, out: Path, pack: Path | None) -> None:
    """Write formats-seed<seed>.csv and its .json into `out`."""
    phantom = make_phantom(seed, shape=SHAPE, extent_mm=EXTENT_MM, lesions=2)
    predictor = scanside.load(pack)
    reference = predictor.analyze(phantom.voxels, spacing_mm=phantom.geometry.spacing_mm).lesions
    table = out / f"formats-seed{seed}.csv"
    rows = Rows(table, ("form",), {"seed": seed, "pack": predictor.pack.sha256, "tree": source_tree()})
    if ("array in memory",) not in rows:
        rows.add({"form": "array in memory", **differences(reference, reference)})
    for form, write in writers(phantom).items():
        if (form,) in rows:
            continue
        with tempfile.TemporaryDirectory(prefix="scanside-formats-") as folder:
            write(Path(folder))
            exam = next(Path(folder).iterdir())
            rows.add({"form": form, **differences(reference, predictor.analyze(exam).lesions)})
        print(rows.rows[-1], flush=True)
    phantom_of = {"seed": seed, "shape": SHAPE, "extent_mm": EXTENT_MM}
    write_json(table.with_suffix(".json"), {**conditions(), **phantom_of, "forms": len(rows.rows)})
    rows.finish()


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--seed", type=int, default=5100)


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly, whatever the seed."""
    return 12


TABLE = Table(
    "formats",
    "the same exam in every format and transfer syntax gives the same lesions",
    make_table,
    minutes,
    arguments,
)

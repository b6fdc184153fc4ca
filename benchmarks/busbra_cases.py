"""BUS-BRA's held-out fold as cases that parity is judged on: one cohort file a lesion.

A lesion's views are the sections of one plane, brought to the nominal size that the segmenter is trained on, with their
masks; and its crops. BUS-BRA states no spacing: a pixel counts as the segmenter's 0.66 mm. For a network of one view
each view is a frame; for `fusion1` the two views are the transverse and the sagittal crop of one frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanside.exam.write import atomic_file
from scanside.training.busbra import LONGER_SIDE, BusbraImage, padded, read_busbra, resized, resized_mask
from scanside.training.cutting import FORMAT, Origin
from scanside.training.views import stored_crop

NOMINAL_BOX_MM = 20.0
"""Only ratios to it count: a crop shows a multiple of the lesion's longer side."""
NOMINAL_PITCH_MM = 0.66
PLANES = ("transverse", "sagittal")


def write_cases(busbra: Path, out: Path, *, fold: int, two_views: bool) -> list[Path]:
    """Write the lesions of `fold` into the folder `out`, those with two views alone if `two_views`."""
    by_case: dict[str, list[BusbraImage]] = {}
    for image in read_busbra(busbra, test_fold=fold):
        if image.fold == fold:
            by_case.setdefault(image.case, []).append(image)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (case, views) in enumerate(sorted(by_case.items())):
        views.sort(key=lambda view: view.id)
        if two_views and len(views) != 2:
            continue
        file = out / f"busbra-{number:04d}.npz"
        with atomic_file(file) as stream:
            np.savez_compressed(stream, **case_arrays(number, case, views, fold, two_views))  # type: ignore[arg-type]
        files.append(file)
    return files


def case_arrays(number: int, case: str, views: Sequence[BusbraImage], fold: int, two_views: bool) -> dict[str, NDArray]:
    """One lesion's arrays by name, in the format of cohort files."""
    crops = np.stack([stored_crop(view.pixels(), view.mask()) for view in views])
    triplets = crops[None, None, None] if two_views else crops[None, None, :, None]
    planes = PLANES if two_views else PLANES[:1]
    sections = [padded(resized(view.pixels(), LONGER_SIDE)) for view in views]
    masks = [padded(resized_mask(view.mask(), LONGER_SIDE)) for view in views]
    shape = tuple(np.max([section.shape for section in sections], axis=0).tolist())
    box = np.array([[0.0] * 3, [NOMINAL_BOX_MM] * 3], np.float32)
    origin = Origin("BUS-BRA", case, case, f"fold {fold}")
    meta = {
        "format": FORMAT,
        "seed": number,
        "origin": asdict(origin),
        "settings": {"pitch_mm": NOMINAL_PITCH_MM, "longer_side": LONGER_SIDE},
        "planes": planes,
    }
    return {
        "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
        "triplets": triplets,
        "triplet_boxes_mm": box[None, None],
        "lesion_boxes_mm": box[None],
        "lesion_malignant": np.array([views[0].malignant]),
        "lesion_diameters_mm": np.full((1, 3), NOMINAL_BOX_MM, np.float32),
        "transverse_images": np.stack([_into(section, shape) for section in sections]),
        "transverse_masks": np.packbits(np.stack([_into(mask, shape) for mask in masks]), axis=-1),
        "transverse_sections": np.arange(len(views), dtype=np.int32),
        "transverse_lesions": np.array([(row, 0) for row in range(len(views))], np.int32),
    }


def _into(image: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.pad(image, [(0, whole - n) for whole, n in zip(shape, image.shape, strict=True)])

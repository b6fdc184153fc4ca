"""Triplets: for each frame of a lesion one crop a plane, as the classifier takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane, crop, crop_side_mm, triplet_indices
from scanside.exam.volume import Voxels


@dataclass(frozen=True)
class CropRule:
    """How crops are cut: `frames` a lesion, squares of the box's longer side times `margin`, of `size` pixels."""

    frames: int
    margin: float
    size: int
    planes: tuple[Plane, ...] = tuple(Plane)


@dataclass(frozen=True)
class TripletBatch:
    """Triplets `first` to `first + count` of all lesions' triplets in order, uint8 [count, 1, size, size] a plane."""

    first: int
    count: int
    crops: dict[Plane, NDArray[np.uint8]]


def triplet_batches(
    voxels: Voxels, geometry: Geometry, boxes_mm: Sequence[Box], rule: CropRule, batch: int
) -> Iterator[TripletBatch]:
    """The triplets of all lesions, in lesion then frame order, in batches of at most `batch`.

    Frames lie where `exam.planes.triplet_indices` puts them, crops are `exam.planes.crop_side_mm` wide, both the same
    for the workshop.
    """
    wanted = [(box, f) for box in boxes_mm for f in range(rule.frames)]
    indices = {box: triplet_indices(geometry, box, rule.frames) for box in boxes_mm}
    for first in range(0, len(wanted), batch):
        chunk = wanted[first : first + batch]
        crops = {plane: np.empty((len(chunk), 1, rule.size, rule.size), np.uint8) for plane in rule.planes}
        for i, (box, f) in enumerate(chunk):
            for plane in rule.planes:
                side_mm = crop_side_mm(box, plane, rule.margin)
                cut = crop(voxels, geometry, plane, indices[box][plane][f], box, side_mm=side_mm, size=rule.size)
                crops[plane][i, 0] = cut.pixels
        yield TripletBatch(first, len(chunk), crops)

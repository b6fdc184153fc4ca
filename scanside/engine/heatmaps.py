"""Where the classifier looked: the heatmap of a lesion, from the maps of its frames.

A reader looks at a map beside the picture it belongs to, so it is the map of one frame, never a mean over frames whose
sections differ. It is the frame that stands for the lesion: of those whose own verdict is the lesion's, the one whose
probability is nearest the lesion's; of equals the one nearest the middle.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from scanside.engine.triplets import CropRule
from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane, crop, crop_side_mm
from scanside.exam.volume import Voxels
from scanside.report.model import Heatmap, PlaneHeatmap


def representative_frame(frame_probabilities: NDArray, probability: float) -> int:
    """The frame that stands for a lesion of this probability, the mean of its frames'."""
    frames = np.arange(len(frame_probabilities))
    same = (frame_probabilities > 0.5) == (probability > 0.5)
    off = np.abs(np.asarray(frame_probabilities, np.float64) - probability)
    middle = np.abs(frames - (len(frames) - 1) / 2)
    return int(np.lexsort((middle, off, ~same))[0])


def lesion_heatmap(
    voxels: Voxels,
    geometry: Geometry,
    box_mm: Box,
    indices: Mapping[Plane, tuple[int, ...]],
    rule: CropRule,
    frame: int,
    maps: NDArray[np.float32],
) -> Heatmap:
    """The maps [planes, h, w] of one frame, with the crops they lie on.

    Parameters
    ----------
    indices : mapping
        Native slices of the lesion's triplets (see `exam.planes.triplet_indices`).
    rule : CropRule
        How the crops were cut.
    frame : int
        Which triplet `maps` belong to.
    """
    planes = {}
    for plane, values in zip(rule.planes, maps, strict=True):
        side_mm = crop_side_mm(box_mm, plane, rule.margin)
        index = indices[plane][frame]
        cut = crop(voxels, geometry, plane, index, box_mm, side_mm=side_mm, size=rule.size)
        planes[plane.value] = PlaneHeatmap(index, cut.window_mm, cut.pixels, values)
    return Heatmap(frame, planes)

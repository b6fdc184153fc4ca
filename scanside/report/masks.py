"""masks.nrrd: the lesion ids on the volume's own grid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from scanside.errors import Cancelled
from scanside.exam.geometry import Geometry
from scanside.exam.write import write_nrrd_frames
from scanside.report.model import LesionMask


def masks_nrrd(
    path: str | os.PathLike[str], mask: LesionMask, geometry: Geometry, *, cancel: Event | None = None
) -> Path:
    """Write the lesion ids as a compressed NRRD of the volume's shape, spacing and orientation.

    Parameters
    ----------
    path : path
        Target file, replaced atomically.
    mask : LesionMask
        Lesion ids on the section grid.
    geometry : Geometry
        Of the volume; where it has no orientation the file states spacings only.
    cancel : Event, optional
        Stops the writing between two frames.

    Raises
    ------
    OutputError
        The file cannot be written.
    Cancelled
        `cancel` was set; nothing is left at `path`.
    """
    kind = np.uint8 if int(mask.labels.max(initial=0)) < 256 else np.uint16
    return write_nrrd_frames(path, mask_frames(mask, geometry, kind, cancel), kind, geometry)


def mask_frames(
    mask: LesionMask, geometry: Geometry, kind: type[np.integer] = np.uint16, cancel: Event | None = None
) -> Iterator[NDArray]:
    """Frames (depth, lateral) of lesion ids in sweep order: each voxel has the id of the nearest cell of the mask."""
    if not mask.labels.size:
        empty = np.zeros(geometry.shape[1:], kind)
        yield from (empty for _ in range(geometry.shape[0]))
        return
    sweep, depth, lateral = (_nearest(mask, geometry, axis) for axis in range(3))
    for k in sweep:
        if cancel is not None and cancel.is_set():
            raise Cancelled("stopped while writing the masks")
        yield mask.labels[k][np.ix_(depth, lateral)].astype(kind)


def _nearest(mask: LesionMask, geometry: Geometry, axis: int) -> NDArray[np.intp]:
    """For each voxel along `axis`, the index of the mask's cell that holds its centre."""
    cells = Geometry(mask.labels.shape, (mask.pitch_mm,) * 3)  # type: ignore[arg-type]
    voxels = np.zeros((geometry.shape[axis], 3))
    voxels[:, axis] = np.arange(geometry.shape[axis])
    nearest = np.floor(cells.index_from_mm(geometry.mm_from_index(voxels))[:, axis] + 0.5 + 1e-9).astype(np.intp)
    return np.clip(nearest, 0, cells.shape[axis] - 1)

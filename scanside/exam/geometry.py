"""The one owner of the affine: index <-> mm <-> patient. No other module scales, flips or transposes.

Three frames, all in (sweep, depth, lateral) order except the patient's:

* **index**: voxel numbers; voxel ``i`` is the cell ``[i, i + 1)``, its centre is ``i + 0.5`` as an edge coordinate.
* **mm**: millimetres from the outer corner of voxel (0, 0, 0). The centre of voxel ``i`` is ``(i + 0.5) * spacing``.
* **patient**: DICOM LPS millimetres (PS3.3 C.7.6.2.1.1), known only when the source states an orientation.

Boxes are half-open in both frames: index box ``[min, max)`` <-> mm box ``[min * spacing, max * spacing)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanside.errors import GeometryError

AXES = ("sweep", "depth", "lateral")
MIN_SPACING_MM = 0.005
MAX_SPACING_MM = 20.0


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open 3-D box; `min` and `max` are (sweep, depth, lateral), in index or in mm as its name says."""

    min: tuple[float, float, float]
    max: tuple[float, float, float]

    @property
    def size(self) -> tuple[float, float, float]:
        return tuple(b - a for a, b in zip(self.min, self.max, strict=True))  # type: ignore[return-value]

    @property
    def centre(self) -> tuple[float, float, float]:
        return tuple((a + b) / 2 for a, b in zip(self.min, self.max, strict=True))  # type: ignore[return-value]


def _triple(values: ArrayLike) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in np.asarray(values, dtype=float).reshape(3))
    return a, b, c


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape, spacing and (when known) orientation of one volume.

    Parameters
    ----------
    shape : tuple of int
        (sweep, depth, lateral) voxel counts.
    spacing_mm : tuple of float
        Voxel size in mm, same order.
    patient_from_mm : (4, 4) array, optional
        Rigid transform from the mm frame to DICOM LPS patient mm, or None when the source states no orientation.

    Raises
    ------
    GeometryError
        A count below 1; a spacing that is not finite, not positive, or outside 0.005 to 20 mm; a transform that is
        not 4 x 4 or not rigid (a mirroring is allowed).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    patient_from_mm: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError("a volume needs three axes of at least one voxel", found=f"shape {self.shape}")
        spacing = tuple(float(s) for s in self.spacing_mm)
        for axis, value in zip(AXES, spacing, strict=True):
            if not math.isfinite(value) or not MIN_SPACING_MM <= value <= MAX_SPACING_MM:
                raise GeometryError(
                    f"the {axis} spacing is unusable",
                    expected=f"{MIN_SPACING_MM} to {MAX_SPACING_MM} mm",
                    found=f"{value} mm",
                    remedy="give the true spacing with --spacing SWEEP,DEPTH,LATERAL (spacing_mm= in Python)",
                )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "spacing_mm", spacing)
        if self.patient_from_mm is not None:
            matrix = np.array(self.patient_from_mm, dtype=np.float64)
            rotation = matrix[:3, :3] if matrix.shape == (4, 4) else np.zeros((3, 3))
            if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
                raise GeometryError("the orientation is not a rigid 4 x 4 transform", found=matrix.tolist())
            matrix.setflags(write=False)
            object.__setattr__(self, "patient_from_mm", matrix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        mine, theirs = self.patient_from_mm, other.patient_from_mm
        same = mine is theirs or (mine is not None and theirs is not None and np.array_equal(mine, theirs))
        return self.shape == other.shape and self.spacing_mm == other.spacing_mm and same

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_voxel_affine(cls, shape: tuple[int, int, int], patient_from_index: ArrayLike) -> Geometry:
        """Geometry from a 4 x 4 affine that maps voxel *centres* (index order sweep, depth, lateral) to LPS mm."""
        affine = np.asarray(patient_from_index, dtype=np.float64)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.all(spacing > 0):
            raise GeometryError("the affine has an axis of no length", found=affine.tolist())
        rigid = np.eye(4)
        rigid[:3, :3] = affine[:3, :3] / spacing
        rigid[:3, 3] = affine[:3, 3] - rigid[:3, :3] @ (0.5 * spacing)
        return cls(shape, _triple(spacing), rigid)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size of the whole volume in mm."""
        return _triple(np.multiply(self.shape, self.spacing_mm))

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel."""
        return math.prod(self.spacing_mm)

    @property
    def bytes(self) -> int:
        """Bytes of the decoded uint8 volume."""
        return math.prod(self.shape)

    def mm_from_index(self, index: ArrayLike) -> NDArray[np.float64]:
        """Centres of voxels (..., 3), fractional allowed, in mm."""
        return (np.asarray(index, dtype=np.float64) + 0.5) * self.spacing_mm

    def index_from_mm(self, mm: ArrayLike) -> NDArray[np.float64]:
        """Fractional voxel indices (..., 3) whose centres lie at `mm`; the inverse of `mm_from_index`."""
        return np.asarray(mm, dtype=np.float64) / self.spacing_mm - 0.5

    def patient_from_index(self, index: ArrayLike) -> NDArray[np.float64]:
        """LPS patient mm (..., 3) of voxel centres.

        Raises
        ------
        GeometryError
            The source stated no orientation.
        """
        matrix = self._patient_matrix()
        return self.mm_from_index(index) @ matrix[:3, :3].T + matrix[:3, 3]

    def index_from_patient(self, patient: ArrayLike) -> NDArray[np.float64]:
        """Fractional voxel indices (..., 3) of LPS patient points in mm; the inverse of `patient_from_index`."""
        matrix = self._patient_matrix()
        return self.index_from_mm((np.asarray(patient, dtype=np.float64) - matrix[:3, 3]) @ matrix[:3, :3])

    def box_mm_from_index(self, box: Box) -> Box:
        """The mm box of a half-open index box."""
        return Box(_triple(np.multiply(box.min, self.spacing_mm)), _triple(np.multiply(box.max, self.spacing_mm)))

    def box_index_from_mm(self, box: Box) -> Box:
        """The smallest half-open index box that holds a mm box, clipped to the volume; at least one voxel a side."""
        tolerance = 1e-9
        low = np.floor(np.divide(box.min, self.spacing_mm) + tolerance)
        high = np.ceil(np.divide(box.max, self.spacing_mm) - tolerance)
        low = np.clip(low, 0, np.subtract(self.shape, 1)).astype(int)
        high = np.clip(high, low + 1, self.shape).astype(int)
        return Box(tuple(low.tolist()), tuple(high.tolist()))

    def _patient_matrix(self) -> NDArray[np.float64]:
        if self.patient_from_mm is None:
            raise GeometryError(
                "the exam states no patient orientation", expected="orientation in the source", found="none"
            )
        return self.patient_from_mm

"""Spacing, order and orientation of DICOM frames, by one fixed order of sources; nothing is assumed.

Functional groups; PixelSpacing and SpacingBetweenSlices; ultrasound regions; the vendor's private elements; the
caller. PixelSpacing is (row, column), that is (depth, lateral) here (PS3.3 10.7.1.3). SliceThickness is no spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.errors import GeometryError
from scanside.exam.geometry import AXES, MAX_SPACING_MM, MIN_SPACING_MM, Geometry
from scanside.exam.profiles import Habits
from scanside.exam.readers.dicom_header import Header
from scanside.exam.readers.header import CALLER

MAX_ANISOTROPY = 20
MAX_EXTENT_MM = 400
_AGREE = 0.01
_ROUNDING = 1e-4
_STEP_TOLERANCE = 0.05
_STEP_TOLERANCE_MM = 0.011
_REMEDY = "give the true spacing with --spacing SWEEP,DEPTH,LATERAL (spacing_mm= in Python)"
_CENTIMETRES = 3

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class FramePlanes:
    """Positions (n, 3) of the frames' first pixels in mm and their common row and column directions, as stated.

    `patient` tells patient coordinates from those of a volume's own frame of reference. `numbers` are the instance
    numbers, by default the frames' order in the file: they say which direction along the sweep was the scanner's.
    """

    positions: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    patient: bool
    source: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Where the voxels are: geometry, its sources, the frames' order along the sweep, and what to warn of."""

    geometry: Geometry
    source: str
    order: tuple[int, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Sweep:
    spacing_mm: float
    order: tuple[int, ...]
    step: NDArray[np.float64]


def place(
    header: Header,
    shape: tuple[int, int, int],
    habits: Habits,
    spacing_mm: Triple | None,
    planes: FramePlanes | None,
) -> Placement:
    """The geometry of a volume.

    Parameters
    ----------
    header : Header
        Of the file, or of the first file of a series.
    shape : tuple of int
        (sweep, depth, lateral).
    habits : Habits
        What the vendor profile knows.
    spacing_mm : tuple of float, optional
        The caller's (sweep, depth, lateral): used for what the header does not state.
    planes : FramePlanes, optional
        Positions of the frames, where stated.

    Raises
    ------
    GeometryError
        No spacing, an unusable one, or frames that are missing, doubled or not parallel.
    """
    where = header.where
    warnings: list[str] = []
    sweep = None
    if planes is not None:
        sweep = _sweep_of(planes, where)
        if sweep is None:
            warnings.append("all frames state the same position: positions were ignored")
    try:
        in_plane = _in_plane(header, shape, habits, warnings)
        between = _between(header, sweep, planes, warnings)
    except GeometryError as error:
        if spacing_mm is None:
            raise
        warnings.append(f"{error.what} in the header: the caller's spacing was used instead")
        in_plane, between = None, None if sweep is None or planes is None else (sweep.spacing_mm, planes.source)
    if in_plane is None or between is None:
        if spacing_mm is None:
            raise _absent(header, in_plane is None, between is None, habits)
        Geometry(shape, spacing_mm)
    caller = spacing_mm or (math.nan,) * 3
    (depth, lateral), plane_source = in_plane or ((caller[1], caller[2]), CALLER)
    sweep_mm, sweep_source = between or (caller[0], CALLER)
    spacing = (sweep_mm, depth, lateral)
    geometry = _geometry(shape, spacing, sweep, planes, where)
    source = plane_source if plane_source == sweep_source else f"{plane_source} + {sweep_source}"
    if spacing_mm is not None and source != CALLER and not np.allclose(spacing_mm, spacing, rtol=_AGREE):
        warnings.append(f"the caller's spacing {_mm(spacing_mm)} contradicts {source}: {_mm(spacing)} was used")
    warnings += _plausibility(geometry)
    order = sweep.order if sweep is not None else tuple(range(shape[0]))
    return Placement(geometry, source, order, tuple(warnings))


def frame_planes(header: Header, count: int) -> FramePlanes | None:
    """Positions and orientation of a multi-frame object's frames from its functional groups, or None.

    Plane Position and Plane Orientation (PS3.3 C.7.6.16.2.3 and .4) are in patient coordinates; their (Volume) forms
    (C.8.24.6.1 and .2) in the volume's own.

    Raises
    ------
    GeometryError
        Some frames state a position and others none, or the frames are not parallel.
    """
    shared = header.first("SharedFunctionalGroupsSequence")
    frames = header.items("PerFrameFunctionalGroupsSequence")
    if not frames:
        return None
    if len(frames) != count:
        raise GeometryError(
            "the functional groups describe another number of frames",
            where=header.where,
            expected=count,
            found=len(frames),
        )
    groups = (shared, *frames) if shared is not None else tuple(frames)
    for patient, position_at, position, orientation_at, orientation in (
        (True, "PlanePositionSequence", "ImagePositionPatient", "PlaneOrientationSequence", "ImageOrientationPatient"),
        (
            False,
            "PlanePositionVolumeSequence",
            "ImagePositionVolume",
            "PlaneOrientationVolumeSequence",
            "ImageOrientationVolume",
        ),
    ):
        directions = [_nested(group, orientation_at, orientation, 6) for group in groups]
        positions = [_nested(frame, position_at, position, 3) for frame in frames]
        if not any(positions) or not any(directions):
            continue
        stated = [d for d in directions if d is not None]
        return frame_planes_from(positions, stated, patient, f"functional groups ({position})", header.where)
    return None


def frame_planes_from(
    positions: Sequence[tuple[float, ...] | None],
    directions: Sequence[tuple[float, ...]],
    patient: bool,
    source: str,
    where: str,
    numbers: tuple[int, ...] = (),
) -> FramePlanes:
    """Check positions and directions of frames against each other.

    Raises
    ------
    GeometryError
        Not a position a frame; a value that is not finite; directions that differ, or are not at right angles.
    """
    if any(position is None for position in positions):
        raise GeometryError("only some frames state a position", where=where)
    points, axes = np.array(positions, dtype=np.float64), np.array(directions, dtype=np.float64)
    if not np.isfinite(points).all() or not np.isfinite(axes).all():
        raise GeometryError("a frame's position or orientation is not finite", where=where)
    if np.abs(axes - axes[0]).max() > 1e-3:
        raise GeometryError("the frames are not parallel", where=where, expected="one orientation for all frames")
    row, column = axes[0][:3], axes[0][3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, atol=0.01) or abs(row @ column) > 0.01:
        raise GeometryError(
            "the frames' orientation is unusable",
            where=where,
            expected="two unit vectors at right angles",
            found=[round(float(v), 4) for v in axes[0]],
        )
    return FramePlanes(points, row / lengths[0], column / lengths[1], patient, source, numbers)


def _sweep_of(planes: FramePlanes, where: str) -> _Sweep | None:
    """Order and spacing of the frames from their positions; None when all lie at one place."""
    normal = np.cross(planes.row, planes.column)
    along = planes.positions @ normal
    if np.ptp(planes.positions, axis=0).max() < 1e-6:
        return None
    order = np.argsort(along, kind="stable")
    numbers = np.asarray(planes.numbers or range(len(along)), dtype=np.float64)
    if (numbers - numbers.mean()) @ (along - along.mean()) < 0:
        order = order[::-1]
    points = planes.positions[order]
    count = len(points)
    step = (points[-1] - points[0]) / (count - 1)
    spacing = float(np.linalg.norm(step))
    gaps = np.abs(np.diff(along[order]))
    typical = float(np.median(gaps))
    tolerance = max(_STEP_TOLERANCE * typical, _STEP_TOLERANCE_MM)
    bad = int(np.argmax(np.abs(gaps - typical)))
    if abs(gaps[bad] - typical) > tolerance or gaps.min() <= 0:
        raise GeometryError(
            "the frames are not evenly spaced: one is missing, doubled or misplaced",
            where=where,
            expected=f"about {typical:.4g} mm from frame to frame",
            found=f"{gaps[bad]:.4g} mm between the {bad + 1}. and the {bad + 2}. along the sweep",
            remedy="export the whole series again",
        )
    straight = points[0] + np.arange(count)[:, None] * step
    drift = float(np.linalg.norm(points - straight, axis=1).max())
    if drift > max(_STEP_TOLERANCE * spacing, 3 * _STEP_TOLERANCE_MM):
        raise GeometryError("the frames do not lie on one line", where=where, found=f"{drift:.3g} mm beside it")
    return _Sweep(spacing, tuple(int(k) for k in order), step)


def _geometry(
    shape: tuple[int, int, int], spacing: Triple, sweep: _Sweep | None, planes: FramePlanes | None, where: str
) -> Geometry:
    try:
        plain = Geometry(shape, spacing)
        if sweep is None or planes is None or not planes.patient:
            return plain
        affine = np.eye(4)
        affine[:3, 0] = sweep.step
        affine[:3, 1] = planes.column * spacing[1]
        affine[:3, 2] = planes.row * spacing[2]
        affine[:3, 3] = planes.positions[sweep.order[0]]
        return Geometry(shape, spacing, Geometry.from_voxel_affine(shape, affine).patient_from_mm)
    except GeometryError as error:
        raise GeometryError(
            error.what, where=where, expected=error.expected, found=error.found, remedy=error.remedy
        ) from error


def _in_plane(
    header: Header, shape: tuple[int, int, int], habits: Habits, warnings: list[str]
) -> tuple[tuple[float, float], str] | None:
    """(depth, lateral) spacing and its source."""
    stated: list[tuple[tuple[float, float], str]] = []
    group = _measures(header)
    for source, values in (
        ("functional groups", group.numbers("PixelSpacing", 2) if group is not None else None),
        ("PixelSpacing", header.numbers("PixelSpacing", 2)),
    ):
        if values is not None:
            stated.append((_usable(values, source, header.where), source))
    if not stated or header.items("SequenceOfUltrasoundRegions"):
        region = _region(header, shape, warnings, only_to_compare=bool(stated))
        if region is not None:
            stated.append((region, "ultrasound regions"))
    if stated:
        chosen, source = stated[0]
        for other, name in stated[1:]:
            if not np.allclose(chosen, other, rtol=2 * _AGREE):
                warnings.append(
                    f"{source} and {name} contradict each other: {_mm(chosen)} and {_mm(other)}, the first was used"
                )
        return chosen, source
    if habits.in_plane_mm is not None:
        source = f"vendor elements ({habits.in_plane_source})"
        warnings.append(f"the spacing in the frame comes from {habits.in_plane_source}, which is unverified")
        return _usable(habits.in_plane_mm, source, header.where), source
    return None


def _between(
    header: Header, sweep: _Sweep | None, planes: FramePlanes | None, warnings: list[str]
) -> tuple[float, str] | None:
    """Spacing along the sweep and its source."""
    group = _measures(header)
    grouped = group.numbers("SpacingBetweenSlices", 1) if group is not None else None
    plain = header.numbers("SpacingBetweenSlices", 1)
    stated, source = (grouped, "functional groups") if grouped is not None else (plain, "SpacingBetweenSlices")
    value = _usable(stated, source, header.where)[0] if stated is not None else None
    if sweep is None or planes is None:
        return None if value is None else (value, source)
    source = "functional groups" if planes.source.startswith("functional groups") else planes.source
    if value is None:
        return sweep.spacing_mm, source
    apart = abs(value - sweep.spacing_mm)
    if apart <= _ROUNDING * value:
        return value, source
    if apart > max(_AGREE * value, 1e-3):
        warnings.append(
            f"SpacingBetweenSlices says {value:g} mm but the frames lie {sweep.spacing_mm:.4g} mm apart: "
            "their positions were used"
        )
    return sweep.spacing_mm, source


def _region(
    header: Header, shape: tuple[int, int, int], warnings: list[str], *, only_to_compare: bool
) -> tuple[float, float] | None:
    """(depth, lateral) spacing from the calibrated 2-D tissue region (PS3.3 C.8.5.5): units 3 are cm."""
    rows, columns = shape[1:]
    found: list[tuple[tuple[float, float], bool]] = []
    for item in header.items("SequenceOfUltrasoundRegions"):
        units = item.integer("PhysicalUnitsXDirection"), item.integer("PhysicalUnitsYDirection")
        kind = item.integer("RegionSpatialFormat"), item.integer("RegionDataType")
        if units != (_CENTIMETRES, _CENTIMETRES) or kind[0] not in (None, 1) or kind[1] not in (None, 1):
            continue
        x, y = item.numbers("PhysicalDeltaX", 1), item.numbers("PhysicalDeltaY", 1)
        if x is None or y is None:
            continue
        corners = [item.integer(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        left, top, right, bottom = (math.inf if c is None else c for c in corners)
        whole = left <= 1 and top <= 1 and columns - 2 <= right < math.inf and rows - 2 <= bottom < math.inf
        found.append(((abs(y[0]) * 10, abs(x[0]) * 10), whole))
    if len(found) > 1:
        covering = [entry for entry in found if entry[1]]
        if len(covering) != 1:
            if only_to_compare:
                return None
            raise GeometryError(
                "several calibrated ultrasound regions share the frame",
                where=header.where,
                expected="one 2-D tissue region, or one that covers the frame",
                found=f"{len(found)} regions, {len(covering)} of them over the whole frame",
                remedy=_REMEDY,
            )
        found = covering
    if not found:
        return None
    spacing, whole = found[0]
    if not whole:
        warnings.append(
            "the calibrated ultrasound region covers only part of the frame: the rest may be text or graphics"
        )
    return spacing if only_to_compare else _usable(spacing, "ultrasound regions", header.where)


def _measures(header: Header) -> Header | None:
    """The Pixel Measures item (PS3.3 C.7.6.16.2.1): shared, or else the first frame's, when all frames agree."""
    shared = header.first("SharedFunctionalGroupsSequence")
    if shared is not None and (item := shared.first("PixelMeasuresSequence")) is not None:
        return item
    items = [frame.first("PixelMeasuresSequence") for frame in header.items("PerFrameFunctionalGroupsSequence")]
    if not items or items[0] is None:
        return None
    values = {None if item is None else item.numbers("PixelSpacing", 2) for item in items}
    if len(values) != 1:
        raise GeometryError(
            "the frames have different pixel spacings", where=header.where, expected="one for all frames"
        )
    return items[0]


def _nested(group: Header, sequence: str, keyword: str, count: int) -> tuple[float, ...] | None:
    item = group.first(sequence)
    return None if item is None else item.numbers(keyword, count)


def _usable(values: Sequence[float], source: str, where: str) -> tuple[float, float]:
    for value in values:
        if not math.isfinite(value) or not MIN_SPACING_MM <= value <= MAX_SPACING_MM:
            raise GeometryError(
                f"the spacing from {source} is unusable",
                where=where,
                expected=f"{MIN_SPACING_MM} to {MAX_SPACING_MM} mm",
                found=_mm(values),
                remedy=_REMEDY,
            )
    return values[0], values[-1]


def _absent(header: Header, in_plane: bool, between: bool, habits: Habits) -> GeometryError:
    if in_plane and between:
        what = "the exam states no voxel spacing"
    elif in_plane:
        what = "the exam states no pixel spacing"
    else:
        what = "the exam states no spacing between its frames"
    expected = []
    if in_plane:
        expected.append("PixelSpacing or a calibrated ultrasound region")
    if between:
        expected.append("SpacingBetweenSlices or frame positions")
    thickness = header.text("SliceThickness")
    found = "only SliceThickness, which is no spacing" if between and thickness else "none"
    remedy = f"{_REMEDY}; {habits.hint}" if habits.hint else _REMEDY
    return GeometryError(what, where=header.where, expected=", and ".join(expected), found=found, remedy=remedy)


def _plausibility(geometry: Geometry) -> list[str]:
    warnings = []
    spacing, extent = geometry.spacing_mm, geometry.extent_mm
    if max(spacing) > MAX_ANISOTROPY * min(spacing):
        warnings.append(
            f"voxels of {_mm(spacing)} are more than {MAX_ANISOTROPY} times longer than wide: is that right?"
        )
    for axis, size in zip(AXES, extent, strict=True):
        if size > MAX_EXTENT_MM:
            warnings.append(f"the volume measures {size:.0f} mm along its {axis} axis: is that right?")
    return warnings


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values) + " mm"

"""Geometry from what a research format's header states: the header first, then the caller, else refuse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.geometry import Geometry

Triple = tuple[float, float, float]
CALLER = "the caller's spacing_mm"
_REMEDY = "give the true spacing with --spacing SWEEP,DEPTH,LATERAL (spacing_mm= in Python)"


@dataclass(frozen=True)
class Stated:
    """What a header says of the grid, axes in the file's own order, fastest (lateral) first.

    `directions` has a column an axis: one voxel's step in LPS mm; `origin` is the centre of the first voxel. `name`
    names the header fields, for the record.
    """

    name: str
    spacing_mm: Triple | None = None
    directions: NDArray[np.float64] | None = None
    origin: NDArray[np.float64] | None = None


def resolve(
    shape: tuple[int, int, int], stated: Stated, spacing_mm: Triple | None, *, where: str
) -> tuple[Geometry, str, tuple[str, ...]]:
    """Geometry, where it came from, and warnings.

    The caller's spacing (sweep, depth, lateral) serves only where the header states none that is usable.

    Raises
    ------
    GeometryError
        No usable spacing from either, or axes that are not at right angles.
    """
    try:
        geometry = _from_header(shape, stated, where)
    except GeometryError as error:
        if spacing_mm is None:
            raise
        geometry = Geometry(shape, spacing_mm)
        unusable = () if stated.spacing_mm is None and stated.directions is None else (f"{error.what} in the header",)
        return geometry, CALLER, unusable + _axis_warnings(geometry)
    warnings = _axis_warnings(geometry)
    if spacing_mm is not None and not np.allclose(spacing_mm, geometry.spacing_mm, rtol=0.01):
        stated_mm = " x ".join(f"{s:g}" for s in geometry.spacing_mm)
        warnings = (f"the caller's spacing was not used: the header states {stated_mm} mm", *warnings)
    return geometry, stated.name, warnings


def _from_header(shape: tuple[int, int, int], stated: Stated, where: str) -> Geometry:
    try:
        if stated.directions is not None:
            return _oriented(shape, stated)
        if stated.spacing_mm is not None:
            a, b, c = stated.spacing_mm
            return Geometry(shape, (c, b, a))
    except GeometryError as error:
        raise GeometryError(
            error.what, where=where, expected=error.expected, found=error.found, remedy=error.remedy
        ) from None
    raise GeometryError("the header states no voxel spacing", where=where, remedy=_REMEDY)


def _oriented(shape: tuple[int, int, int], stated: Stated) -> Geometry:
    steps = np.asarray(stated.directions, dtype=np.float64)
    lengths = np.linalg.norm(steps, axis=0)
    if not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
        raise GeometryError(
            "an axis in the header has no usable length", found=[float(v) for v in lengths], remedy=_REMEDY
        )
    if stated.origin is None:
        return Geometry(shape, (lengths[2], lengths[1], lengths[0]))
    if not np.all(np.isfinite(stated.origin)):
        raise GeometryError("the origin in the header is not finite", remedy=_REMEDY)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps[:, ::-1], stated.origin
    return Geometry.from_voxel_affine(shape, affine)


def _axis_warnings(geometry: Geometry) -> tuple[str, ...]:
    sweep, depth, lateral = geometry.extent_mm
    if depth > 1.5 * max(sweep, lateral):
        return (
            f"the depth axis is by far the longest ({depth:.0f} mm): the file's axes may be in another order than "
            "lateral, depth, sweep",
        )
    return ()


def numbers(text: str, count: int, *, where: str, field: str) -> tuple[float, ...]:
    """The `count` numbers of a header field, separated by blanks or commas.

    Raises
    ------
    GeometryError
        Not that many numbers.
    """
    try:
        values = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if len(values) != count:
        raise GeometryError(
            f"the header field '{field}' is unreadable", where=where, expected=f"{count} numbers", found=text[:80]
        )
    return values


def counts(text: str, *, where: str, field: str) -> tuple[int, int, int]:
    """The three whole numbers of a header field.

    Raises
    ------
    ExamReadError
        Not three of them.
    """
    try:
        a, b, c = (int(word) for word in text.split())
    except ValueError:
        raise ExamReadError(
            f"the header field '{field}' is unreadable", where=where, expected="3 whole numbers", found=text[:80]
        ) from None
    return a, b, c


def beside(header: Path, name: str) -> Path:
    """The data file that a detached header names: a plain file name, in the header's own folder.

    Raises
    ------
    ExamReadError
        A path, a pattern or a list instead; a link out of the folder; no such file.
    """
    plain = name not in ("", ".", "..", "LIST") and not set(name) & set("/\\:%\0")
    data = header.parent / name if plain else header
    if not plain or data.resolve().parent != header.parent.resolve():
        raise ExamReadError(
            "the header names a data file elsewhere",
            where=header.name,
            expected="the name of one file beside the header",
            found=name[:80],
            remedy="put the data file beside its header, or convert to a single file",
        )
    if not data.is_file():
        raise ExamReadError("the data file named in the header is missing", where=header.name, found=name[:80])
    return data


def head(path: Path, count: int) -> bytes:
    """The first bytes of a file, at most `count`.

    Raises
    ------
    ExamReadError
        It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise ExamReadError("the file cannot be read", where=path.name, found=error.strerror) from error

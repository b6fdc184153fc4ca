"""NIfTI-1 and NIfTI-2 single files, `.nii` and `.nii.gz` (nifti.nimh.nih.gov; nifti1.h, nifti2.h).

Index order i, j, k is lateral, depth, sweep. The sform wins over the qform, as in most tools; both map to RAS.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.geometry import Geometry
from scanside.exam.readers.header import Stated, Triple, head, resolve
from scanside.exam.readers.stored import StoredVoxels, volume
from scanside.exam.volume import Volume

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_MAX_OFFSET = 1 << 26
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(path: Path, spacing_mm: Triple | None) -> Volume:
    """The volume of a NIfTI file, pixels unread.

    Parameters
    ----------
    path : Path
        A `.nii` or `.nii.gz`; which one is told from the content.
    spacing_mm : tuple of float, optional
        (sweep, depth, lateral), used only when the header states no usable spacing.

    Raises
    ------
    ExamReadError
        No single-file NIfTI, not three axes, a type that is not read, or data that do not match the header.
    GeometryError
        No usable spacing.
    """
    stored, geometry, source, warnings = parse(path, spacing_mm)
    return volume(stored, geometry, format="NIfTI", source=path.name, geometry_source=source, warnings=warnings)


def parse(path: Path, spacing_mm: Triple | None) -> tuple[StoredVoxels, Geometry, str, tuple[str, ...]]:
    """Where the voxels lie, their geometry, where that was found, and warnings; see `read`, which shows errors."""
    where = path.name
    data = head(path, 544)
    packed = data[:2] == b"\x1f\x8b"
    if packed:
        try:
            with gzip.open(path) as stream:
                data = stream.read(544)
        except (OSError, EOFError, zlib.error) as error:
            raise ExamReadError("the header cannot be unpacked", where=where, found=str(error)) from error
    header = _parse(data, where)
    geometry, source, warnings = resolve(header.shape, _stated(header, where), spacing_mm, where=where)
    offset, skip, encoding = (0, header.offset, "gzip") if packed else (header.offset, 0, "raw")
    stored = StoredVoxels(
        path, offset, encoding, header.dtype, header.shape, skip, slope=header.slope, intercept=header.intercept
    )
    return stored, geometry, source, warnings


@dataclass(frozen=True)
class _Header:
    """The fields in use; `shape` is (sweep, depth, lateral), the rest in the file's order."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    pixdim: tuple[float, ...]
    units: int
    qform_code: int
    sform_code: int
    quaternion: tuple[float, ...]
    sform: NDArray[np.float64]


def _parse(data: bytes, where: str) -> _Header:
    order, version = _order_and_version(data, where)

    def at(offset: int, kind: str) -> tuple:
        return struct.unpack_from(order + kind, data, offset)

    if version == 1:
        dim, (datatype,), pixdim = at(40, "8h"), at(70, "h"), at(76, "8f")
        offset, slope, intercept = at(108, "3f")
        (units,), (qform, sform) = at(123, "B"), at(252, "2h")
        quaternion, rows = at(256, "6f"), at(280, "12f")
    else:
        dim, (datatype,), pixdim = at(16, "8q"), at(12, "h"), at(104, "8d")
        (offset,), (slope, intercept) = at(168, "q"), at(176, "2d")
        (units,), (qform, sform) = at(500, "i"), at(344, "2i")
        quaternion, rows = at(352, "6d"), at(400, "12d")
    if not 3 <= dim[0] <= 7 or any(n != 1 for n in dim[4 : dim[0] + 1]):
        raise ExamReadError("not a volume", where=where, expected="3 dimensions", found=f"dim {list(dim)}")
    if datatype not in _TYPES:
        raise ExamReadError(
            "this NIfTI data type is not read", where=where, expected="grey integers or floats", found=datatype
        )
    if not 0 <= offset <= _MAX_OFFSET or offset < (352 if version == 1 else 544):
        raise ExamReadError("the voxels' offset is impossible", where=where, found=offset)
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        slope, intercept = 1.0, 0.0  # nifti1.h: a slope of 0 means no scaling
    return _Header(
        shape=(int(dim[3]), int(dim[2]), int(dim[1])),
        dtype=np.dtype(order + _TYPES[datatype]),
        offset=int(offset),
        slope=float(slope),
        intercept=float(intercept),
        pixdim=tuple(float(p) for p in pixdim),
        units=int(units) & 7,
        qform_code=int(qform),
        sform_code=int(sform),
        quaternion=tuple(float(q) for q in quaternion),
        sform=np.array([*rows, 0, 0, 0, 1], dtype=np.float64).reshape(4, 4),
    )


def _order_and_version(data: bytes, where: str) -> tuple[str, int]:
    for order in "<>":
        for version, size, magic_at, magics in ((1, 348, 344, (b"n+1\0",)), (2, 540, 4, (b"n+2\0",))):
            if len(data) >= size and struct.unpack_from(order + "i", data) == (size,):
                magic = data[magic_at : magic_at + 4]
                if magic in magics:
                    return order, version
                if magic in (b"ni1\0", b"ni2\0"):
                    raise ExamReadError(
                        "a NIfTI header without its voxels", where=where, remedy="convert the pair to one .nii file"
                    )
    raise ExamReadError("this is no NIfTI file", where=where, found=f"{len(data)} bytes of another kind")


def _stated(header: _Header, where: str) -> Stated:
    if header.units not in _MM:
        raise GeometryError("the header's unit of length is unknown", where=where, found=f"code {header.units}")
    scale = _MM[header.units]
    sizes = header.pixdim[1:4]
    if header.sform_code > 0:
        name, affine = "NIfTI sform", header.sform
    elif header.qform_code > 0:
        name, affine = "NIfTI qform", _qform(header)
    else:
        a, b, c = (s * scale for s in sizes)
        return Stated("NIfTI pixdim", (a, b, c) if any(sizes) else None)
    lps = _LPS_FROM_RAS @ affine
    return Stated(name, directions=lps[:3, :3] * scale, origin=lps[:3, 3] * scale)


def _qform(header: _Header) -> NDArray[np.float64]:
    """The affine of the quaternion (nifti1.h, method 2); pixdim[0] = -1 mirrors the third axis."""
    b, c, d, *shift = header.quaternion
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = header.pixdim[1:4]
    if not all(s > 0 for s in sizes):
        raise GeometryError("the header's pixdim is unusable", expected="positive sizes", found=f"{list(sizes)}")
    affine = np.eye(4)
    affine[:3, :3] = rotation * (*sizes[:2], -sizes[2] if header.pixdim[0] < 0 else sizes[2])
    affine[:3, 3] = shift
    return affine

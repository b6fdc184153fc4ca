"""MetaImage volumes, `.mha` and `.mhd` (itk.org/Wiki/ITK/MetaIO/Documentation).

Three axes, fastest first lateral, depth, sweep; plain or zlib-compressed. TransformMatrix and Offset are in LPS mm.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from scanside.errors import ExamReadError
from scanside.exam.readers.header import Stated, Triple, beside, counts, head, numbers, resolve
from scanside.exam.readers.stored import StoredVoxels, volume
from scanside.exam.volume import Volume

MAX_HEADER_BYTES = 1 << 16

_TYPES = {
    "MET_UCHAR": "u1",
    "MET_CHAR": "i1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read(path: Path, spacing_mm: Triple | None) -> Volume:
    """The volume of a MetaImage, pixels unread.

    Parameters
    ----------
    path : Path
        A `.mha`, or a `.mhd` whose data file lies beside it.
    spacing_mm : tuple of float, optional
        (sweep, depth, lateral), used only when the header states no usable spacing.

    Raises
    ------
    ExamReadError
        No MetaImage, not three axes, a type that is not read, or data that do not match the header.
    GeometryError
        No usable spacing.
    """
    where = path.name
    fields, offset = _fields(path)
    if _field(fields, "ndims", where) != "3" or fields.get("elementnumberofchannels", "1") != "1":
        raise ExamReadError("not a grey volume", where=where, expected="NDims = 3, one channel")
    shape = counts(_field(fields, "dimsize", where), where=where, field="DimSize")[::-1]
    kind = _field(fields, "elementtype", where)
    if kind not in _TYPES:
        raise ExamReadError("this ElementType is not read", where=where, expected=", ".join(_TYPES), found=kind[:40])
    big = fields.get("elementbyteordermsb", fields.get("binarydatabyteordermsb", "False")).lower() == "true"
    dtype = np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")
    if fields.get("binarydata", "True").lower() != "true":
        raise ExamReadError("MetaImage text data are not read", where=where, expected="BinaryData = True")
    geometry, source, warnings = resolve(shape, _stated(fields, where), spacing_mm, where=where)
    packed = fields.get("compresseddata", "False").lower() == "true"
    name = fields["elementdatafile"]
    data = path if name.upper() == "LOCAL" else beside(path, name)
    offset = offset if data is path else _header_size(fields, where, data, dtype.itemsize * math.prod(shape), packed)
    stored = StoredVoxels(data, offset, "zlib" if packed else "raw", dtype, shape)
    return volume(stored, geometry, format="MetaImage", source=where, geometry_source=source, warnings=warnings)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields by lower-case name; ElementDataFile is the last and the data, if local, begin behind it."""
    data = head(path, MAX_HEADER_BYTES)
    fields: dict[str, str] = {}
    at = 0
    while at < len(data) and "elementdatafile" not in fields:
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        name, equals, value = data[at:end].decode("latin-1").partition("=")
        if not equals:
            break
        fields[name.strip().lower()] = value.strip()
        at = end + 1
    if "elementdatafile" not in fields:
        raise ExamReadError("this is no MetaImage header", where=path.name, expected="fields up to ElementDataFile")
    return fields, at


def _field(fields: dict[str, str], name: str, where: str) -> str:
    if name not in fields:
        raise ExamReadError("a MetaImage field is missing", where=where, expected=name)
    return fields[name]


def _header_size(fields: dict[str, str], where: str, data: Path, n_bytes: int, packed: bool) -> int:
    text = fields.get("headersize", "0")
    if text == "-1" and not packed:
        return max(0, data.stat().st_size - n_bytes)
    if not text.isdigit():
        raise ExamReadError("this HeaderSize is not read", where=where, found=text[:40])
    return int(text)


def _stated(fields: dict[str, str], where: str) -> Stated:
    name = "elementspacing" if "elementspacing" in fields else "elementsize"
    if name not in fields:
        return Stated("none")
    a, b, c = numbers(fields[name], 3, where=where, field=name)
    matrix = next((fields[key] for key in ("transformmatrix", "rotation", "orientation") if key in fields), None)
    offset = next((fields[key] for key in ("offset", "position", "origin") if key in fields), None)
    label = f"MetaImage {'ElementSpacing' if name == 'elementspacing' else 'ElementSize'}"
    if matrix is None or offset is None or min(a, b, c) <= 0:
        return Stated(label, (a, b, c))
    # The file lists the direction of the first axis, then the second's and the third's.
    axes = np.array(numbers(matrix, 9, where=where, field="TransformMatrix")).reshape(3, 3).T
    origin = np.array(numbers(offset, 3, where=where, field="Offset"))
    return Stated(label, directions=axes * (a, b, c), origin=origin)

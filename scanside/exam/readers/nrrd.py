"""NRRD volumes, the form of the TDSC-ABUS challenge (format definition: teem.sourceforge.net/nrrd/format.html).

Attached (`.nrrd`) and detached (`.nhdr`) headers, raw, gzip and bzip2 data, three axes, fastest first lateral, depth,
sweep. `space directions` win over `spacings`; the orientation is known in the LPS, RAS and LAS spaces.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.geometry import Geometry
from scanside.exam.readers.header import Stated, Triple, beside, counts, head, numbers, resolve
from scanside.exam.readers.stored import StoredVoxels, volume
from scanside.exam.volume import Volume

MAX_HEADER_BYTES = 1 << 16

_TYPES = {
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    "float": "f4",
    "double": "f8",
}
_ENDIAN = {"little": "<", "big": ">"}
_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# LPS from the named space, by axis.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_MM = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "micron": 0.001}


def read(path: Path, spacing_mm: Triple | None) -> Volume:
    """The volume of an NRRD file, pixels unread.

    Parameters
    ----------
    path : Path
        A `.nrrd`, or a `.nhdr` whose data file lies beside it.
    spacing_mm : tuple of float, optional
        (sweep, depth, lateral), used only when the header states no usable spacing.

    Raises
    ------
    ExamReadError
        No NRRD, not three axes, a type or encoding that is not read, or data that do not match the header.
    GeometryError
        No usable spacing.
    """
    stored, geometry, source, warnings = parse(path, spacing_mm)
    return volume(stored, geometry, format="NRRD", source=path.name, geometry_source=source, warnings=warnings)


def parse(path: Path, spacing_mm: Triple | None) -> tuple[StoredVoxels, Geometry, str, tuple[str, ...]]:
    """Where the voxels lie, their geometry, where that was found, and warnings; see `read`, which shows errors."""
    where = path.name
    fields, offset = _fields(path)
    dimension = _field(fields, "dimension", where)
    if dimension != "3":
        raise ExamReadError("not a volume", where=where, expected="dimension: 3", found=f"dimension: {dimension[:80]}")
    sizes = counts(_field(fields, "sizes", where), where=where, field="sizes")
    shape = sizes[::-1]
    encoding = _one_of(_ENCODINGS, fields, "encoding", where)
    kind = _one_of(_TYPES, fields, "type", where)
    dtype = np.dtype(kind if kind.endswith("1") else _one_of(_ENDIAN, fields, "endian", where) + kind)
    geometry, source, warnings = resolve(shape, _stated(fields, where), spacing_mm, where=where)
    data, offset, skip = _block(path, fields, offset, encoding, dtype.itemsize * math.prod(shape))
    return StoredVoxels(data, offset, encoding, dtype, shape, skip), geometry, source, warnings


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields and where the data begin; a blank line ends the header."""
    data = head(path, MAX_HEADER_BYTES)
    if not re.match(rb"NRRD000[1-5]\r?\n", data):
        raise ExamReadError("this is no NRRD file", where=path.name, expected="NRRD0001 to NRRD0005", found=data[:8])
    end = re.search(rb"\n\r?\n", data)
    if end is None and (len(data) == MAX_HEADER_BYTES or path.suffix.lower() != ".nhdr"):
        raise ExamReadError("the NRRD header has no end", where=path.name, found=f"{len(data)} bytes")
    header = data if end is None else data[: end.start()]
    fields: dict[str, str] = {}
    for line in header.decode("latin-1").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[name.strip().lower()] = value.strip()
    return fields, len(data) if end is None else end.end()


def _field(fields: dict[str, str], name: str, where: str) -> str:
    if name not in fields:
        raise ExamReadError(f"the NRRD header has no field '{name}'", where=where)
    return fields[name]


def _one_of(known: dict[str, str], fields: dict[str, str], name: str, where: str) -> str:
    value = _field(fields, name, where).lower()
    if value not in known:
        expected = ", ".join(dict.fromkeys(known))
        raise ExamReadError(f"this NRRD {name} is not read", where=where, expected=expected, found=value[:80])
    return known[value]


def _block(path: Path, fields: dict[str, str], offset: int, encoding: str, n_bytes: int) -> tuple[Path, int, int]:
    """The file with the voxels, its bytes before them, and the unpacked bytes to skip."""
    name = fields.get("data file", fields.get("datafile"))
    data = path if name is None else beside(path, name)
    offset = offset if name is None else 0
    try:
        lines = int(fields.get("line skip", fields.get("lineskip", "0")))
        skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    except ValueError:
        raise ExamReadError("the header's skip is unreadable", where=path.name, expected="a whole number") from None
    if lines != 0 or not -1 <= skip <= sys.maxsize or (skip == -1 and encoding != "raw"):
        raise ExamReadError("this skip is not read", where=path.name, found=f"line skip {lines}, byte skip {skip}")
    if skip == -1:
        return data, max(0, data.stat().st_size - n_bytes), 0
    return (data, offset + skip, 0) if encoding == "raw" else (data, offset, skip)


def _stated(fields: dict[str, str], where: str) -> Stated:
    if "space directions" in fields:
        return _stated_in_space(fields, where)
    if "spacings" not in fields:
        return Stated("none")
    spacing = numbers(fields["spacings"], 3, where=where, field="spacings")
    units = re.findall(r'"([^"]*)"', fields.get("units", ""))
    scale = [_to_mm(unit, where) for unit in (units or [""] * 3)]
    if len(scale) != 3:
        raise GeometryError("the header field 'units' is unreadable", where=where, expected="3 units")
    if all(np.isnan(spacing)):  # the format's way to say that it does not know
        return Stated("none")
    a, b, c = (s * u for s, u in zip(spacing, scale, strict=True))
    return Stated("NRRD spacings", (a, b, c))


def _stated_in_space(fields: dict[str, str], where: str) -> Stated:
    vectors = re.findall(r"\(([^)]*)\)|(none)", fields["space directions"])
    if len(vectors) != 3 or any(none for _, none in vectors):
        raise GeometryError(
            "the header field 'space directions' is unreadable", where=where, expected="3 vectors of 3 numbers"
        )
    columns = [numbers(text, 3, where=where, field="space directions") for text, _ in vectors]
    units = re.findall(r'"([^"]*)"', fields.get("space units", "")) or [""] * 3
    if len(units) != 3:
        raise GeometryError("the header field 'space units' is unreadable", where=where, expected="3 units")
    to_mm = np.array([_to_mm(unit, where) for unit in units])
    signs = _SPACES.get(fields.get("space", "").lower())
    directions = np.array(columns).T * to_mm[:, None]
    if signs is None or "space origin" not in fields:
        return Stated("NRRD space directions", directions=directions)
    text = fields["space origin"].strip().strip("()")
    origin: NDArray = np.array(numbers(text, 3, where=where, field="space origin")) * to_mm * signs
    return Stated("NRRD space directions", directions=directions * np.array(signs)[:, None], origin=origin)


def _to_mm(unit: str, where: str) -> float:
    if unit in ("", "???"):
        return 1.0
    if unit.lower() not in _MM:
        raise GeometryError("the header's unit of length is unknown", where=where, expected="mm", found=unit[:20])
    return _MM[unit.lower()]

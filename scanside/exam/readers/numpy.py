"""NumPy arrays: `.npy` (voxels alone) and `.npz` (`voxels` and `spacing_mm`); never pickles.

The array is [sweep, depth, lateral], as everywhere in this package.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.readers.header import Stated, Triple, resolve
from scanside.exam.readers.stored import StoredVoxels, volume
from scanside.exam.volume import Volume

_BAD = (
    *(OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile),
    *(SyntaxError, TypeError, tokenize.TokenError, MemoryError),  # a damaged npy header, which is Python text
)
_SPACING_MEMBER_BYTES = 4096


def read(path: Path, spacing_mm: Triple | None) -> Volume:
    """The volume of a NumPy file, pixels unread.

    Parameters
    ----------
    path : Path
        A `.npy`, or a `.npz` with `voxels` and, as a rule, `spacing_mm` (sweep, depth, lateral).
    spacing_mm : tuple of float, optional
        (sweep, depth, lateral); needed for `.npy`, used for `.npz` only when the file states none.

    Raises
    ------
    ExamReadError
        No such file, not three axes of real numbers, Fortran order, or data that do not match the header.
    GeometryError
        No usable spacing.
    """
    where = path.name
    try:
        packed = zipfile.is_zipfile(path)
        array, spacing = _zipped(path) if packed else (_plain(path), None)
    except _BAD as error:
        raise ExamReadError(
            "this is no readable NumPy file", where=where, found=str(error)[:120] or type(error).__name__
        ) from error
    if len(array.shape) != 3 or array.dtype.kind not in "iuf":
        raise ExamReadError(
            "the array is no volume",
            where=where,
            expected="numbers [sweep, depth, lateral]",
            found=f"{array.dtype} {list(array.shape)}",
        )
    if array.fortran_order:
        raise ExamReadError(
            "the array is stored in Fortran order", where=where, remedy="save numpy.ascontiguousarray(array)"
        )
    stated = Stated("none") if spacing is None else Stated("spacing_mm in the file", spacing[::-1])
    geometry, source, warnings = resolve(array.shape, stated, spacing_mm, where=where)
    stored = StoredVoxels(
        path, array.offset, "zip" if packed else "raw", array.dtype, array.shape, member="voxels.npy" if packed else ""
    )
    return volume(stored, geometry, format="NumPy", source=where, geometry_source=source, warnings=warnings)


@dataclass(frozen=True)
class _Array:
    """What an npy header says, and how long it is."""

    shape: tuple
    fortran_order: bool
    dtype: np.dtype
    offset: int


def _array(file: IO[bytes]) -> _Array:
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"npy version {version}")
    shape, fortran_order, dtype = read_header(file)
    return _Array(shape, fortran_order, dtype, file.tell())


def _plain(path: Path) -> _Array:
    with open(path, "rb") as file:
        return _array(file)


def _zipped(path: Path) -> tuple[_Array, Triple | None]:
    with zipfile.ZipFile(path) as archive:
        with archive.open("voxels.npy") as file:
            array = _array(file)
        if archive.getinfo("voxels.npy").file_size != array.offset + math.prod(array.shape) * array.dtype.itemsize:
            raise ValueError("voxels.npy is not as long as its header says")
        if "spacing_mm.npy" not in archive.namelist():
            return array, None
        with archive.open("spacing_mm.npy") as file:
            stated = _array(file)
            data = file.read(_SPACING_MEMBER_BYTES)
    if stated.shape != (3,) or stated.dtype.kind not in "iuf" or len(data) != 3 * stated.dtype.itemsize:
        raise GeometryError("spacing_mm in the file is unreadable", where=path.name, expected="3 numbers")
    sweep, depth, lateral = np.frombuffer(data, stated.dtype).astype(float).tolist()
    return array, (sweep, depth, lateral)

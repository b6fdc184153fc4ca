"""Writing exams and masks: reproducible bytes, and never half a file under the final name.

The DICOM writers live in `scanside.exam.write_dicom` and are offered here too; they load pydicom only when asked for.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scanside.errors import OutputError, UsageError
from scanside.exam.geometry import Geometry

if TYPE_CHECKING:
    from scanside.exam.write_dicom import write_dicom, write_dicom_series, write_enhanced_us

__all__ = ["atomic_file", "write_dicom", "write_dicom_series", "write_enhanced_us", "write_nrrd", "write_nrrd_frames"]

_DICOM_WRITERS = ("write_dicom", "write_dicom_series", "write_enhanced_us")
_NRRD_TYPES = {"uint8": "uint8", "uint16": "uint16", "int16": "int16", "uint32": "uint32", "float32": "float"}


def __getattr__(name: str) -> object:
    if name in _DICOM_WRITERS:
        from scanside.exam import write_dicom as module

        return getattr(module, name)
    raise AttributeError(name)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new binary file that appears at `path` whole, on disk, or not at all (temporary file, fsync, rename).

    The file given can seek. When the block raises, nothing is left behind and what stood at `path` is untouched.

    Raises
    ------
    OutputError
        The file cannot be written: missing folder, no permission, full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            "the file cannot be written",
            where=path,
            found=error.strerror or type(error).__name__,
            remedy="check that the folder exists, is writable and has room",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raise now if `atomic_file(path)` would fail later, for work whose result would then be lost.

    Raises
    ------
    OutputError
        The folder is missing or cannot be written.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK) or path.is_dir():
        found = "a folder" if path.is_dir() else "no folder" if not folder.is_dir() else "a folder without permission"
        raise OutputError(
            "the file cannot be written",
            where=path,
            found=found,
            remedy="check that the folder exists, is writable and has room",
        )


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot sync a folder; the file itself is safe
        pass
    finally:
        os.close(handle)


def write_nrrd(path: str | os.PathLike[str], array: NDArray, geometry: Geometry, *, gzip: bool = True) -> Path:
    """Write a volume or mask as one attached NRRD (NRRD0005), axes fastest first lateral, depth, sweep.

    That is the order of the TDSC-ABUS files. With a known orientation the header states `space directions` and
    `space origin` in LPS; otherwise only `spacings`. The bytes depend on the arguments alone.

    Parameters
    ----------
    path : path
        Target file, replaced atomically.
    array : ndarray [sweep, depth, lateral]
        uint8, uint16, uint32, int16 or float32, of the geometry's shape. A memory map is streamed.
    geometry : Geometry
        Shape, spacing in mm and orientation.
    gzip : bool
        Compress the data.

    Raises
    ------
    UsageError
        The array's shape is not the geometry's, or its type has no place here.
    OutputError
        The file cannot be written.
    """
    array = np.asanyarray(array)
    if array.dtype.name not in _NRRD_TYPES or array.shape != geometry.shape:
        raise UsageError(
            "the array does not fit its geometry",
            where=Path(path).name,
            expected=f"{' or '.join(_NRRD_TYPES)} {list(geometry.shape)}",
            found=f"{array.dtype} {list(array.shape)}",
        )
    return write_nrrd_frames(path, array, array.dtype, geometry, gzip=gzip)


def write_nrrd_frames(
    path: str | os.PathLike[str], frames: Iterable[NDArray], dtype: DTypeLike, geometry: Geometry, *, gzip: bool = True
) -> Path:
    """As `write_nrrd`, from the frames (depth, lateral) in sweep order: no more than one needs to exist at a time.

    Raises
    ------
    UsageError
        A frame, their number or `dtype` does not fit the geometry.
    OutputError
        The file cannot be written.
    """
    path, dtype = Path(path), np.dtype(dtype)
    if dtype.name not in _NRRD_TYPES:
        raise UsageError("the type has no place in NRRD", expected=" or ".join(_NRRD_TYPES), found=dtype)
    header = _nrrd_header(_NRRD_TYPES[dtype.name], dtype.itemsize, geometry, "gzip" if gzip else "raw")
    with atomic_file(path) as file:
        file.write(header)
        _write_frames(file, frames, dtype, geometry, _packer() if gzip else None)
    return path


def _packer() -> zlib._Compress:
    """Gzip by run lengths and Huffman codes alone: twice as fast on speckle and no larger, on masks smaller."""
    return zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)


def _write_frames(
    file: BinaryIO, frames: Iterable[NDArray], dtype: np.dtype, geometry: Geometry, packer: zlib._Compress | None
) -> None:
    little, count = dtype.newbyteorder("<"), 0
    for frame in frames:
        if frame.shape != geometry.shape[1:]:
            raise UsageError("a frame does not fit the geometry", expected=list(geometry.shape), found=frame.shape)
        data = np.ascontiguousarray(frame, dtype=little).data
        file.write(data if packer is None else packer.compress(data))
        count += 1
    if count != geometry.shape[0]:
        raise UsageError("the frames do not fill the geometry", expected=geometry.shape[0], found=count)
    if packer is not None:
        file.write(packer.flush())


def _nrrd_header(kind: str, item_bytes: int, geometry: Geometry, encoding: str) -> bytes:
    sizes = geometry.shape[::-1]
    lines = ["NRRD0005", f"type: {kind}", "dimension: 3"]
    if geometry.patient_from_mm is not None:
        origin = geometry.patient_from_index((0, 0, 0))
        steps = geometry.patient_from_mm[:3, :3] * geometry.spacing_mm
        directions = " ".join(_vector(steps[:, axis]) for axis in (2, 1, 0))
        lines += ["space: left-posterior-superior", f"sizes: {sizes[0]} {sizes[1]} {sizes[2]}"]
        lines += [f"space directions: {directions}", f"space origin: {_vector(origin)}"]
    else:
        lines += [f"sizes: {sizes[0]} {sizes[1]} {sizes[2]}"]
        lines += ["spacings: " + " ".join(repr(s) for s in geometry.spacing_mm[::-1]), 'units: "mm" "mm" "mm"']
    lines += ["kinds: domain domain domain"]
    if item_bytes > 1:
        lines += ["endian: little"]
    lines += [f"encoding: {encoding}"]
    return ("\n".join(lines) + "\n\n").encode("ascii")


def _vector(values: NDArray) -> str:
    return "(" + ",".join(repr(float(v) + 0.0) for v in values) + ")"

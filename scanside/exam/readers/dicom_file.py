"""A DICOM file (PS3.10), its header read within bounds and its pixels found but not touched."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.filereader import read_partial

from scanside.errors import ExamReadError, ScansideError
from scanside.exam.readers.dicom_header import (
    DEFLATED,
    EXPLICIT_BIG,
    IMPLICIT_LITTLE,
    NATIVE,
    SYNTAX_NAMES,
    UNDEFINED,
    Header,
    shown,
    uid_name,
    wrapped,
)

MAX_FILE_BYTES = 4 << 30
MAX_HEADER_BYTES = 64 << 20
MAX_HEADER_READS = 1_000_000
MAX_ELEMENTS = 50_000
DEFER_BYTES = 8 << 20

_PIXEL_TAGS = {0x7FE00010, 0x7FE00009, 0x7FE00008}


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the value of PixelData lies: `length` is None when undefined (encapsulated)."""

    offset: int
    length: int | None
    vr: str


@dataclass(frozen=True, slots=True)
class DicomFile:
    """One DICOM file: its header, and where its pixels are."""

    path: Path
    where: str
    size: int
    syntax: str
    sop_class: str
    header: Header
    pixels: PixelElement | None

    @property
    def big_endian(self) -> bool:
        return self.syntax == EXPLICIT_BIG

    @property
    def native(self) -> bool:
        return self.syntax in NATIVE


def read_dicom_file(path: Path, where: str | None = None) -> DicomFile:
    """Read the header of a DICOM file; the pixels stay where they are.

    Parameters
    ----------
    path : Path
        A DICOM Part 10 file.
    where : str, optional
        How errors name the file; its path by default.

    Raises
    ------
    ExamReadError
        No DICOM file, one that is damaged or too large, or one whose encoding is not what it says.
    """
    where = where or str(path)
    try:
        with open(path, "rb") as file:
            return _read(file, path, where)
    except OSError as error:
        raise ExamReadError(
            "the file cannot be read", where=where, found=error.strerror or type(error).__name__
        ) from error


def _read(file: BinaryIO, path: Path, where: str) -> DicomFile:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise ExamReadError("the file is empty", where=where)
    if size > MAX_FILE_BYTES:
        raise ExamReadError(
            "the file is too large", where=where, expected=f"at most {MAX_FILE_BYTES} bytes", found=f"{size} bytes"
        )
    head = file.read(1 << 16)
    if head[128:132] != b"DICM":
        raise ExamReadError(
            "this is no DICOM file", where=where, expected="DICM at byte 128", found=shown(repr(head[128:132]))
        )
    meta, start = _file_meta(head, where)
    syntax = meta.get(0x0010, "")
    _check_syntax(syntax, where)
    if len(head) >= start + 6:
        _check_encoding(head[start + 4 : start + 6].isalpha(), syntax, where)
    file.seek(0)
    bounded = _BoundedFile(file, where)
    reached = False
    count = 0

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        nonlocal reached, count
        count += 1
        if count > MAX_ELEMENTS:
            raise ExamReadError("the header has too many elements", where=where, expected=f"at most {MAX_ELEMENTS}")
        reached = reached or int(tag) in _PIXEL_TAGS
        return reached

    try:
        dataset = read_partial(bounded, stop_when=at_pixels, defer_size=DEFER_BYTES)  # type: ignore[arg-type]
    except ScansideError:
        raise
    except (Exception, RecursionError) as error:
        raise wrapped(error, where, "the header") from error
    header = Header(dataset, where)
    pixels = _pixel_element(file, syntax, size, where) if reached else None
    sop_class = header.text("SOPClassUID") or meta.get(0x0002, "")
    return DicomFile(path, where, size, syntax, sop_class, header, pixels)


def _file_meta(head: bytes, where: str) -> tuple[dict[int, str], int]:
    """UIDs of the File Meta Information (PS3.10 7.1, always explicit little endian), and where the data set begins."""
    values: dict[int, str] = {}
    at = 132
    while at + 8 <= len(head):
        group, element, vr, length = struct.unpack_from("<HH2sH", head, at)
        if group != 2:
            break
        at += 8
        if vr in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            if at + 4 > len(head):
                break
            (length,) = struct.unpack_from("<I", head, at)
            at += 4
        if vr == b"UI":
            values[element] = head[at : at + length].decode("latin-1").strip("\0 ")
        at += length
    if not values.get(0x0010):
        raise ExamReadError(
            "the file does not state its transfer syntax",
            where=where,
            expected="TransferSyntaxUID (0002,0010)",
            found="none: damaged or cut short in its first bytes",
        )
    return values, at


def _check_syntax(syntax: str, where: str) -> None:
    if syntax == DEFLATED:
        raise ExamReadError(
            "deflated DICOM is refused: a small file may unpack to gigabytes",
            where=where,
            expected="a transfer syntax whose header is not compressed",
            found="Deflated Explicit VR Little Endian",
            remedy="convert it first, for example with dcmconv or gdcmconv",
        )
    if syntax not in SYNTAX_NAMES:
        raise ExamReadError(
            "this transfer syntax is not read",
            where=where,
            expected=f"one of {', '.join(SYNTAX_NAMES.values())}",
            found=uid_name(syntax),
        )


def _check_encoding(explicit: bool, syntax: str, where: str) -> None:
    if explicit == (syntax == IMPLICIT_LITTLE):
        raise ExamReadError(
            "the file is not encoded as its transfer syntax says",
            where=where,
            expected="implicit VR" if syntax == IMPLICIT_LITTLE else "explicit VR",
            found="explicit VR" if explicit else "implicit VR",
            remedy="the file was damaged or rewritten wrongly; export it again",
        )


def _pixel_element(file: BinaryIO, syntax: str, size: int, where: str) -> PixelElement:
    """The pixel element at the file's position, with its own encoding checked against the declared one."""
    start = file.tell()
    raw = file.read(12)
    if len(raw) < 12:
        raise ExamReadError(
            "the file is cut short", where=where, found=f"it ends at byte {size}, where PixelData begins"
        )
    order = ">" if syntax == EXPLICIT_BIG else "<"
    group, element = struct.unpack_from(order + "HH", raw)
    if (group, element) != (0x7FE0, 0x0010):
        raise ExamReadError("floating point pixel data are not read", where=where, expected="PixelData (7FE0,0010)")
    explicit = raw[4:6] in (b"OB", b"OW", b"UN")
    _check_encoding(explicit, syntax, where)
    if explicit:
        (length,) = struct.unpack_from(order + "I", raw, 8)
        offset, vr = start + 12, raw[4:6].decode()
    else:
        (length,) = struct.unpack_from(order + "I", raw, 4)
        offset, vr = start + 8, "OW"
    native, defined = syntax in NATIVE, length != UNDEFINED
    if native != defined:
        raise ExamReadError(
            "the pixel data are not stored as the transfer syntax says",
            where=where,
            expected="native data" if native else "encapsulated frames",
            found="encapsulated frames" if native else "native data",
            remedy="the transfer syntax in the header is wrong; export the exam again",
        )
    return PixelElement(offset, length if defined else None, vr)


class _BoundedFile:
    """A file that gives no more than a header's worth of bytes, in no more than a header's worth of reads."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where = file, where
        self._bytes, self._reads = 0, 0
        self.name = where
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        data = self._file.read(min(size, MAX_HEADER_BYTES + 1) if size >= 0 else MAX_HEADER_BYTES + 1)
        self._bytes += len(data)
        if self._bytes > MAX_HEADER_BYTES or self._reads > MAX_HEADER_READS:
            raise ExamReadError(
                "the header is too large", where=self._where, expected=f"at most {MAX_HEADER_BYTES >> 20} MiB"
            )
        return data

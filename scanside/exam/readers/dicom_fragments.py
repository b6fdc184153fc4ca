"""Where each frame lies in a DICOM file's pixel element, found without decoding and checked against the header."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import BinaryIO

from scanside.errors import ExamReadError
from scanside.exam.readers.dicom_codecs import RLE, FrameFormat
from scanside.exam.readers.dicom_file import DicomFile

Fragments = tuple[tuple[int, int], ...]
_MAX_FRAGMENTS_A_FRAME = 64


def native_frame_bytes(form: FrameFormat, file: DicomFile) -> int:
    pixels = form.rows * form.columns
    if form.photometric == "YBR_FULL_422" and file.native:
        if form.columns % 2 or form.planar:
            raise ExamReadError(
                "native YBR_FULL_422 needs an even number of Columns, colour by pixel", where=file.where
            )
        return pixels * 2
    size = pixels * form.samples * form.bits_allocated // 8
    if (
        file.native
        and file.big_endian
        and form.bits_allocated == 8
        and file.pixels
        and file.pixels.vr == "OW"
        and size % 2
    ):
        raise ExamReadError("8-bit frames of an odd size in big-endian words are not read", where=file.where)
    return size


def native_starts(file: DicomFile, total: int, count: int, frame_bytes: int) -> list[Fragments]:
    pixels = file.pixels
    assert pixels is not None
    assert pixels.length is not None
    if pixels.length != total + total % 2:
        raise ExamReadError(
            "the pixel data are not as large as the header says",
            where=file.where,
            expected=f"{total} bytes ({count} frame(s) of {frame_bytes})",
            found=f"{pixels.length} bytes",
            remedy="NumberOfFrames, Rows, Columns or BitsAllocated is wrong, or the export is incomplete",
        )
    if pixels.offset + pixels.length > file.size:
        raise ExamReadError(
            "the file is cut short in its pixel data",
            where=file.where,
            expected=f"{pixels.length} bytes of pixels",
            found=f"{file.size - pixels.offset} bytes",
            remedy="copy or export the file again",
        )
    return [((pixels.offset + k * frame_bytes, frame_bytes),) for k in range(count)]


def encapsulated_starts(stream: BinaryIO, file: DicomFile, count: int) -> list[Fragments]:
    """Where the fragments of every frame lie (PS3.5 A.4), from the offset tables or, without one, one each."""
    assert file.pixels is not None
    table, fragments = _fragments(stream, file, count)
    extended = _extended_table(file)
    heads = [offset - 8 for offset, _ in fragments]
    first = heads[0] if heads else 0
    if extended is not None:
        table, name = extended, "ExtendedOffsetTable"
    else:
        name = "the basic offset table"
    if not table:
        if len(fragments) != count:
            raise ExamReadError(
                "the pixel data hold another number of frames than the header says",
                where=file.where,
                expected=f"{count} frame(s)",
                found=f"{len(fragments)} fragment(s) without an offset table",
            )
        return [(fragment,) for fragment in fragments]
    if len(table) != count:
        raise ExamReadError(
            "the pixel data hold another number of frames than the header says",
            where=file.where,
            expected=f"{count} frame(s)",
            found=f"{len(table)} in {name}",
        )
    index = {head - first: i for i, head in enumerate(heads)}
    begins = [index.get(offset, -1) for offset in table]
    if begins[0] != 0 or any(a >= b for a, b in pairwise(begins)):
        raise ExamReadError(f"{name} does not point at the frames", where=file.where, remedy="export the exam again")
    ends = [*begins[1:], len(fragments)]
    frames = [tuple(fragments[a:b]) for a, b in zip(begins, ends, strict=True)]
    if file.syntax == RLE and any(len(frame) != 1 for frame in frames):
        raise ExamReadError("an RLE frame spans several fragments", where=file.where, expected="one a frame")
    return frames


def _extended_table(file: DicomFile) -> list[int] | None:
    """Offsets of ExtendedOffsetTable (PS3.3 C.7.6.3.1.8), or None."""
    raw = file.header.raw_bytes("ExtendedOffsetTable")
    if not raw:
        return None
    if len(raw) % 8:
        raise ExamReadError("ExtendedOffsetTable is damaged", where=file.where, found=f"{len(raw)} bytes")
    return list(struct.unpack(f"<{len(raw) // 8}Q", raw))


def _fragments(stream: BinaryIO, file: DicomFile, count: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The basic offset table, and (offset, length) of every fragment up to the closing delimiter."""
    assert file.pixels is not None
    at = file.pixels.offset
    table: list[int] | None = None
    fragments: list[tuple[int, int]] = []
    while True:
        stream.seek(at)
        raw = stream.read(8)
        if len(raw) < 8:
            raise _cut_short(file, f"it ends at byte {file.size}, after {len(fragments)} fragment(s)")
        group, element, length = struct.unpack("<HHI", raw)
        at += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            if table is None:
                raise _cut_short(file, "no frame at all")
            return table, fragments
        if (group, element) != (0xFFFE, 0xE000):
            raise ExamReadError(
                "the pixel data are damaged",
                where=file.where,
                expected="an item (FFFE,E000)",
                found=f"({group:04X},{element:04X}) of {length} bytes at byte {at - 8}",
            )
        if at + length > file.size:
            raise _cut_short(
                file, f"fragment {len(fragments) + 1} of {length} bytes begins at byte {at} of {file.size}"
            )
        if table is None:
            if length % 4 or length > 4 * (count + 1_000):
                raise ExamReadError("the basic offset table is damaged", where=file.where, found=f"{length} bytes")
            table = list(struct.unpack(f"<{length // 4}I", stream.read(length)))
        else:
            fragments.append((at, length))
            if len(fragments) > _MAX_FRAGMENTS_A_FRAME * count + 1:
                raise ExamReadError(
                    "the pixel data hold another number of frames than the header says",
                    where=file.where,
                    expected=f"{count} frame(s)",
                    found=f"more than {len(fragments) - 1} fragments",
                )
        at += length


def _cut_short(file: DicomFile, found: str) -> ExamReadError:
    return ExamReadError(
        "the file is cut short in its pixel data",
        where=file.where,
        expected="frames up to a closing delimiter",
        found=found,
        remedy="copy or export the file again",
    )

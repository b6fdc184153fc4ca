"""From a DICOM file's pixel element to grey frames: sizes checked before anything is allocated, frames read one by one.

Every frame is opened, read and decoded alone, so any thread may ask for any frame and no file stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError
from scanside.exam.readers.dicom_codecs import (
    JPEG_DCT,
    LOSSY,
    Decoded,
    FrameFormat,
    check_stream,
    decode,
    luma,
    require_decoder,
)
from scanside.exam.readers.dicom_file import DicomFile
from scanside.exam.readers.dicom_fragments import encapsulated_starts, native_frame_bytes, native_starts
from scanside.exam.readers.dicom_header import Header
from scanside.exam.readers.intensity import Window, choose_window
from scanside.exam.volume import Voxels

MAX_PIXEL_BYTES = 4 << 30
WINDOW_SAMPLE_FRAMES = 9
_LOSSY_CHROMA = 8
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


class PixelData:
    """The frames of one file as stored: `form` says what they are, `decoded` gives one."""

    def __init__(self, file: DicomFile) -> None:
        """Check the whole pixel element against the header; see `pixel_data`."""
        self.path, self.where, self.syntax = file.path, file.where, file.syntax
        self.form = _frame_format(file.header)
        self.count = frame_count(file.header)
        self._native, self._big_endian = file.native, file.big_endian
        if file.pixels is None:
            raise ExamReadError(
                "the file has no pixel data",
                where=file.where,
                found="an end before PixelData (7FE0,0010)",
                remedy="the file was probably cut short; copy or export it again",
            )
        self._swapped = file.big_endian and file.pixels.vr == "OW" and self.form.bits_allocated == 8
        self._frame_bytes = native_frame_bytes(self.form, file)
        total = self._frame_bytes * self.count
        if total > MAX_PIXEL_BYTES:
            raise ExamReadError(
                "the header declares more pixels than this package takes",
                where=file.where,
                expected=f"at most {MAX_PIXEL_BYTES} bytes",
                found=f"{self.count} frames of {self.form.rows} x {self.form.columns}, {total} bytes",
                remedy="NumberOfFrames, Rows or Columns may be damaged",
            )
        if file.pixels.length is not None:
            self._starts = native_starts(file, total, self.count, self._frame_bytes)
            return
        require_decoder(self.syntax)
        with open(self.path, "rb") as stream:
            self._starts = encapsulated_starts(stream, file, self.count)
        try:
            check_stream(self._bytes(0), self.syntax, self.form)
        except ExamReadError as error:
            raise self._named(error, 0) from error

    def read_grey8(self, k: int, out: Voxels) -> bool:
        """Read a native 8-bit grey frame straight into `out`; False when this file's frames are of another kind."""
        if not self._native or self._swapped or self.form.samples != 1 or self.form.bits_allocated != 8:
            return False
        if not out.flags.c_contiguous:
            return False
        offset, length = self._starts[k][0]
        try:
            with open(self.path, "rb", buffering=0) as stream:
                stream.seek(offset)
                view = out.data.cast("B")
                done = 0
                while done < length:
                    step = stream.readinto(view[done:])
                    if not step:
                        raise self._named(ExamReadError("the file has become shorter"), k)
                    done += step
        except OSError as error:
            raise self._named(ExamReadError("the file cannot be read", found=error.strerror), k) from error
        return True

    def decoded(self, k: int) -> Decoded:
        """Frame `k`, as stored."""
        try:
            data = self._bytes(k)
            return self._from_native(data) if self._native else decode(data, self.syntax, self.form)
        except ExamReadError as error:
            raise self._named(error, k) from error

    def grey(self, k: int) -> NDArray:
        """Frame `k` as grey values of `form.dtype`.

        Raises
        ------
        ExamReadError
            The frame cannot be decoded, or holds colour.
        """
        frame = self.decoded(k)
        if frame.space == "grey":
            return frame.values
        first, second, third = cv2.split(np.ascontiguousarray(frame.values))
        if frame.space == "ybr":
            off = max(cv2.norm(c, np.full_like(c, 128), cv2.NORM_INF) for c in (second, third))
        else:
            off = max(cv2.norm(second, first, cv2.NORM_INF), cv2.norm(second, third, cv2.NORM_INF))
        if off == 0:
            return first
        if off > (_LOSSY_CHROMA if self.syntax in LOSSY else 0):
            raise self._named(
                ExamReadError(
                    "the frame holds colour",
                    expected="a grey frame (red = green = blue)",
                    found=f"channels that differ by {off:.0f}",
                    remedy="colour Doppler, elastography and coloured overlays are not read; export the plain B-mode",
                ),
                k,
            )
        if frame.space == "ybr":
            return first
        return luma(self._bytes(k)) if self.syntax in JPEG_DCT else second

    def _bytes(self, k: int) -> bytes:
        try:
            with open(self.path, "rb") as stream:
                pieces = []
                for offset, length in self._starts[k]:
                    stream.seek(offset)
                    pieces.append(stream.read(length))
        except OSError as error:
            raise ExamReadError("the file cannot be read", found=error.strerror) from error
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(data) != sum(length for _, length in self._starts[k]):
            raise ExamReadError("the file has become shorter")
        return data

    def _from_native(self, data: bytes) -> Decoded:
        form = self.form
        values = np.frombuffer(data, np.uint8)
        if self._swapped:
            values = values.reshape(-1, 2)[:, ::-1].reshape(-1)
        if form.bits_allocated == 16:
            values = values.view(">u2" if self._big_endian else "<u2")
        if form.samples == 1:
            return Decoded(values.reshape(form.shape), "grey")
        if form.photometric == "YBR_FULL_422":
            pairs = values.reshape(form.rows, form.columns // 2, 4)
            colour = np.empty(form.shape, np.uint8)
            colour[:, ::2, 0], colour[:, 1::2, 0] = pairs[..., 0], pairs[..., 1]
            colour[..., 1] = np.repeat(pairs[..., 2], 2, axis=1)
            colour[..., 2] = np.repeat(pairs[..., 3], 2, axis=1)
            return Decoded(colour, "ybr")
        if form.planar == 1:
            values = np.moveaxis(values.reshape(3, form.rows, form.columns), 0, 2)
        return Decoded(values.reshape(form.shape), "ybr" if form.photometric == "YBR_FULL" else "rgb")

    def _named(self, error: ExamReadError, k: int) -> ExamReadError:
        where = f"{self.where}, frame {k + 1}" if self.count > 1 else self.where
        return ExamReadError(error.what, where=where, expected=error.expected, found=error.found, remedy=error.remedy)


@dataclass(frozen=True)
class GreyMap:
    """How stored values become the 8 bits of a volume; `table` is None when they already are."""

    table: NDArray[np.uint8] | None
    warnings: tuple[str, ...] = ()

    def __call__(self, values: NDArray, out: Voxels) -> None:
        """Map the stored `values` of a frame into `out`."""
        if self.table is None:
            out[...] = values
        else:
            out[...] = self.table[values & (len(self.table) - 1)]


class DicomFrames:
    """The frames of a volume, taken from one file or from many, in sweep order."""

    def __init__(self, places: Sequence[tuple[PixelData, int]], grey: GreyMap) -> None:
        self._places, self._grey = tuple(places), grey

    def read(self, k: int, out: Voxels) -> None:
        """Decode frame `k` into `out`, uint8 (depth, lateral)."""
        pixels, index = self._places[k]
        if self._grey.table is None and pixels.read_grey8(index, out):
            return
        self._grey(pixels.grey(index), out)


def frame_count(header: Header) -> int:
    """NumberOfFrames, 1 when the element is absent.

    Raises
    ------
    ExamReadError
        The element is there but empty, unreadable or less than 1.
    """
    count = header.integer("NumberOfFrames")
    if count is None and "NumberOfFrames" not in header:
        return 1
    if count is None or count < 1:
        raise ExamReadError(
            "NumberOfFrames is unusable",
            where=header.where,
            expected="1 or more",
            found="empty" if count is None else count,
        )
    return count


def grey_map(places: Sequence[tuple[PixelData, int]], header: Header) -> GreyMap:
    """The one map from stored values to 8 bits that serves all frames of a volume.

    8-bit values are kept (MONOCHROME1 inverted). Deeper ones go through the window in the header (PS3.3 C.11.2.1.2),
    or else one chosen from a sample of evenly spread frames.
    """
    form = places[0][0].form
    inverted = form.photometric == "MONOCHROME1"
    warnings = ("MONOCHROME1: the grey values were inverted",) if inverted else ()
    if form.bits_allocated == 8:
        return GreyMap(np.arange(255, -1, -1, dtype=np.uint8) if inverted else None, warnings)
    values = np.arange(1 << form.bits_stored, dtype=np.int64)
    if form.signed:
        values[values >= 1 << (form.bits_stored - 1)] -= 1 << form.bits_stored
    window = _stated_window(header)
    depth = f"{form.bits_stored}-bit values"
    if window is not None:
        text = f"{depth} windowed to 8 bits by the header's window: {window.low:g} to {window.high:g} became 0 to 255"
    else:
        step = max(1, (len(places) - 1) // (WINDOW_SAMPLE_FRAMES - 1))
        sample = [values[pixels.grey(k) & (len(values) - 1)].astype(np.int32) for pixels, k in places[::step]]
        window = choose_window(sample, sum(frame.size for frame in sample), where=header.where)
        text = window.warning(f"{form.bits_stored}-bit")
    table = window.to_uint8(values)
    return GreyMap(255 - table if inverted else table, (*warnings, text))


def _stated_window(header: Header) -> Window | None:
    """The first linear window of the header, in stored values (rescale undone)."""
    sources = [header]
    shared = header.first("SharedFunctionalGroupsSequence")
    if shared is not None:
        sources += [*shared.items("FrameVOILUTSequence"), *shared.items("PixelValueTransformationSequence")]
    stated: dict[str, float] = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
    for source in sources:
        for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
            text = source.text(keyword).split("\\")[0]
            try:
                stated[keyword] = float(text)
            except ValueError:
                continue
        if source.code("VOILUTFunction") == "SIGMOID":
            return None
    centre, width = stated.get("WindowCenter", np.nan), stated.get("WindowWidth", np.nan)
    slope, intercept = stated["RescaleSlope"], stated["RescaleIntercept"]
    if not np.isfinite([centre, width, slope, intercept]).all() or width <= 1 or slope <= 0:
        return None
    low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return Window((low - intercept) / slope, (high - intercept) / slope)


def _frame_format(header: Header) -> FrameFormat:
    """The image pixel module (PS3.3 C.7.6.3), refused where it contradicts itself or is not read here."""

    def number(keyword: str, *allowed: int, default: int | None = None) -> int:
        value = header.integer(keyword)
        value = default if value is None else value
        if value is None or (allowed and value not in allowed) or value < 0:
            expected = " or ".join(map(str, allowed)) or "1 to 65535"
            found = "none" if value is None else value
            raise ExamReadError(f"{keyword} is unusable", where=header.where, expected=expected, found=found)
        return value

    rows, columns = number("Rows"), number("Columns")
    if min(rows, columns) < 1:
        raise ExamReadError(
            "Rows or Columns is unusable", where=header.where, expected="1 to 65535", found=f"{rows} x {columns}"
        )
    samples = number("SamplesPerPixel", 1, 3)
    allocated = number("BitsAllocated", 8) if samples == 3 else number("BitsAllocated", 8, 16)
    stored = number("BitsStored", *([8] if allocated == 8 else range(9, 17)))
    number("HighBit", stored - 1, default=stored - 1)
    signed = bool(number("PixelRepresentation", *([0] if allocated == 8 else [0, 1]), default=0))
    photometric = header.code("PhotometricInterpretation")
    known = _MONOCHROME if samples == 1 else _COLOUR
    if photometric not in known:
        raise ExamReadError(
            "PhotometricInterpretation is not read",
            where=header.where,
            expected=f"{' or '.join(known)} with {samples} sample(s) a pixel",
            found=photometric[:32] or "none",
        )
    planar = number("PlanarConfiguration", 0, 1) if samples == 3 else 0
    return FrameFormat(rows, columns, samples, allocated, stored, signed, photometric, planar)

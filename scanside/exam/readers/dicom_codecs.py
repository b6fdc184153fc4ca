"""Decoding one frame of a DICOM transfer syntax (PS3.5 8.2, A.4), its code stream checked before it is unpacked.

OpenCV decodes what it can: it lets other threads run meanwhile. The rest goes to pyjpegls, OpenJPEG and, in a process
of its own, GDCM.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError
from scanside.exam.readers.dicom_header import SYNTAX_NAMES

RLE = "1.2.840.10008.1.2.5"
JPEG_DCT = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
LOSSY = frozenset({*JPEG_DCT, "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"})

_JPEG_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_END_SLACK = 16


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What the header promises of every frame."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    planar: int

    @property
    def dtype(self) -> np.dtype:
        """Native byte order, unsigned: signed values are told apart by `signed`."""
        return np.dtype(np.uint8 if self.bits_allocated == 8 else np.uint16)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded frame, colour by pixel."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, 3)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame of `FrameFormat.shape`. `space` is "grey", "rgb" (or bgr: only grey is kept) or "ybr" (luma first)."""

    values: NDArray
    space: str


def decode(data: bytes, syntax: str, form: FrameFormat) -> Decoded:
    """One encapsulated frame.

    Raises
    ------
    ExamReadError
        The code stream is cut short, damaged, not what the header promises, or its decoder is not installed.
    """
    check_stream(data, syntax, form)
    for family, decoder in _DECODERS:
        if syntax in family:
            decoded = decoder(data, syntax, form)
            break
    if decoded.values.shape != form.shape:
        raise ExamReadError(
            "a frame decodes to another size", expected=list(form.shape), found=list(decoded.values.shape)
        )
    return decoded


def require_decoder(syntax: str) -> None:
    """Raise an `ExamReadError` that names the package to install when `syntax` cannot be decoded here."""
    for family, module, package in (
        (JPEG_LOSSLESS, "gdcm", "python-gdcm"),
        (JPEG_LS, "jpeg_ls", "pyjpegls"),
        (JPEG_2000, "openjpeg", "pylibjpeg-openjpeg"),
    ):
        if syntax in family:
            _module(module, package, syntax)


def check_stream(data: bytes, syntax: str, form: FrameFormat) -> None:
    """Compare a code stream's own header with the DICOM header, and look for its end, without decoding it."""
    if syntax == RLE:
        _rle_offsets(data, form)
        return
    found = _jpeg2000_size(data) if syntax in JPEG_2000 else _jpeg_size(data, syntax)
    expected = (form.rows, form.columns, form.samples)
    if found[:3] != expected:
        raise ExamReadError(
            "a frame's code stream is not what the header says",
            expected=f"{expected[0]} x {expected[1]}, {expected[2]} component(s)",
            found=f"{found[0]} x {found[1]}, {found[2]} component(s)",
        )
    if found[3] > form.bits_stored or (found[3] <= 8) != (form.bits_allocated == 8):
        raise ExamReadError(
            "a frame's code stream is not what the header says",
            expected=f"{form.bits_stored} bits a sample",
            found=f"{found[3]} bits",
        )
    if data.rfind(b"\xff\xd9", max(0, len(data) - _END_SLACK)) < 0:
        raise ExamReadError("a frame is cut short", expected="an end marker", found=f"none in its {len(data)} bytes")


def _jpeg_size(data: bytes, syntax: str) -> tuple[int, int, int, int]:
    """(rows, columns, components, precision) of a JPEG or JPEG-LS stream (ITU-T T.81 B.2, T.87 C.2)."""
    name = SYNTAX_NAMES[syntax]
    if data[:2] != b"\xff\xd8":
        raise ExamReadError(f"a frame is no {name} stream", expected="FFD8", found=data[:2].hex().upper() or "nothing")
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _JPEG_FRAME_MARKERS:
            allowed = {0xF7} if syntax in JPEG_LS else {0xC3} if syntax in JPEG_LOSSLESS else {0xC0, 0xC1}
            if marker not in allowed:
                raise ExamReadError(f"a frame is no {name} stream", found=f"JPEG process {marker:02X}")
            if at + 10 > len(data):
                break
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, at + 4)
            return rows, columns, components, precision
        if marker in (0xD9, 0xDA):
            break
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise ExamReadError("a frame is cut short or damaged", expected=f"a {name} frame header", found="none")


def _jpeg2000_size(data: bytes) -> tuple[int, int, int, int]:
    """(rows, columns, components, precision) of a JPEG 2000 code stream (ITU-T T.800 A.5.1)."""
    if data[:4] != b"\xff\x4f\xff\x51" or len(data) < 42:
        raise ExamReadError("a frame is no JPEG 2000 code stream", expected="FF4FFF51", found=data[:4].hex().upper())
    x1, y1, x0, y0 = struct.unpack_from(">IIII", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    depths = {data[42 + 3 * c] for c in range(components)} if len(data) >= 42 + 3 * components else set()
    if len(depths) != 1:
        raise ExamReadError("a frame's JPEG 2000 header is damaged", found=f"{components} components")
    return y1 - y0, x1 - x0, components, (depths.pop() & 0x7F) + 1


def _rle_offsets(data: bytes, form: FrameFormat) -> list[int]:
    """Where the segments of an RLE frame begin, and its end (PS3.5 annex G)."""
    expected = form.samples * form.bits_allocated // 8
    if len(data) < 64:
        raise ExamReadError("a frame is cut short", expected="an RLE header of 64 bytes", found=f"{len(data)} bytes")
    count, *offsets = struct.unpack_from("<16I", data)
    if count != expected:
        raise ExamReadError(
            "a frame's RLE stream is not what the header says", expected=f"{expected} segment(s)", found=count
        )
    bounds = [*offsets[:count], len(data)]
    if bounds[0] != 64 or any(a >= b for a, b in pairwise(bounds)):
        raise ExamReadError("a frame's RLE header is damaged", found=f"segment offsets {bounds[:-1]}")
    return bounds


def _decode_rle(data: bytes, syntax: str, form: FrameFormat) -> Decoded:
    bounds = _rle_offsets(data, form)
    count = form.rows * form.columns
    planes = [
        np.frombuffer(unpack_bits(data[a:b], count), np.uint8).reshape(form.rows, form.columns)
        for a, b in pairwise(bounds)
    ]
    if form.samples == 1 and form.bits_allocated == 8:
        return Decoded(planes[0], "grey")
    if form.samples == 1:
        return Decoded((planes[0].astype(np.uint16) << 8) | planes[1], "grey")
    return Decoded(np.stack(planes, axis=-1), _space(form))


def unpack_bits(data: bytes, count: int) -> bytearray:
    """`count` bytes of one RLE segment (PS3.5 G.3.2).

    Raises
    ------
    ExamReadError
        The segment holds fewer or more.
    """
    out = bytearray()
    at, end = 0, len(data)
    while len(out) < count and at < end:
        head = data[at]
        if head < 128:
            out += data[at + 1 : at + 2 + head]
            at += head + 2
        elif head > 128:
            out += data[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    if len(out) != count or at > end or end - at > _END_SLACK:
        raise ExamReadError("a frame is cut short or damaged", expected=f"{count} bytes of RLE data", found=len(out))
    return out


def _decode_jpeg(data: bytes, syntax: str, form: FrameFormat) -> Decoded:
    """Grey at once; colour whole, so that the caller sees every pixel's chroma and not only its luma."""
    if form.samples == 1:
        return Decoded(_by_opencv(data, cv2.IMREAD_GRAYSCALE), "grey")
    return Decoded(_by_opencv(data, cv2.IMREAD_COLOR), "rgb")


def luma(data: bytes) -> NDArray[np.uint8]:
    """The luma of a colour JPEG frame, chroma left alone."""
    return _by_opencv(data, cv2.IMREAD_GRAYSCALE)


def _by_opencv(data: bytes, mode: int) -> NDArray:
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ExamReadError("a frame cannot be decoded", found=f"a damaged JPEG stream ({error.code})") from error
    if values is None:
        raise ExamReadError("a frame cannot be decoded", found="a damaged JPEG stream")
    return values


def _decode_jpeg_lossless(data: bytes, syntax: str, form: FrameFormat) -> Decoded:
    if form.samples == 1 and form.bits_allocated == 8 and _opencv_reads_jpeg_lossless():
        return Decoded(_by_opencv(data, cv2.IMREAD_GRAYSCALE), "grey")
    from scanside.exam.readers.dicom_gdcm import decode_by_gdcm

    size = form.rows * form.columns * form.samples * form.dtype.itemsize
    samples = decode_by_gdcm(data, _decoder_options(syntax, form), size)
    values = np.frombuffer(samples, form.dtype.newbyteorder("<")).reshape(form.shape)
    return Decoded(values, "grey" if form.samples == 1 else _space(form))


@cache
def _opencv_reads_jpeg_lossless() -> bool:
    """Whether this OpenCV (with libjpeg-turbo 3) decodes JPEG Lossless; asked with an image of one grey pixel."""
    frame = bytes.fromhex("FFD8FFC3000B080001000101011100FFC40014000100000000000000000000000000000000")
    scan = bytes.fromhex("FFDA0008010100010000" + "7F" + "FFD9")
    found = cv2.imdecode(np.frombuffer(frame + scan, np.uint8), cv2.IMREAD_GRAYSCALE)
    return found is not None and found.shape == (1, 1) and int(found[0, 0]) == 128


def _decode_jpeg_ls(data: bytes, syntax: str, form: FrameFormat) -> Decoded:
    module = _module("jpeg_ls", "pyjpegls", syntax)
    if form.samples == 3:
        return _by_pyjpegls(data, syntax, form)
    values, _ = _guarded(lambda: module.decode_pixel_data(data))
    return Decoded(_shaped(values, form), "grey")


def _decode_jpeg2000(data: bytes, syntax: str, form: FrameFormat) -> Decoded:
    precision = _jpeg2000_size(data)[3]
    if form.samples == 1 and form.bits_allocated == 8 and precision == 8:
        boxed = np.frombuffer(_grey_jp2(data, form), np.uint8)
        grey = cv2.imdecode(boxed, cv2.IMREAD_UNCHANGED)
        if grey is not None and grey.dtype == np.uint8 and grey.ndim == 2:
            return Decoded(grey, "grey")
    module = _module("openjpeg", "pylibjpeg-openjpeg", syntax)
    values: NDArray = _guarded(lambda: module.decode(bytes(data)))
    return Decoded(
        values.astype(form.dtype, copy=False),
        "grey" if form.samples == 1 else "ybr" if form.photometric == "YBR_FULL" else "rgb",
    )


def _grey_jp2(data: bytes, form: FrameFormat) -> bytes:
    """A bare code stream in JP2 boxes that call it grey (ITU-T T.800 annex I): bare, OpenCV warns of every frame."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    size = box(b"ihdr", struct.pack(">IIHBBBB", form.rows, form.columns, 1, 7, 7, 0, 0))
    colour = box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17))
    return b"".join(
        (
            box(b"jP  ", b"\r\n\x87\n"),
            box(b"ftyp", b"jp2 \0\0\0\0jp2 "),
            box(b"jp2h", size + colour),
            box(b"jp2c", data),
        )
    )


def _by_pyjpegls(data: bytes, syntax: str, form: FrameFormat) -> Decoded:
    """Colour JPEG-LS: pydicom knows how its interleaves lie."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    source = encapsulate([data])
    options = _decoder_options(syntax, form) | {"transfer_syntax_uid": UID(syntax), "decoding_plugin": "pyjpegls"}
    values, _ = _guarded(lambda: get_decoder(syntax).as_array(source, index=0, raw=True, **options))
    return Decoded(values, _space(form))


def _decoder_options(syntax: str, form: FrameFormat) -> dict[str, Any]:
    """What pydicom's decoders want to know of a frame that comes without its data set."""
    return {
        "transfer_syntax_uid": syntax,
        "rows": form.rows,
        "columns": form.columns,
        "samples_per_pixel": form.samples,
        "planar_configuration": form.planar,
        "number_of_frames": 1,
        "bits_allocated": form.bits_allocated,
        "bits_stored": form.bits_stored,
        "pixel_representation": 0,
        "photometric_interpretation": form.photometric,
        "pixel_keyword": "PixelData",
    }


def _guarded(call: Callable[[], Any]) -> Any:
    """What `call` gives; whatever a decoder raises becomes an `ExamReadError`."""
    try:
        return call()
    except ExamReadError:
        raise
    except Exception as error:
        raise ExamReadError("a frame cannot be decoded", found=f"a damaged stream ({type(error).__name__})") from error


def _shaped(values: bytes | bytearray, form: FrameFormat) -> NDArray:
    size = form.rows * form.columns * form.dtype.itemsize
    if len(values) != size:
        raise ExamReadError("a frame decodes to another size", expected=f"{size} bytes", found=len(values))
    return np.frombuffer(values, form.dtype.newbyteorder("<")).reshape(form.shape)


def _space(form: FrameFormat) -> str:
    return "ybr" if form.photometric.startswith("YBR_FULL") else "rgb"


def _module(name: str, package: str, syntax: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExamReadError(
            f"{SYNTAX_NAMES[syntax]} needs a decoder that is not installed",
            expected=package,
            remedy=f"install it: pip install {package}",
        ) from error


_DECODERS: tuple[tuple[frozenset[str], Callable[[bytes, str, FrameFormat], Decoded]], ...] = (
    (frozenset({RLE}), _decode_rle),
    (JPEG_DCT, _decode_jpeg),
    (JPEG_LOSSLESS, _decode_jpeg_lossless),
    (JPEG_LS, _decode_jpeg_ls),
    (JPEG_2000, _decode_jpeg2000),
)

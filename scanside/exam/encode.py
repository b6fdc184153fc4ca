"""One frame of pixels as a DICOM transfer syntax stores it (PS3.5 A.4 and 8.2)."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import get_encoder
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from scanside.errors import UsageError

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
LOSSY = {JPEGBaseline8Bit: "ISO_10918_1", JPEG2000: "ISO_15444_1"}
ENCAPSULATED = (RLELossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, JPEG2000)
J2K_PSNR_DB = 44.0


def encode_frame(frame: NDArray[np.uint8], syntax: UID, photometric: str, quality: int) -> bytes:
    """The bytes of one frame, uint8 (depth, lateral) grey or (depth, lateral, 3) RGB.

    Grey frames written with a colour photometric interpretation get equal channels, as scanners do.

    Raises
    ------
    UsageError
        The syntax cannot carry this photometric interpretation, or is none this package writes.
    """
    if photometric == "MONOCHROME2":
        if frame.ndim != 2:
            raise UsageError("colour frames cannot be MONOCHROME2", found=f"shape {list(frame.shape)}")
        pixels = np.ascontiguousarray(frame)
    else:
        pixels = np.ascontiguousarray(
            np.broadcast_to(frame[..., None], (*frame.shape, 3)) if frame.ndim == 2 else frame
        )
    if syntax in NATIVE:
        return _ybr_422(pixels) if photometric == "YBR_FULL_422" else pixels.tobytes()
    if syntax == JPEGBaseline8Bit and photometric != "RGB":
        return _jpeg_baseline(pixels, quality)
    if syntax == JPEGLosslessSV1 and photometric == "MONOCHROME2":
        return jpeg_lossless(pixels)
    if photometric == "YBR_FULL_422" or syntax not in ENCAPSULATED or syntax in (JPEGBaseline8Bit, JPEGLosslessSV1):
        raise UsageError(
            "this transfer syntax is not written with this photometric interpretation",
            found=f"{UID(syntax).name}, {photometric}",
        )
    if syntax in (JPEG2000Lossless, JPEG2000):
        return _jpeg_2000(pixels, [] if syntax == JPEG2000Lossless else [J2K_PSNR_DB])
    return get_encoder(syntax).encode(
        pixels,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        number_of_frames=1,
        samples_per_pixel=1 if pixels.ndim == 2 else 3,
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        photometric_interpretation=photometric,
        planar_configuration=0,
    )


def _jpeg_2000(pixels: NDArray[np.uint8], psnr_db: list[float]) -> bytes:
    """A JPEG 2000 codestream: reversible when `psnr_db` is empty, else lossy at that signal-to-noise ratio."""
    from openjpeg.utils import encode_array

    return encode_array(
        pixels,
        bits_stored=8,
        photometric_interpretation=2 if pixels.ndim == 2 else 1,
        use_mct=False,
        signal_noise_ratios=psnr_db,
    )


def _jpeg_baseline(pixels: NDArray[np.uint8], quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if pixels.ndim == 3:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422]
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    done, packed = cv2.imencode(".jpg", pixels, options)
    if not done:
        raise UsageError("the frame cannot be packed as JPEG", found=f"shape {list(pixels.shape)}")
    return packed.tobytes()


def _ybr_422(rgb: NDArray[np.uint8]) -> bytes:
    """Native YBR_FULL_422 (PS3.3 C.7.6.3.1.2): Y0 Y1 Cb Cr for each pair of pixels in a row."""
    rows, columns = rgb.shape[:2]
    if columns % 2:
        raise UsageError("native YBR_FULL_422 needs an even number of columns", found=f"{columns} columns")
    y, cr, cb = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb), 2, 0)
    out = np.empty((rows, columns // 2, 4), np.uint8)
    out[..., 0], out[..., 1], out[..., 2], out[..., 3] = y[:, ::2], y[:, 1::2], cb[:, ::2], cr[:, ::2]
    return out.tobytes()


# A fixed Huffman table over the nine difference categories of 8-bit data: lengths 2, 3 x 5, 4, 5, 6.
_CATEGORIES = (3, 0, 1, 2, 4, 5, 6, 7, 8)
_LENGTHS = (2, 3, 3, 3, 3, 3, 4, 5, 6)


def jpeg_lossless(pixels: NDArray[np.uint8]) -> bytes:
    """JPEG Lossless, first-order prediction, selection value 1 (ITU-T T.81 annex H) of a uint8 (rows, columns)."""
    rows, columns = pixels.shape
    values = pixels.astype(np.int32)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 128
    difference = (values - predicted).ravel()
    category = np.ceil(np.log2(np.abs(difference) + 1)).astype(np.int64)
    code_of, length_of = np.zeros(9, np.int64), np.zeros(9, np.int64)
    code = 0
    for i, (name, length) in enumerate(zip(_CATEGORIES, _LENGTHS, strict=True)):
        if i:
            code = (code + 1) << (length - _LENGTHS[i - 1])
        code_of[name], length_of[name] = code, length
    extra = np.where(difference < 0, difference + (1 << category) - 1, difference)
    symbol = (code_of[category] << category) | extra
    length = length_of[category] + category
    entropy = _packed_bits(symbol, length).replace(b"\xff", b"\xff\x00")
    counts = bytes(_LENGTHS.count(n) for n in range(1, 17))
    return b"".join(
        [
            b"\xff\xd8",
            struct.pack(">HHBHHBBBB", 0xFFC3, 11, 8, rows, columns, 1, 1, 0x11, 0),
            struct.pack(">HHB", 0xFFC4, 2 + 1 + 16 + 9, 0) + counts + bytes(_CATEGORIES),
            struct.pack(">HHBBBBBB", 0xFFDA, 8, 1, 1, 0, 1, 0, 0),
            entropy,
            b"\xff\xd9",
        ]
    )


def _packed_bits(values: NDArray[np.int64], lengths: NDArray[np.int64]) -> bytes:
    """The lowest `lengths` bits (at most 32) of each value, one after the other; the last byte is filled with ones."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    word, offset = starts >> 5, starts & 31
    shifted = values.astype(np.uint64) << (64 - offset - lengths).astype(np.uint64)
    n_bits, n_words = int(ends[-1]), int(word[-1]) + 2
    # Every bit is set by one value only, so that sums are unions; doubles hold 32 bits exactly.
    words = np.bincount(word, shifted >> np.uint64(32), n_words)
    words += np.bincount(word + 1, shifted & np.uint64(0xFFFFFFFF), n_words)
    packed = bytearray(words.astype(">u4").tobytes()[: -(-n_bits // 8)])
    packed[-1] |= (1 << (-n_bits % 8)) - 1
    return bytes(packed)

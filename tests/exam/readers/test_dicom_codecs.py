"""Decoders: bounded by the header, exact where they must be, and clear about one that is missing."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import groupby

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from scanside.errors import ExamReadError
from scanside.exam.encode import encode_frame
from scanside.exam.readers import dicom_codecs
from scanside.exam.readers.dicom_codecs import FrameFormat, decode, unpack_bits

GREY = FrameFormat(48, 64, 1, 8, 8, False, "MONOCHROME2", 0)


def packed(plain: bytes) -> bytes:
    """Run lengths of a segment (PS3.5 G.3.1), literals one by one."""
    out = b""
    for value, group in groupby(plain):
        left = len(list(group))
        while left:
            run = min(left, 128)
            out += bytes([257 - run if run > 1 else 0, value])
            left -= run
    return out + bytes(len(out) % 2)


@pytest.fixture
def frame(smooth_voxels) -> np.ndarray:
    return smooth_voxels((2, 48, 64))[1]


@given(st.lists(st.integers(0, 255) | st.just(7), min_size=1, max_size=300))
def test_run_lengths_are_undone(values):
    plain = bytes(values)
    assert unpack_bits(packed(plain), len(plain)) == plain
    with pytest.raises(ExamReadError):
        unpack_bits(packed(plain), len(plain) + 200)


@given(st.binary(max_size=200), st.integers(1, 300))
def test_hostile_run_lengths_end_in_the_one_error(data, count):
    with suppress(ExamReadError):
        assert len(unpack_bits(data, count)) == count


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless])
@given(at=st.floats(0, 1), value=st.integers(0, 255))
def test_a_damaged_stream_gives_a_frame_or_the_one_error(syntax, at, value):
    pixels = (np.arange(48 * 64).reshape(48, 64) % 251).astype(np.uint8)
    data = bytearray(encode_frame(pixels, syntax, "MONOCHROME2", 90))
    data[int(at * (len(data) - 1))] = value
    with suppress(ExamReadError):
        assert decode(bytes(data), syntax, GREY).values.shape == (48, 64)


def test_opencv_or_gdcm_reads_jpeg_lossless(frame, monkeypatch):
    data = encode_frame(frame, JPEGLosslessSV1, "MONOCHROME2", 0)
    assert np.array_equal(decode(data, JPEGLosslessSV1, GREY).values, frame)
    monkeypatch.setattr(dicom_codecs, "_opencv_reads_jpeg_lossless", lambda: False)
    for _ in range(3):
        assert np.array_equal(decode(data, JPEGLosslessSV1, GREY).values, frame)


def test_a_stream_that_kills_gdcm_is_one_clear_error(frame, monkeypatch):
    monkeypatch.setattr(dicom_codecs, "_opencv_reads_jpeg_lossless", lambda: False)
    good = encode_frame(frame, JPEGLosslessSV1, "MONOCHROME2", 0)
    tables = good.index(b"\xff\xc4")
    for at in range(tables + 2, tables + 40, 3):
        bad = bytearray(good)
        bad[at] ^= 0xFF
        with suppress(ExamReadError):
            assert decode(bytes(bad), JPEGLosslessSV1, GREY).values.shape == (48, 64)
    assert np.array_equal(decode(good, JPEGLosslessSV1, GREY).values, frame)


def test_jpeg_2000_is_the_same_by_opencv_and_by_openjpeg(frame, monkeypatch):
    data = encode_frame(frame, JPEG2000Lossless, "MONOCHROME2", 0)
    assert np.array_equal(decode(data, JPEG2000Lossless, GREY).values, frame)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    assert np.array_equal(decode(data, JPEG2000Lossless, GREY).values, frame)


@pytest.mark.parametrize(
    ("syntax", "module", "package"),
    [
        (JPEGLosslessSV1, "gdcm", "python-gdcm"),
        (JPEGLSLossless, "jpeg_ls", "pyjpegls"),
        (JPEG2000Lossless, "openjpeg", "pylibjpeg-openjpeg"),
    ],
)
def test_a_missing_decoder_is_named_with_its_package(monkeypatch, syntax, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExamReadError, match=f"pip install {package}"):
        dicom_codecs.require_decoder(syntax)


def test_a_stream_that_claims_a_huge_image_is_refused_unread(frame):
    data = bytearray(encode_frame(frame, JPEGBaseline8Bit, "MONOCHROME2", 90))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(ExamReadError, match="found 65535 x 65535"):
        decode(bytes(data), JPEGBaseline8Bit, GREY)
    data = bytearray(encode_frame(frame, JPEG2000Lossless, "MONOCHROME2", 90))
    data[8:16] = b"\x7f\xff\xff\xff" * 2
    with pytest.raises(ExamReadError, match="not what the header says"):
        decode(bytes(data), JPEG2000Lossless, GREY)


def test_16_bit_run_lengths_are_two_planes(frame):
    values = frame.astype(np.uint16) * 257
    high, low = (packed(part.astype(np.uint8).tobytes()) for part in (values >> 8, values & 255))
    head = np.zeros(16, "<u4")
    head[:3] = 2, 64, 64 + len(high)
    form = FrameFormat(48, 64, 1, 16, 16, False, "MONOCHROME2", 0)
    assert np.array_equal(decode(head.tobytes() + high + low, RLELossless, form).values, values)

"""Decoders: bounded by the header, exact where they must be, and clear about one that is missing."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels.encoders.native import _encode_segment
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from scanside.errors import ExamReadError
from scanside.exam.encode import encode_frame
from scanside.exam.readers import dicom_codecs
from scanside.exam.readers.dicom_codecs import FrameFormat, decode, unpack_bits

GREY = FrameFormat(48, 64, 1, 8, 8, False, "MONOCHROME2", 0)


@pytest.fixture
def frame(smooth_voxels) -> np.ndarray:
    return smooth_voxels((2, 48, 64))[1]


@given(st.lists(st.integers(0, 255) | st.just(7), min_size=1, max_size=300))
def test_run_lengths_are_undone(values):
    plain = bytes(values)
    packed = bytes(_encode_segment(np.frombuffer(plain, np.uint8).reshape(1, -1)))
    assert unpack_bits(packed, len(plain)) == plain
    with pytest.raises(ExamReadError):
        unpack_bits(packed, len(plain) + 200)


@given(st.binary(max_size=200), st.integers(1, 300))
def test_hostile_run_lengths_end_in_the_one_error(data, count):
    try:
        assert len(unpack_bits(data, count)) == count
    except ExamReadError:
        pass


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless])
@given(at=st.floats(0, 1), value=st.integers(0, 255))
def test_a_damaged_stream_gives_a_frame_or_the_one_error(syntax, at, value):
    pixels = (np.arange(48 * 64).reshape(48, 64) % 251).astype(np.uint8)
    data = bytearray(encode_frame(pixels, syntax, "MONOCHROME2", 90))
    data[int(at * (len(data) - 1))] = value
    try:
        assert decode(bytes(data), syntax, GREY).values.shape == (48, 64)
    except ExamReadError:
        pass


def test_jpeg_lossless_is_the_same_by_opencv_and_by_gdcm(frame, monkeypatch):
    data = encode_frame(frame, JPEGLosslessSV1, "MONOCHROME2", 0)
    assert np.array_equal(decode(data, JPEGLosslessSV1, GREY).values, frame)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    assert np.array_equal(decode(data, JPEGLosslessSV1, GREY).values, frame)


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
    high, low = (bytes(_encode_segment(part)) for part in (values >> 8, values & 255))
    head = np.zeros(16, "<u4")
    high, low = (np.asarray(part).astype(np.uint8) for part in (values >> 8, values & 255))
    high, low = (b"".join(bytes(_encode_segment(part))for part in [plane]) for plane in (high, low))
    head[:3] = 2, 64, 64 + len(high)
    form = FrameFormat(48, 64, 1, 16, 16, False, "MONOCHROME2", 0)
    assert np.array_equal(decode(head.tobytes() + high + low, RLELossless, form).values, values)

"""Frames found in the pixel element, deeper grey brought to 8 bits, and reading from many threads."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from scanside.errors import ExamReadError
from scanside.exam.open import open_exam

DEEP = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}


def deep(dicom, values: np.ndarray, syntax=ExplicitVRLittleEndian, **changes):
    """A native exam whose frames hold `values`, 16 bits each."""
    path = dicom.edit(dicom.exam(transfer_syntax=syntax), **(DEEP | changes))
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = path.read_bytes()[: dicom.pixel_start(path)]
    raw = values.astype(f"{order}u2").tobytes()
    tag = struct.pack(order + "HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(raw))
    path.write_bytes(head + tag + raw)
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda uid: uid.name)
def test_12_bits_go_through_the_headers_window(dicom, syntax):
    values = dicom.voxels.astype(np.uint16) * 16
    volume = open_exam(deep(dicom, values, syntax, WindowCenter="2048", WindowWidth="4096")).only()
    assert np.abs(volume.decode().astype(int) - values / 4095 * 255).max() <= 1
    assert "12-bit values windowed" in volume.info.warnings[0]
    assert volume.info.verdict == "degraded"


def test_12_bits_without_a_window_keep_their_order(dicom):
    values = dicom.voxels.astype(np.uint16) * 16
    volume = open_exam(deep(dicom, values)).only()
    voxels = volume.decode()
    assert "12-bit" in volume.info.warnings[0]
    assert voxels.min() == 0
    assert voxels.max() == 255
    assert np.all(np.diff(voxels.ravel()[np.argsort(values.ravel(), kind="stable")].astype(int)) >= 0)


def test_bits_above_those_stored_are_ignored(dicom):
    values = dicom.voxels.astype(np.uint16) * 16
    plain = open_exam(deep(dicom, values)).only().decode()
    assert np.array_equal(open_exam(deep(dicom, values | 0xF000)).only().decode(), plain)


def test_signed_values_are_signed(dicom):
    values = dicom.voxels.astype(np.int16) * 8 - 1000
    volume = open_exam(
        deep(dicom, values & 0xFFF, PixelRepresentation=1, WindowCenter="0.5", WindowWidth="2049")
    ).only()
    assert np.abs(volume.decode().astype(int) - np.clip((values + 1024) / 2048 * 255, 0, 255)).max() <= 1


def test_monochrome1_is_inverted_with_a_warning(dicom):
    volume = open_exam(dicom.edit(dicom.exam(), PhotometricInterpretation="MONOCHROME1")).only()
    assert np.array_equal(volume.decode(), 255 - dicom.voxels)
    assert "inverted" in volume.info.warnings[0]


def test_colour_by_plane_is_read(dicom):
    path = dicom.exam(photometric="RGB")
    start = dicom.pixel_start(dicom.edit(path, PlanarConfiguration=1))
    planes = np.repeat(dicom.voxels[:, None], 3, axis=1).tobytes()
    path.write_bytes(path.read_bytes()[: start + 12] + planes)
    assert np.array_equal(open_exam(path).only().decode(), dicom.voxels)


def test_8_bits_in_big_endian_words_are_swapped(dicom):
    path = dicom.exam(transfer_syntax=ExplicitVRBigEndian)
    start = dicom.pixel_start(path)
    data = path.read_bytes()
    swapped = np.frombuffer(data[start + 12 :], np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
    path.write_bytes(data[: start + 4] + b"OW" + data[start + 6 : start + 12] + swapped)
    assert np.array_equal(open_exam(path).only().decode(), dicom.voxels)


def test_a_frame_in_several_fragments_is_put_together(dicom):
    path = dicom.exam(transfer_syntax=JPEGLSLossless)
    frames = dicom.items(path)[1:]
    fragments, offsets, at = [], [], 0
    for frame in frames:
        offsets.append(at)
        pieces = [frame[:40], frame[40:100], frame[100:]]
        fragments += pieces
        at += sum(8 + len(piece) for piece in pieces)
    dicom.with_items(path, [struct.pack(f"<{len(offsets)}I", *offsets), *fragments])
    assert np.array_equal(open_exam(path).only().decode(), dicom.voxels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_without_an_offset_table_every_fragment_is_a_frame(dicom, syntax):
    path = dicom.exam(transfer_syntax=syntax)
    dicom.with_items(path, [b"", *dicom.items(path)[1:]])
    assert np.array_equal(open_exam(path).only().decode(), dicom.voxels)


def test_an_extended_offset_table_is_followed(dicom):
    path = dicom.exam(transfer_syntax=JPEGLSLossless)
    frames = dicom.items(path)[1:]
    offsets = np.cumsum([0, *(8 + len(frame) for frame in frames[:-1])])
    dicom.with_items(path, [b"", *frames])
    dicom.edit(path, ExtendedOffsetTable=struct.pack(f"<{len(frames)}Q", *offsets))
    assert np.array_equal(open_exam(path).only().decode(), dicom.voxels)
    dicom.edit(path, ExtendedOffsetTable=struct.pack(f"<{len(frames)}Q", *(offsets + 2)))
    with pytest.raises(ExamReadError, match="ExtendedOffsetTable does not point"):
        open_exam(path)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda items: items[:-1], "does not point|another number"),
        (lambda items: [b"", *items[1:], items[1]], "another number of frames"),
        (lambda items: [b"", items[1] + items[2], *items[3:]], "another number of frames"),
        (lambda items: [items[0][:-4], *items[1:]], "another number of frames"),
        (lambda items: [items[0][4:] + items[0][:4], *items[1:]], "does not point at the frames"),
        (lambda items: [items[0][:3], *items[1:]], "offset table is damaged"),
        (lambda items: [bytes(len(items[0])), *items[1:]], "does not point at the frames"),
        (lambda items: [b""], "another number of frames"),
        (lambda items: [b"", *items[1:], *([b"xx"] * 500)], "more than"),
    ],
)
def test_fragments_that_are_not_the_frames_are_refused(dicom, spoil, part):
    path = dicom.exam(transfer_syntax=JPEGLSLossless)
    dicom.with_items(path, spoil(dicom.items(path)))
    with pytest.raises(ExamReadError, match=part):
        open_exam(path)


def test_a_stream_without_items_is_refused(dicom):
    path = dicom.exam(transfer_syntax=JPEGBaseline8Bit)
    start = dicom.pixel_start(path)
    data = bytearray(path.read_bytes())
    data[start + 12 : start + 16] = b"\1\2\3\4"
    path.write_bytes(data)
    with pytest.raises(ExamReadError, match="damaged; expected an item"):
        open_exam(path)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, RLELossless], ids=lambda uid: uid.name)
def test_a_frame_cut_short_inside_whole_items_is_refused_by_its_number(dicom, syntax):
    path = dicom.exam(transfer_syntax=syntax)
    items = dicom.items(path)
    items[3] = items[3][: len(items[3]) // 4 * 2]
    dicom.with_items(path, [b"", *items[1:]])
    with pytest.raises(ExamReadError, match=r"exam\.dcm, frame 3: a frame is cut short"):
        open_exam(path).only().decode()


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(dicom):
    for syntax in (ExplicitVRLittleEndian, JPEGBaseline8Bit):
        path = dicom.exam(transfer_syntax=syntax)
        volume = open_exam(path).only()
        path.write_bytes(path.read_bytes()[:-4000] if syntax == ExplicitVRLittleEndian else path.read_bytes()[:2000])
        with pytest.raises(ExamReadError, match="shorter"):
            volume.decode()
        path.unlink()
        with pytest.raises(ExamReadError, match="cannot be read"):
            volume.decode()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit], ids=lambda uid: uid.name)
def test_frames_may_be_read_from_many_threads_and_into_any_view(dicom, smooth_voxels, syntax):
    voxels = smooth_voxels((40, 32, 40))
    volume = open_exam(dicom.exam(voxels=voxels, transfer_syntax=syntax)).only()
    one, many = volume.decode(threads=1), volume.decode(threads=8)
    assert np.array_equal(one, many)
    strided = np.zeros((32, 80), np.uint8)
    volume.source.read(7, strided[:, ::2])
    assert np.array_equal(strided[:, ::2], one[7])
    assert not strided[:, 1::2].any()

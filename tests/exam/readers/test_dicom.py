"""Multi-frame files: every syntax gives the same voxels, and every fault one clear error."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.geometry import Geometry
from scanside.exam.open import open_exam
from scanside.exam.readers import dicom as reader
from scanside.exam.volume import Laterality
from scanside.exam.write import write_enhanced_us

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
LOSSLESS = (*NATIVE, RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
LOSSY = (JPEGBaseline8Bit, JPEG2000)
ALL = (*LOSSLESS, *LOSSY)
ENCAPSULATED = tuple(uid for uid in ALL if uid not in NATIVE)

by_name = pytest.mark.parametrize("syntax", ALL, ids=lambda uid: uid.name)


def refusal(path: Path, kind: type[ExamReadError] = ExamReadError) -> str:
    """The message of the one error that opening and decoding `path` must end in."""
    with pytest.raises(kind) as caught:
        open_exam(path).only().decode(threads=1)
    assert type(caught.value) is kind
    assert caught.value.exit_code == 3
    assert path.name in str(caught.value)
    assert "PHANTOM" not in str(caught.value)
    return str(caught.value)


def close(found: np.ndarray, expected: np.ndarray, syntax: str) -> bool:
    """Equal, or near enough for a syntax that loses something."""
    if syntax not in LOSSY:
        return np.array_equal(found, expected)
    difference = np.abs(found.astype(int) - expected)
    return difference.mean() < 1.5 and difference.max() < 24


@by_name
def test_every_syntax_gives_the_same_voxels(dicom, syntax):
    volume = open_exam(dicom.exam(transfer_syntax=syntax)).only()
    assert close(volume.decode(threads=2), dicom.voxels, syntax)
    assert volume.geometry.spacing_mm == (1.0, 0.4, 0.6)
    assert volume.info.verdict == "ready"
    assert np.array_equal(np.stack(list(volume.frames())), volume.decode(threads=1))


@pytest.mark.parametrize(
    ("syntax", "photometric"),
    [
        *((syntax, "RGB") for syntax in (*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEG2000)),
        *((syntax, "YBR_FULL_422") for syntax in (*NATIVE, JPEGBaseline8Bit)),
    ],
    ids=str,
)
def test_grey_stored_as_colour_is_read(dicom, syntax, photometric):
    volume = open_exam(dicom.exam(transfer_syntax=syntax, photometric=photometric)).only()
    assert close(volume.decode(threads=1), dicom.voxels, syntax)


@pytest.mark.parametrize(
    ("syntax", "photometric"),
    [
        (ExplicitVRLittleEndian, "RGB"),
        (ExplicitVRLittleEndian, "YBR_FULL_422"),
        (RLELossless, "RGB"),
        (JPEGBaseline8Bit, "YBR_FULL_422"),
        (JPEG2000Lossless, "RGB"),
        (JPEGLSLossless, "RGB"),
    ],
    ids=str,
)
def test_a_colour_overlay_is_refused_and_its_frame_named(dicom, syntax, photometric):
    colour = np.repeat(dicom.voxels[..., None], 3, axis=3)
    colour[3, 10:20, 10:20] = (200, 30, 30)
    text = refusal(dicom.exam(voxels=colour, transfer_syntax=syntax, photometric=photometric))
    assert "frame 4" in text
    assert "colour" in text


@by_name
def test_one_byte_less_of_pixels_is_refused(dicom, syntax):
    path = dicom.exam(transfer_syntax=syntax)
    path.write_bytes(path.read_bytes()[:-1])
    assert "cut short in its pixel data" in refusal(path)


@by_name
def test_half_the_pixels_are_refused(dicom, syntax):
    path = dicom.exam(transfer_syntax=syntax)
    data = path.read_bytes()
    path.write_bytes(data[: (len(data) + dicom.pixel_start(path)) // 2])
    assert "cut short in its pixel data" in refusal(path)


@pytest.mark.parametrize("keep", [140, 300, 0.5, -1])
def test_a_file_cut_short_in_its_header_is_refused(dicom, keep):
    path = dicom.exam()
    end = dicom.pixel_start(path)
    path.write_bytes(path.read_bytes()[: int(end * keep) if isinstance(keep, float) else keep % end])
    assert any(part in refusal(path) for part in ("cut short", "damaged", "cannot be read", "unusable"))


@by_name
@pytest.mark.parametrize("count", [5, 7, 1])
def test_a_wrong_number_of_frames_is_refused(dicom, syntax, count):
    text = refusal(dicom.edit(dicom.exam(transfer_syntax=syntax), NumberOfFrames=count))
    assert "as large as the header says" in text or "another number of frames" in text
    assert f"{count} frame(s)" in text


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"NumberOfFrames": b"0"}, ["NumberOfFrames is unusable", "found 0"]),
        ({"NumberOfFrames": b"-6"}, ["NumberOfFrames is unusable", "found -6"]),
        ({"NumberOfFrames": b""}, ["NumberOfFrames is unusable", "empty"]),
        ({"NumberOfFrames": b"six"}, ["NumberOfFrames is no whole number", "six"]),
        ({"NumberOfFrames": b"2000000000"}, ["more pixels than this package takes", "2000000000 frames"]),
        ({"NumberOfFrames": None}, ["not as large as the header says", "1 frame(s)"]),
        ({"Rows": None}, ["Rows is unusable", "found none"]),
        ({"Rows": 0}, ["Rows or Columns is unusable", "0 x 40"]),
        ({"Columns": 0}, ["Rows or Columns is unusable", "32 x 0"]),
        ({"Rows": 31}, ["not as large as the header says"]),
        ({"BitsAllocated": 7}, ["BitsAllocated is unusable", "8 or 16", "found 7"]),
        ({"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}, ["not as large as the header says"]),
        ({"BitsAllocated": 16}, ["BitsStored is unusable"]),
        ({"BitsStored": 12}, ["BitsStored is unusable"]),
        ({"HighBit": 6}, ["HighBit is unusable"]),
        ({"PixelRepresentation": 1}, ["PixelRepresentation is unusable"]),
        ({"SamplesPerPixel": None}, ["SamplesPerPixel is unusable"]),
        ({"SamplesPerPixel": 2}, ["SamplesPerPixel is unusable"]),
        ({"SamplesPerPixel": 3}, ["PhotometricInterpretation is not read"]),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, ["PlanarConfiguration is unusable"]),
        ({"PhotometricInterpretation": "MONOCHROME9"}, ["PhotometricInterpretation is not read", "MONOCHROME9"]),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ["PhotometricInterpretation is not read", "PALETTE COLOR"]),
        ({"PhotometricInterpretation": None}, ["PhotometricInterpretation is not read", "found none"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=lambda uid: uid.name)
def test_a_header_that_contradicts_the_pixels_is_refused(dicom, change, parts, syntax):
    text = refusal(dicom.edit(dicom.exam(transfer_syntax=syntax), **change))
    assert all(part in text for part in parts)


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    "change", [{"Rows": 33}, {"Columns": 41}, {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}], ids=str
)
def test_a_code_stream_of_another_size_is_refused(dicom, syntax, change):
    text = refusal(dicom.edit(dicom.exam(transfer_syntax=syntax), **change))
    assert "not what the header says" in text or "RLE data" in text


@pytest.mark.parametrize(
    ("written", "declared", "part"),
    [
        (ExplicitVRLittleEndian, RLELossless, "not stored as the transfer syntax says"),
        (ExplicitVRLittleEndian, JPEGBaseline8Bit, "not stored as the transfer syntax says"),
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian, "not encoded as its transfer syntax says"),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian, "not encoded as its transfer syntax says"),
        (JPEGBaseline8Bit, ExplicitVRLittleEndian, "not stored as the transfer syntax says"),
        (JPEGBaseline8Bit, JPEGLosslessSV1, "no JPEG Lossless SV1 stream"),
        (JPEGBaseline8Bit, JPEG2000, "no JPEG 2000 code stream"),
        (JPEGLSLossless, JPEGBaseline8Bit, "no JPEG Baseline stream"),
        (JPEG2000Lossless, RLELossless, "RLE"),
        (RLELossless, JPEGBaseline8Bit, "no JPEG Baseline stream"),
        (ExplicitVRLittleEndian, "1.2.840.10008.1.2.4.102", "transfer syntax is not read"),
        (ExplicitVRLittleEndian, "1.2.3.4.5", "transfer syntax is not read"),
    ],
)
def test_a_transfer_syntax_that_is_not_true_is_refused(dicom, written, declared, part):
    assert part in refusal(dicom.declare_syntax(dicom.exam(transfer_syntax=written), declared))


@pytest.mark.parametrize("declared", [ExplicitVRBigEndian, ExplicitVRLittleEndian])
def test_a_wrong_byte_order_is_refused(dicom, declared):
    written = ExplicitVRLittleEndian if declared == ExplicitVRBigEndian else ExplicitVRBigEndian
    refusal(dicom.declare_syntax(dicom.exam(transfer_syntax=written), declared))


def test_a_deflated_file_is_refused_before_it_is_unpacked(dicom):
    path = dicom.declare_syntax(dicom.exam(), "1.2.840.10008.1.2.1.99")
    head = path.read_bytes()[:400]
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = pack.compress(bytes(1 << 24)) + pack.flush()
    path.write_bytes(head + bomb * 2)
    text = refusal(path)
    assert "deflated DICOM is refused" in text
    assert "dcmconv" in text


@pytest.mark.parametrize("depth", [300, 3000])
def test_deeply_nested_sequences_are_refused(dicom, depth):
    path = dicom.exam()
    start = dicom.pixel_start(path)
    data = path.read_bytes()
    nest = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(data[:start] + nest * depth + data[start:])
    assert "nested too deeply" in refusal(path)


def test_a_header_of_endless_elements_is_refused(dicom):
    path = dicom.exam()
    start = dicom.pixel_start(path)
    data = path.read_bytes()
    path.write_bytes(data[:start] + b"\x09\x00\x02\x00LO\0\0" * 60_000 + data[start:])
    assert "too many elements" in refusal(path)


def test_a_private_payload_of_many_megabytes_is_skipped(dicom):
    path = dicom.exam()
    start = dicom.pixel_start(path)
    data = path.read_bytes()
    payload = b"\x29\x70\x10\x10OB\0\0" + (20 << 20).to_bytes(4, "little") + bytes(20 << 20)
    path.write_bytes(data[:start] + payload + data[start:])
    assert np.array_equal(open_exam(path).only().decode(), dicom.voxels)


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "the file is empty"), (bytes(5000), "no DICOM file"), (b"\x89PNG\r\n\x1a\n" + bytes(900), "no DICOM file")],
)
def test_files_that_are_no_dicom_are_refused(tmp_path, content, part):
    path = tmp_path / "exam.dcm"
    path.write_bytes(content)
    assert part in refusal(path)
    with pytest.raises(ExamReadError, match=part):
        reader.read(path, None)


def test_a_single_frame_is_refused(dicom):
    text = refusal(dicom.exam(voxels=dicom.voxels[:1]))
    assert "single frame" in text
    assert "Open the folder" in text


def test_two_frames_are_enough(dicom):
    path = dicom.exam(voxels=dicom.voxels[:2])
    assert np.array_equal(open_exam(path).only().decode(), dicom.voxels[:2])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY"]}, "a derived image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localiser"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "CT Image Storage"),
        ({"DimensionOrganizationType": "3D_TEMPORAL"}, "several volumes over time"),
    ],
    ids=str,
)
def test_objects_that_are_no_original_sweep_are_refused(dicom, change, part):
    assert part in refusal(dicom.edit(dicom.exam(), **change))


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
def test_pixels_beyond_those_declared_are_refused(dicom, syntax):
    path = dicom.exam(transfer_syntax=syntax)
    assert "not as large" in refusal(dicom.edit(path, Rows=16))


def test_a_random_damage_never_escapes_the_one_error(dicom):
    path = dicom.exam()
    start = dicom.pixel_start(path)
    data = path.read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        spoilt = bytearray(data)
        at = int(rng.integers(132, start))
        spoilt[at : at + 8] = rng.bytes(8)
        path.write_bytes(spoilt)
        try:
            voxels = open_exam(path).only().decode(threads=1)
        except ExamReadError:
            refused += 1
        else:
            assert voxels.shape == dicom.voxels.shape
    assert refused > 30


def test_an_enhanced_us_volume_brings_its_orientation(dicom, tmp_path):
    path = write_enhanced_us(tmp_path / "enhanced.dcm", dicom.voxels, dicom.geometry, laterality=Laterality.LEFT)
    volume = open_exam(path).only()
    assert np.array_equal(volume.decode(), dicom.voxels)
    assert volume.info.geometry_source == "functional groups"
    assert volume.geometry.spacing_mm == (1.0, 0.4, 0.6)
    assert np.allclose(volume.geometry.patient_from_mm, dicom.geometry.patient_from_mm)
    assert (volume.info.laterality, volume.info.laterality_source) == ("left", "frame anatomy")


def test_frames_out_of_order_are_put_in_order_by_position(dicom, tmp_path):
    shuffled = [2, 0, 1, 5, 4, 3]
    path = write_enhanced_us(tmp_path / "enhanced.dcm", dicom.voxels[shuffled], dicom.geometry)
    from pydicom import dcmread

    groups = dcmread(path).PerFrameFunctionalGroupsSequence
    dicom.edit(path, PerFrameFunctionalGroupsSequence=Sequence([Dataset(groups[k]) for k in shuffled]))
    volume = open_exam(path).only()
    assert np.array_equal(volume.decode(), dicom.voxels)
    assert np.allclose(volume.geometry.patient_from_mm, dicom.geometry.patient_from_mm)


def test_an_enhanced_volume_with_a_missing_frame_is_refused(dicom, tmp_path):
    from pydicom import dcmread

    path = write_enhanced_us(tmp_path / "enhanced.dcm", dicom.voxels, dicom.geometry)
    groups = list(dcmread(path).PerFrameFunctionalGroupsSequence)
    short = write_enhanced_us(tmp_path / "short.dcm", dicom.voxels[:5], Geometry((5, 32, 40), (1.0, 0.4, 0.6)))
    dicom.edit(short, PerFrameFunctionalGroupsSequence=Sequence(Dataset(g) for g in groups[:2] + groups[3:]))
    assert "not evenly spaced" in refusal(short, GeometryError)
    dicom.edit(short, PerFrameFunctionalGroupsSequence=Sequence(Dataset(g) for g in groups))
    assert "another number of frames" in refusal(short, GeometryError)


def test_reading_says_what_it_knows(dicom):
    volume = open_exam(
        dicom.exam(vendor="ge", nipple_mm=(3.0, 0.5, 12.0), laterality=Laterality.LEFT, view="MED")
    ).only()
    info = volume.info
    assert info.format == "DICOM Ultrasound Multi-frame, Explicit VR Little Endian"
    assert info.source == "exam.dcm"
    assert (info.laterality, info.laterality_source, info.view) == ("left", "Laterality", "MED")
    assert info.profile.name == "GE Invenia ABUS"
    assert info.nipple_mm == (3.0, 0.5, 12.0)
    assert info.geometry_source == "PixelSpacing + SpacingBetweenSlices"
    assert len(info.sop_instance_uids) == 1
    assert info.geometry.patient_from_mm is None

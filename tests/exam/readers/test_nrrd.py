"""NRRD: voxels and places as other tools write them; damaged and hostile files get one clear error."""

from __future__ import annotations

import bz2
import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.geometry import Geometry
from scanside.exam.readers import nrrd
from scanside.exam.volume import Laterality, Verdict
from scanside.exam.write import write_nrrd

SHAPE = (4, 6, 10)
SPACING = (0.4757, 0.073, 0.2)
OBLIQUE = np.array([[0, 0.6, 0.8, -12.5], [0, -0.8, 0.6, 40.25], [1, 0, 0, 7.0], [0, 0, 0, 1]])
MARKERS = ((0, 0, 0), (3, 5, 9), (1, 4, 2))


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def header(without: tuple[str, ...] = (), **fields: str) -> bytes:
    """A TDSC-like header: axes lateral, depth, sweep; fields by name, with _ for a blank."""
    stated = {
        "type": "uchar",
        "dimension": "3",
        "sizes": "10 6 4",
        "spacings": "0.2 0.073 0.4757",
        "encoding": "raw",
    }
    stated |= {name.replace("_", " "): value for name, value in fields.items()}
    lines = [f"{name}: {value}" for name, value in stated.items() if name not in without]
    return ("NRRD0004\n# a comment: no field\n" + "\n".join(lines) + "\nkey:=value\n\n").encode()


def put(folder: Path, data: bytes, name: str = "exam.nrrd") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_the_challenge_form(tmp_path, voxels):
    volume = nrrd.read(put(tmp_path, header() + voxels.tobytes()), None)
    info = volume.info
    assert info.geometry.shape == SHAPE
    assert info.geometry.spacing_mm == SPACING
    assert info.geometry.patient_from_mm is None
    assert (info.format, info.source, info.geometry_source) == ("NRRD", "exam.nrrd", "NRRD spacings")
    assert info.laterality is Laterality.UNKNOWN
    assert info.verdict is Verdict.READY
    np.testing.assert_array_equal(volume.decode(threads=2), voxels)
    np.testing.assert_array_equal(np.stack(list(volume.frames())), voxels)


@pytest.mark.parametrize(("encoding", "pack"), [
    ("raw", bytes), ("gzip", gzip.compress), ("gz", gzip.compress), ("bzip2", bz2.compress),
    ("gzip", lambda data: gzip.compress(data[:77]) + gzip.compress(data[77:])),
], ids=["raw", "gzip", "gz", "bzip2", "gzip of two members"])  # fmt: skip
def test_encodings(tmp_path, voxels, encoding, pack):
    volume = nrrd.read(put(tmp_path, header(encoding=encoding) + pack(voxels.tobytes())), None)
    np.testing.assert_array_equal(volume.decode(threads=3), voxels)


def test_compressed_frames_can_be_read_in_any_order(tmp_path, voxels):
    volume = nrrd.read(put(tmp_path, header(encoding="gzip") + gzip.compress(voxels.tobytes())), None)
    for k in (2, 0, 3, 1, 2):
        frame = np.empty(SHAPE[1:], np.uint8)
        volume.source.read(k, frame)
        np.testing.assert_array_equal(frame, voxels[k])


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("matrix", [np.eye(4), OBLIQUE, np.diag([-1.0, 1, -1, 1])], ids=["lps", "oblique", "flipped"])
def test_what_simpleitk_writes_is_read_in_place(tmp_path, voxels, matrix, compress):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING[::-1])
    image.SetDirection(matrix[:3, :3][:, ::-1].ravel().tolist())
    image.SetOrigin((5.5, -20.25, 33.0))
    path = tmp_path / "exam.nrrd"
    sitk.WriteImage(image, str(path), useCompression=compress)
    volume = nrrd.read(path, None)
    np.testing.assert_array_equal(volume.decode(), voxels)
    for index in MARKERS:
        expected = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(volume.geometry.patient_from_index(index), expected, atol=1e-9)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)], ids=str)
def test_written_markers_keep_their_place(tmp_path, voxels, order, signs):
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(np.array(signs, float))[:, list(order)]
    matrix[:3, 3] = (11.0, -7.5, 0.25)
    geometry = Geometry(SHAPE, (0.5, 0.125, 0.25), matrix)
    found = nrrd.read(write_nrrd(tmp_path / "exam.nrrd", voxels, geometry), None)
    np.testing.assert_array_equal(found.decode(), voxels)
    assert found.geometry.spacing_mm == geometry.spacing_mm
    for index in MARKERS:
        np.testing.assert_allclose(
            found.geometry.patient_from_index(index), geometry.patient_from_index(index), atol=1e-12
        )


def test_spacing_survives_writing_exactly(tmp_path, voxels):
    geometry = Geometry(SHAPE, (168 / 318, 0.1, 0.1925))
    assert nrrd.read(write_nrrd(tmp_path / "exam.nrrd", voxels, geometry), None).geometry == geometry


def test_named_spaces_are_told_apart(tmp_path, voxels):
    fields = {"space_directions": "(0.2,0,0) (0,0.073,0) (0,0,0.4757)", "space_origin": "(1,2,3)"}
    expected = {"left-posterior-superior": (1, 2, 3), "RAS": (-1, -2, 3), "left-anterior-superior": (1, -2, 3)}
    for space, origin in expected.items():
        data = header(without=("spacings",), space=space, **fields) + voxels.tobytes()
        geometry = nrrd.read(put(tmp_path, data), None).geometry
        np.testing.assert_allclose(geometry.patient_from_index((0, 0, 0)), origin)
        assert geometry.spacing_mm == pytest.approx(SPACING)
    data = header(without=("spacings",), space="scanner-xyz", **fields) + voxels.tobytes()
    geometry = nrrd.read(put(tmp_path, data), None).geometry
    assert geometry.patient_from_mm is None
    assert geometry.spacing_mm == pytest.approx(SPACING)


def test_units_are_honoured_or_refused(tmp_path, voxels):
    data = header(spacings="0.02 0.0073 0.04757", units='"cm" "cm" "cm"') + voxels.tobytes()
    assert nrrd.read(put(tmp_path, data), None).geometry.spacing_mm == pytest.approx(SPACING)
    with pytest.raises(GeometryError, match="unit"):
        nrrd.read(put(tmp_path, header(units='"furlong" "mm" "mm"') + voxels.tobytes()), None)


@pytest.mark.parametrize(("spacings", "message"), [
    ("0.2 0 0.4757", "depth"), ("0.2 nan 0.4757", "depth"), ("-0.2 0.073 0.4757", "lateral"),
    ("0.2 0.073 1e9", "sweep"), ("0.2 0.073", "spacings"), ("0,2 0,073 0,4757", "spacings"),
    ("nan nan nan", "no voxel"),
])  # fmt: skip
def test_unusable_spacing_is_refused_unless_the_caller_knows(tmp_path, voxels, spacings, message):
    path = put(tmp_path, header(spacings=spacings) + voxels.tobytes())
    with pytest.raises(GeometryError, match=message) as caught:
        nrrd.read(path, None)
    assert "exam.nrrd" in str(caught.value)
    if message not in ("spacings",):
        assert "--spacing" in str(caught.value)
        volume = nrrd.read(path, (0.5, 0.1, 0.2))
        assert volume.geometry.spacing_mm == (0.5, 0.1, 0.2)
        assert volume.info.geometry_source == "the caller's spacing_mm"


def test_without_spacing_there_is_no_volume(tmp_path, voxels):
    path = put(tmp_path, header(without=("spacings",)) + voxels.tobytes())
    with pytest.raises(GeometryError, match="no voxel spacing"):
        nrrd.read(path, None)
    assert nrrd.read(path, (0.5, 0.1, 0.2)).info.verdict is Verdict.READY


def test_the_header_goes_before_the_caller(tmp_path, voxels):
    volume = nrrd.read(put(tmp_path, header() + voxels.tobytes()), (0.5, 0.1, 0.2))
    assert volume.geometry.spacing_mm == SPACING
    assert "not used" in volume.info.warnings[0]


def test_oblique_is_read_but_sheared_is_refused(tmp_path, voxels):
    fields = {"space": "LPS", "space_origin": "(0,0,0)"}
    sheared = header(space_directions="(0.2,0,0) (0.05,0.073,0) (0,0,0.4757)", **fields) + voxels.tobytes()
    with pytest.raises(GeometryError, match="rigid"):
        nrrd.read(put(tmp_path, sheared), None)


@pytest.mark.parametrize(("dtype", "kind", "endian"), [
    (">i2", "short", "big"), ("<i2", "int16", "little"), (">u2", "unsigned short", "big"), ("<f4", "float", "little"),
    (">f8", "double", "big"), ("i1", "signed char", "little"),
])  # fmt: skip
def test_deeper_data_are_windowed_with_a_warning(tmp_path, dtype, kind, endian):
    values = (
        np.linspace(-100, 127, 240).reshape(SHAPE) if dtype[-1] == "1" else np.linspace(0, 3000, 240).reshape(SHAPE)
    )
    values = values.astype(dtype)
    values.ravel()[5] = values.max()
    volume = nrrd.read(put(tmp_path, header(type=kind, endian=endian) + values.tobytes()), None)
    assert volume.info.verdict is Verdict.DEGRADED
    assert "windowed to 8 bits" in volume.info.warnings[0]
    found = volume.decode().astype(float)
    low, high = np.percentile(values.astype(float), [0.1, 99.9])
    np.testing.assert_allclose(found, np.clip((values.astype(float) - low) / (high - low) * 255, 0, 255), atol=0.51)


def test_deep_data_need_a_byte_order(tmp_path, voxels):
    with pytest.raises(ExamReadError, match="endian"):
        nrrd.read(put(tmp_path, header(type="int16") + voxels.astype("<i2").tobytes()), None)


def test_8_bit_values_in_a_wider_type_are_kept(tmp_path, voxels):
    path = write_nrrd(tmp_path / "exam.nrrd", voxels.astype(np.uint16), Geometry(SHAPE, SPACING))
    volume = nrrd.read(path, None)
    np.testing.assert_array_equal(volume.decode(), voxels)
    assert volume.info.warnings == ("uint16 values stored as 8 bits: 0 to 255 kept, rounded",)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_label_map_is_no_exam(tmp_path, voxels, dtype):
    mask = (voxels > 128).astype(dtype)
    with pytest.raises(ExamReadError, match="label map"):
        nrrd.read(write_nrrd(tmp_path / "mask.nrrd", mask, Geometry(SHAPE, SPACING)), None)


def test_not_a_number_becomes_black(tmp_path):
    values = np.linspace(0, 3000, 240, dtype=np.float32).reshape(SHAPE)
    values[2, 3, 4] = np.nan
    volume = nrrd.read(write_nrrd(tmp_path / "exam.nrrd", values, Geometry(SHAPE, SPACING)), None)
    assert volume.decode()[2, 3, 4] == 0
    nothing = write_nrrd(tmp_path / "nan.nrrd", np.full(SHAPE, np.nan, np.float32), Geometry(SHAPE, SPACING))
    with pytest.raises(ExamReadError, match="finite"):
        nrrd.read(nothing, None)


@pytest.mark.parametrize("change", [-1, 1, -200])
def test_raw_data_of_another_length_are_refused_at_once(tmp_path, voxels, change):
    data = voxels.tobytes()
    data = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(ExamReadError, match=f"240 bytes of voxels, found {240 + change} bytes"):
        nrrd.read(put(tmp_path, header() + data), None)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gzip", "bzip2"])
@pytest.mark.parametrize("change", [-1, 1])
def test_packed_data_of_another_length_are_refused(tmp_path, voxels, pack, change):
    data = voxels.tobytes()
    data = data[:change] if change < 0 else data + bytes(change)
    encoding = "gzip" if pack is gzip.compress else "bzip2"
    path = put(tmp_path, header(encoding=encoding) + pack(data))
    with pytest.raises(ExamReadError, match="do not match the header"):
        nrrd.read(path, None).decode()


@pytest.mark.parametrize("keep", [0, 10, 100, -9, -1])
@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_a_stream_cut_short_is_refused(tmp_path, voxels, encoding, keep):
    packed = (gzip if encoding == "gzip" else bz2).compress(voxels.tobytes())[:keep]
    path = put(tmp_path, header(encoding=encoding) + packed)
    with pytest.raises(ExamReadError) as caught:
        nrrd.read(path, None).decode()
    assert "exam.nrrd" in str(caught.value)


def test_a_failed_stream_fails_again(tmp_path, voxels):
    path = put(tmp_path, header(encoding="bzip2") + bz2.compress(voxels.tobytes()[:-1]))
    volume = nrrd.read(path, None)
    for _ in range(2):
        with pytest.raises(ExamReadError, match="inside frame 3"):
            volume.decode(threads=4)


def test_a_gzip_bomb_is_stopped_at_the_expected_size(tmp_path, voxels):
    bomb = gzip.compress(voxels.tobytes()) + gzip.compress(bytes(40 << 20), compresslevel=1)
    path = put(tmp_path, header(encoding="gzip") + bomb)
    with pytest.raises(ExamReadError, match="more than 240 bytes"):
        nrrd.read(path, None)


@pytest.mark.parametrize("sizes", ["100000 100000 100000", "0 6 4", "-10 6 4", "10 6", "10 6 x", "10 6 4 1"])
def test_impossible_sizes_allocate_nothing(tmp_path, voxels, sizes):
    with pytest.raises(ExamReadError, match=r"size|at least one voxel"):
        nrrd.read(put(tmp_path, header(sizes=sizes) + voxels.tobytes()), None)


def test_a_large_size_that_the_packed_bytes_cannot_hold(tmp_path, voxels):
    data = header(encoding="gzip", sizes="1000 1000 900") + gzip.compress(voxels.tobytes())
    with pytest.raises(ExamReadError, match="cannot hold"):
        nrrd.read(put(tmp_path, data), None)


@pytest.mark.parametrize("fields", [
    {"dimension": "4"}, {"type": "block"}, {"type": "int64"}, {"encoding": "ascii"}, {"line_skip": "2"},
    {"byte_skip": "-2"}, {"byte_skip": "x"}, {"encoding": "gzip", "byte_skip": "-1"},
])  # fmt: skip
def test_forms_that_are_not_read_say_so(tmp_path, voxels, fields):
    with pytest.raises(ExamReadError) as caught:
        nrrd.read(put(tmp_path, header(**fields) + voxels.tobytes()), None)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("missing", ["type", "dimension", "sizes", "encoding"])
def test_a_missing_field_is_named(tmp_path, voxels, missing):
    with pytest.raises(ExamReadError, match=f"'{missing}'"):
        nrrd.read(put(tmp_path, header(without=(missing,)) + voxels.tobytes()), None)


@pytest.mark.parametrize("data", [b"", b"\0" * 500, b"\x89PNG\r\n\x1a\n", b"NRRD0004", b"NRRD0004\ntype: uchar\n"])
def test_what_is_no_nrrd(tmp_path, data):
    with pytest.raises(ExamReadError):
        nrrd.read(put(tmp_path, data), None)


def test_header_mutants_are_read_or_refused(tmp_path, voxels):
    """Bytes changed at random never give another exception."""
    good = header() + voxels.tobytes()
    random = np.random.default_rng(7)
    for _ in range(150):
        mutant = bytearray(good)
        for at in random.integers(0, len(header()), 3):
            mutant[at] = random.integers(0, 256)
        try:
            nrrd.read(put(tmp_path, bytes(mutant)), None).decode(threads=1)
        except ExamReadError:
            continue


class TestDetached:
    """A header with its data in another file."""

    def test_data_beside_the_header(self, tmp_path, voxels):
        put(tmp_path, gzip.compress(voxels.tobytes()), "exam.raw.gz")
        path = put(tmp_path, header(encoding="gzip", data_file="exam.raw.gz"), "exam.nhdr")
        np.testing.assert_array_equal(nrrd.read(path, None).decode(), voxels)

    @pytest.mark.parametrize("skip", ["7", "-1"])
    def test_bytes_to_skip(self, tmp_path, voxels, skip):
        put(tmp_path, b"1234567" + voxels.tobytes(), "exam.raw")
        path = put(tmp_path, header(byte_skip=skip, datafile="exam.raw").rstrip(b"\n"), "exam.nhdr")
        np.testing.assert_array_equal(nrrd.read(path, None).decode(), voxels)

    @pytest.mark.parametrize("name", [
        "../outside.raw", "/etc/passwd", "sub/exam.raw", "..", "LIST", "slice%03d.raw 1 9 1", "C:\\exam.raw",
        "..\\outside.raw", "",
    ])  # fmt: skip
    def test_data_elsewhere_are_refused(self, tmp_path, voxels, name):
        folder = tmp_path / "exam"
        (folder / "sub").mkdir(parents=True)
        put(tmp_path, voxels.tobytes(), "outside.raw")
        put(folder / "sub", voxels.tobytes(), "exam.raw")
        with pytest.raises(ExamReadError, match="elsewhere"):
            nrrd.read(put(folder, header(data_file=name), "exam.nhdr"), None)

    def test_a_link_out_of_the_folder_is_refused(self, tmp_path, voxels):
        folder = tmp_path / "exam"
        folder.mkdir()
        (folder / "exam.raw").symlink_to(put(tmp_path, voxels.tobytes(), "outside.raw"))
        with pytest.raises(ExamReadError, match="elsewhere"):
            nrrd.read(put(folder, header(data_file="exam.raw"), "exam.nhdr"), None)

    def test_missing_data_are_named(self, tmp_path):
        with pytest.raises(ExamReadError, match=r"missing; found exam\.raw"):
            nrrd.read(put(tmp_path, header(data_file="exam.raw"), "exam.nhdr"), None)

"""Writers: what was written is there, whole, reproducible, and nameless."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
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

from scanside.errors import OutputError, UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Laterality
from scanside.exam.write import atomic_file, write_dicom, write_dicom_series, write_enhanced_us, write_nrrd

LOSSLESS = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)
SPACING = (168 / 318, 0.1, 0.1925)
ROTATED = np.array([[0, 0.6, 0.8, -12.5], [0, -0.8, 0.6, 40.25], [1, 0, 0, 7.0], [0, 0, 0, 1]])


def smooth_volume(shape=(5, 61, 80), seed=0) -> np.ndarray:
    steps = np.random.default_rng(seed).integers(-6, 7, shape)
    return np.clip(np.cumsum(steps, axis=2) + 120, 0, 255).astype(np.uint8)


@pytest.fixture
def voxels() -> np.ndarray:
    return smooth_volume()


@pytest.fixture
def geometry(voxels) -> Geometry:
    return Geometry(voxels.shape, SPACING)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
def test_lossless_syntaxes_keep_every_voxel(tmp_path, voxels, geometry, syntax):
    path = write_dicom(tmp_path / "exam.dcm", voxels, geometry, transfer_syntax=syntax)
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(dataset.pixel_array, voxels)


@pytest.mark.parametrize(("syntax", "photometric"), [
    (JPEGBaseline8Bit, "MONOCHROME2"), (JPEGBaseline8Bit, "YBR_FULL_422"), (JPEG2000, "MONOCHROME2"),
])  # fmt: skip
def test_lossy_syntaxes_stay_close_and_say_so(tmp_path, voxels, geometry, syntax, photometric):
    path = write_dicom(tmp_path / "exam.dcm", voxels, geometry, transfer_syntax=syntax, photometric=photometric)
    dataset = pydicom.dcmread(path)
    found = dataset.pixel_array.astype(int)
    grey = found if found.ndim == 3 else found[..., 0]
    assert np.abs(grey - voxels).mean() < 3
    assert dataset.LossyImageCompression == "01"
    assert dataset.PhotometricInterpretation == photometric


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_native_colour_forms_of_grey_are_grey(tmp_path, voxels, geometry, syntax, photometric):
    path = write_dicom(tmp_path / "exam.dcm", voxels, geometry, transfer_syntax=syntax, photometric=photometric)
    found = pydicom.dcmread(path).pixel_array
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], voxels)


def test_colour_voxels_are_written_as_colour(tmp_path, geometry):
    colour = np.random.default_rng(1).integers(0, 256, (*geometry.shape, 3), dtype=np.uint8)
    path = write_dicom(tmp_path / "doppler.dcm", colour, geometry, photometric="RGB", transfer_syntax=RLELossless)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, colour)


def test_one_extreme_frame_survives_jpeg_lossless(tmp_path):
    """Largest differences, 0xFF bytes to stuff, odd sizes."""
    voxels = np.where(np.indices((2, 7, 9)).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    geometry = Geometry(voxels.shape, SPACING)
    path = write_dicom(tmp_path / "exam.dcm", voxels, geometry, transfer_syntax=JPEGLosslessSV1)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, voxels)


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 5, 5)])
def test_an_odd_number_of_bytes_is_padded(tmp_path, shape):
    voxels = smooth_volume(shape)
    path = write_dicom(tmp_path / "exam.dcm", voxels, Geometry(shape, SPACING))
    dataset = pydicom.dcmread(path)
    assert len(dataset.PixelData) % 2 == 0
    np.testing.assert_array_equal(dataset.pixel_array.reshape(shape), voxels)


def test_siemens_multi_frame_header(tmp_path, voxels, geometry):
    dataset = pydicom.dcmread(
        write_dicom(tmp_path / "exam.dcm", voxels, geometry, laterality=Laterality.LEFT, view="LAT")
    )
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.3.1"
    assert (dataset.Manufacturer, dataset.ManufacturerModelName) == ("SIEMENS", "ACUSON S2000")
    assert (dataset.SeriesDescription, dataset.Laterality) == ("LEFT LAT", "L")
    assert [float(v) for v in dataset.PixelSpacing] == [0.1, 0.1925]
    assert float(dataset.SpacingBetweenSlices) == pytest.approx(SPACING[0], rel=1e-12)
    assert (dataset.NumberOfFrames, dataset.Rows, dataset.Columns) == (5, 61, 80)
    assert "FrameOfReferenceUID" not in dataset
    assert list(dataset.ImageType) == ["ORIGINAL", "PRIMARY"]
    assert dataset[dataset.FrameIncrementPointer].keyword == "FrameTime"


def test_ge_private_block(tmp_path, voxels, geometry):
    path = write_dicom(
        tmp_path / "exam.dcm", voxels, geometry, vendor="ge", nipple_mm=(1.0, 2.0, 3.0), probe_radius_mm=250.0
    )
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x0021, "General Electric Company 01")
    assert dataset.ManufacturerModelName.startswith("Invenia")
    assert [float(v) for v in block[0x20].value] == [3.0, 2.0, 1.0]
    assert float(block[0x40].value) == 250.0
    assert float(block[0x63].value) == pytest.approx(0.61)


def test_unknown_laterality_is_not_invented(tmp_path, voxels, geometry):
    path = write_dicom(tmp_path / "exam.dcm", voxels, geometry, laterality=Laterality.UNKNOWN)
    dataset = pydicom.dcmread(path)
    assert "Laterality" not in dataset
    assert dataset.SeriesDescription == "AP"


def test_overrides_set_and_delete(tmp_path, voxels, geometry):
    overrides = {"PixelSpacing": None, "NumberOfFrames": 4, "Laterality": None, "PatientOrientation": None}
    dataset = pydicom.dcmread(write_dicom(tmp_path / "exam.dcm", voxels, geometry, overrides=overrides))
    assert "PixelSpacing" not in dataset
    assert "Laterality" not in dataset
    assert dataset.NumberOfFrames == 4
    assert len(dataset.PixelData) >= voxels.size


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLosslessSV1], ids=lambda uid: uid.name)
def test_equal_arguments_give_equal_bytes(tmp_path, voxels, geometry, syntax):
    digests = {
        hashlib.sha256(
            write_dicom(tmp_path / name, voxels, geometry, seed=seed, transfer_syntax=syntax).read_bytes()
        ).hexdigest()
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    }
    assert len(digests) == 2


def test_one_seed_is_one_study_of_distinct_instances(tmp_path, voxels, geometry):
    datasets = [
        pydicom.dcmread(write_dicom(tmp_path / f"{side}-{view}", voxels, geometry, laterality=side, view=view))
        for side in (Laterality.LEFT, Laterality.RIGHT)
        for view in ("AP", "LAT", "MED")
    ]
    assert len({d.StudyInstanceUID for d in datasets}) == 1
    assert len({d.SeriesInstanceUID for d in datasets}) == 6
    assert len({d.SOPInstanceUID for d in datasets}) == 6
    assert {str(d.PatientID) for d in datasets} == {"PHANTOM-0"}
    assert all(len(d.SOPInstanceUID) <= 64 for d in datasets)


def test_enhanced_volume_states_every_frames_place(tmp_path, voxels):
    geometry = Geometry(voxels.shape, SPACING, ROTATED)
    dataset = pydicom.dcmread(write_enhanced_us(tmp_path / "exam.dcm", voxels, geometry))
    np.testing.assert_array_equal(dataset.pixel_array, voxels)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
    down, across = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        position = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        found = position + 60 * down * column + 79 * across * row
        np.testing.assert_allclose(found, geometry.patient_from_index((k, 60, 79)), atol=1e-9)


def test_series_has_a_file_a_frame(tmp_path, voxels):
    geometry = Geometry(voxels.shape, SPACING, ROTATED)
    paths = write_dicom_series(tmp_path / "series", voxels, geometry, transfer_syntax=RLELossless)
    datasets = [pydicom.dcmread(path) for path in paths]
    assert [d.InstanceNumber for d in datasets] == [1, 2, 3, 4, 5]
    assert len({d.SOPInstanceUID for d in datasets}) == 5
    assert len({d.SeriesInstanceUID for d in datasets}) == 1
    np.testing.assert_array_equal(np.stack([d.pixel_array for d in datasets]), voxels)
    positions = np.array([[float(v) for v in d.ImagePositionPatient] for d in datasets])
    np.testing.assert_allclose(positions, [geometry.patient_from_index((k, 0, 0)) for k in range(5)], atol=1e-9)


@pytest.mark.parametrize("change", [
    {"vendor": "acme"}, {"transfer_syntax": "1.2.840.10008.1.2.1.99"},
    {"photometric": "RGB", "transfer_syntax": JPEGBaseline8Bit},
])  # fmt: skip
def test_impossible_requests_are_usage_errors_and_leave_nothing(tmp_path, voxels, geometry, change):
    with pytest.raises(UsageError):
        write_dicom(tmp_path / "exam.dcm", voxels, geometry, **change)
    assert list(tmp_path.iterdir()) == []


def test_voxels_of_another_shape_or_type_are_refused(tmp_path, voxels, geometry):
    for wrong in (voxels[:-1], voxels.astype(np.uint16), voxels[..., None]):
        with pytest.raises(UsageError, match="do not fit"):
            write_dicom(tmp_path / "exam.dcm", wrong, geometry)
        with pytest.raises(UsageError, match="not fit"):
            write_nrrd(tmp_path / "exam.nrrd", wrong[:-1], geometry)


def test_a_missing_folder_is_one_clear_error(tmp_path, voxels, geometry):
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_dicom(tmp_path / "missing" / "exam.dcm", voxels, geometry)
    assert caught.value.exit_code == 4


def test_a_write_that_fails_midway_keeps_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch, voxels, geometry):
    real_open = open

    def full_open(name, mode="r", *args, **options):
        return real_open("/dev/full" if mode == "xb" else name, mode.replace("x", "w"), *args, **options)

    monkeypatch.setattr("builtins.open", full_open)
    with pytest.raises(OutputError, match="No space left"):
        write_nrrd(tmp_path / "exam.nrrd", voxels, geometry)
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_at_a_frame(tmp_path):
    """A 96 MiB memory map is written with far less memory than its size."""
    script = tmp_path / "write.py"
    script.write_text(
        "import sys, resource, numpy as np\n"
        "from scanside.exam.geometry import Geometry\n"
        "from scanside.exam.write import write_dicom\n"
        "shape = (96, 1024, 1024)\n"
        "class Frames:\n"
        "    dtype, shape, ndim = np.dtype('u1'), shape, 3\n"
        "    def __len__(self): return 96\n"
        "    def __iter__(self): return (np.full((1024, 1024), k, np.uint8) for k in range(96))\n"
        "write_dicom(sys.argv[1], np.zeros((1, 8, 8), np.uint8), Geometry((1, 8, 8), (1, 1, 1)))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_dicom(sys.argv[1], Frames(), Geometry(shape, (1, 1, 1)))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown_kib = _run(script, tmp_path / "exam.dcm")
    assert (tmp_path / "exam.dcm").stat().st_size > 96 << 20
    assert grown_kib < 24 << 10


def _run(script: Path, *arguments: Path) -> int:
    import subprocess
    import sys

    import scanside.exam.write

    root = Path(scanside.exam.write.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("gzip", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
def test_nrrd_is_what_simpleitk_reads(tmp_path, voxels, dtype, gzip):
    sitk = pytest.importorskip("SimpleITK")
    geometry = Geometry(voxels.shape, SPACING, ROTATED)
    path = write_nrrd(tmp_path / "mask.nrrd", voxels.astype(dtype), geometry, gzip=gzip)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels)
    np.testing.assert_allclose(image.GetSpacing(), SPACING[::-1], rtol=1e-12)
    for index in ((0, 0, 0), (4, 60, 79), (2, 10, 33)):
        point = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(point, geometry.patient_from_index(index), atol=1e-9)


def test_nrrd_bytes_are_reproducible(tmp_path, voxels, geometry):
    first = write_nrrd(tmp_path / "a.nrrd", voxels, geometry).read_bytes()
    assert first == write_nrrd(tmp_path / "b.nrrd", voxels, geometry).read_bytes()

"""NIfTI: places by sform, qform or pixdim as nibabel and SimpleITK understand them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.readers import nifti
from scanside.exam.volume import Verdict

nibabel = pytest.importorskip("nibabel")

SHAPE = (4, 6, 10)
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])
MARKERS = ((0, 0, 0), (3, 5, 9), (1, 4, 2))
OBLIQUE = np.array([[0.16, 0.0438, 0, 12.5], [0.12, -0.0584, 0, -40.25], [0, 0, 0.4757, 7.0], [0, 0, 0, 1]])


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def saved(path: Path, voxels: np.ndarray, affine: np.ndarray | None = OBLIQUE, kind=None, **header) -> Path:
    """Written by nibabel; its axes i, j, k are lateral, depth, sweep."""
    image = (kind or nibabel.Nifti1Image)(voxels.T, affine)
    image.header.set_xyzt_units("mm")
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)
    return path


def patched(path: Path, offset: int, form: str, *values) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + form, data, offset, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["exam.nii", "exam.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("affine", [OBLIQUE, np.diag([-0.2, 0.073, -0.4757, 1.0])], ids=["oblique", "flipped"])
def test_what_nibabel_writes_is_read_in_place(tmp_path, voxels, name, kind, affine):
    volume = nifti.read(saved(tmp_path / name, voxels, affine, kind), None)
    np.testing.assert_array_equal(volume.decode(threads=2), voxels)
    assert volume.geometry.spacing_mm == pytest.approx((0.4757, 0.073, 0.2), rel=1e-6)
    assert (volume.info.format, volume.info.geometry_source) == ("NIfTI", "NIfTI sform")
    assert volume.info.verdict is Verdict.READY
    for index in MARKERS:
        expected = LPS_FROM_RAS @ (affine[:3, :3] @ index[::-1] + affine[:3, 3])
        np.testing.assert_allclose(volume.geometry.patient_from_index(index), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["exam.nii", "exam.nii.gz"])
def test_what_simpleitk_writes_is_read_in_place(tmp_path, voxels, name):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.2, 0.073, 0.4757))
    image.SetDirection((0.8, 0.6, 0, 0.6, -0.8, 0, 0, 0, 1))
    image.SetOrigin((5.5, -20.25, 33.0))
    sitk.WriteImage(image, str(tmp_path / name))
    volume = nifti.read(tmp_path / name, None)
    np.testing.assert_array_equal(volume.decode(), voxels)
    for index in MARKERS:
        expected = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(volume.geometry.patient_from_index(index), expected, atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_qform_alone_is_used(tmp_path, voxels, mirrored):
    affine = OBLIQUE @ np.diag([1, 1, -1 if mirrored else 1, 1])
    image = nibabel.Nifti1Image(voxels.T, None)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(None, code=0)
    image.to_filename(tmp_path / "exam.nii")
    volume = nifti.read(tmp_path / "exam.nii", None)
    assert volume.info.geometry_source == "NIfTI qform"
    for index in MARKERS:
        expected = LPS_FROM_RAS @ (affine[:3, :3] @ index[::-1] + affine[:3, 3])
        np.testing.assert_allclose(volume.geometry.patient_from_index(index), expected, atol=1e-4)


def without_orientation(path: Path, voxels: np.ndarray, pixdim: tuple[float, ...], units: int = 2) -> Path:
    saved(path, voxels)
    patched(path, 252, "2h", 0, 0)
    patched(path, 80, "3f", *pixdim)
    return patched(path, 123, "B", units)


def test_pixdim_alone_gives_spacing_and_no_orientation(tmp_path, voxels):
    volume = nifti.read(without_orientation(tmp_path / "exam.nii", voxels, (0.2, 0.073, 0.4757)), None)
    assert volume.geometry.spacing_mm == pytest.approx((0.4757, 0.073, 0.2), rel=1e-6)
    assert volume.geometry.patient_from_mm is None
    assert volume.info.geometry_source == "NIfTI pixdim"


@pytest.mark.parametrize(("units", "pixdim"), [
    (1, (0.0002, 0.000073, 0.0004757)), (3, (200.0, 73.0, 475.7)), (2 + 8, (0.2, 0.073, 0.4757)),
    (0, (0.2, 0.073, 0.4757)),
])  # fmt: skip
def test_units_are_honoured(tmp_path, voxels, units, pixdim):
    volume = nifti.read(without_orientation(tmp_path / "exam.nii", voxels, pixdim, units), None)
    assert volume.geometry.spacing_mm == pytest.approx((0.4757, 0.073, 0.2), rel=1e-5)


@pytest.mark.parametrize("pixdim", [(0, 0, 0), (0.2, 0, 0.4), (float("nan"),) * 3, (-0.2, 0.073, 0.4), (1e9, 1, 1)])
def test_unusable_pixdim_is_refused_unless_the_caller_knows(tmp_path, voxels, pixdim):
    path = without_orientation(tmp_path / "exam.nii", voxels, pixdim)
    with pytest.raises(GeometryError, match=r"exam\.nii.*--spacing"):
        nifti.read(path, None)
    assert nifti.read(path, (0.5, 0.1, 0.2)).geometry.spacing_mm == (0.5, 0.1, 0.2)


def test_an_sform_without_length_or_with_shear_is_refused(tmp_path, voxels):
    for name, row in (("length", (0.0, 0.0, 0.0, 0.0)), ("rigid", (0.2, 0.1, 0.0, 0.0))):
        path = saved(tmp_path / "exam.nii", voxels, np.diag([0.2, 0.073, 0.4757, 1]))
        with pytest.raises(GeometryError, match=name):
            nifti.read(patched(path, 280, "4f", *row), None)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32", "float64", "int8", "uint32"])
@pytest.mark.parametrize("big", [False, True])
def test_deeper_data_are_windowed_with_a_warning(tmp_path, dtype, big):
    low, high = (-100, 127) if dtype == "int8" else (0, 3000)
    values = np.linspace(low, high, 240).reshape(SHAPE).astype(dtype)
    if big:
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(values.dtype.newbyteorder(">"))
        image = nibabel.Nifti1Image(values.T, OBLIQUE, header)
        image.to_filename(tmp_path / "exam.nii")
        path = tmp_path / "exam.nii"
        assert path.read_bytes()[:4] == b"\0\0\x01\x5c"
    else:
        path = saved(tmp_path / "exam.nii", values)
    volume = nifti.read(path, None)
    assert "windowed to 8 bits" in volume.info.warnings[0]
    bottom, top = np.percentile(values.astype(float), [0.1, 99.9])
    expected = np.clip((values.astype(float) - bottom) / (top - bottom) * 255, 0, 255)
    np.testing.assert_allclose(volume.decode().astype(float), expected, atol=0.51)


def test_slope_and_intercept_are_applied(tmp_path, voxels):
    """Halved and shifted values in the file are the whole ones again."""
    path = saved(tmp_path / "exam.nii", (voxels // 2).astype(np.uint8))
    volume = nifti.read(patched(path, 112, "2f", 2.0, 1.0), None)
    np.testing.assert_array_equal(volume.decode(), (voxels // 2) * 2 + 1)
    assert volume.info.verdict is Verdict.DEGRADED


@pytest.mark.parametrize("slope", [(0.0, 7.0), (float("nan"), 0.0), (1.0, 0.0)])
def test_no_slope_means_no_scaling(tmp_path, voxels, slope):
    volume = nifti.read(patched(saved(tmp_path / "exam.nii", voxels), 112, "2f", *slope), None)
    np.testing.assert_array_equal(volume.decode(), voxels)
    assert volume.info.warnings == ()


def test_a_trailing_axis_of_one_is_no_matter_but_time_is(tmp_path, voxels):
    image = nibabel.Nifti1Image(voxels.T[..., None], OBLIQUE)
    image.to_filename(tmp_path / "one.nii")
    np.testing.assert_array_equal(nifti.read(tmp_path / "one.nii", None).decode(), voxels)
    nibabel.Nifti1Image(np.stack([voxels.T] * 2, axis=-1), OBLIQUE).to_filename(tmp_path / "two.nii")
    with pytest.raises(ExamReadError, match="not a volume"):
        nifti.read(tmp_path / "two.nii", None)


@pytest.mark.parametrize("name", ["exam.nii", "exam.nii.gz"])
@pytest.mark.parametrize("change", [-1, 1, -230])
def test_data_of_another_length_are_refused(tmp_path, voxels, name, change):
    data = saved(tmp_path / "whole.nii", voxels).read_bytes()
    data = data[:change] if change < 0 else data + bytes(change)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(ExamReadError, match="do not match the header"):
        nifti.read(path, None).decode()


@pytest.mark.parametrize("keep", [1, 2, 5, 30, 200, -5])
def test_a_gzip_stream_cut_short_is_refused(tmp_path, voxels, keep):
    path = saved(tmp_path / "exam.nii.gz", voxels)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ExamReadError, match=r"exam\.nii\.gz"):
        nifti.read(path, None).decode()


@pytest.mark.parametrize(("offset", "form", "values"), [
    (40, "4h", (3, 30000, 30000, 30000)), (40, "4h", (3, -10, 6, 4)), (40, "h", (0,)), (70, "h", (128,)),
    (70, "h", (1,)), (108, "f", (float("nan"),)), (108, "f", (1e30,)), (108, "f", (0.0,)), (344, "4s", (b"ni1\0",)),
    (344, "4s", (b"zzzz",)), (0, "i", (349,)),
])  # fmt: skip
def test_impossible_headers_are_refused_before_anything_is_allocated(tmp_path, voxels, offset, form, values):
    with pytest.raises(ExamReadError) as caught:
        nifti.read(patched(saved(tmp_path / "exam.nii", voxels), offset, form, *values), None)
    assert caught.value.exit_code == 3


def test_a_label_map_is_no_exam(tmp_path, voxels):
    with pytest.raises(ExamReadError, match="label map"):
        nifti.read(saved(tmp_path / "mask.nii.gz", (voxels > 99).astype(np.uint8)), None)


def test_header_mutants_are_read_or_refused(tmp_path, voxels):
    good = saved(tmp_path / "exam.nii", voxels).read_bytes()
    random = np.random.default_rng(3)
    for _ in range(150):
        mutant = bytearray(good)
        for at in random.integers(0, 352, 4):
            mutant[at] = random.integers(0, 256)
        (tmp_path / "mutant.nii").write_bytes(mutant)
        try:
            nifti.read(tmp_path / "mutant.nii", None).decode(threads=1)
        except ExamReadError:
            continue

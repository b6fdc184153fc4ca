"""NumPy files: never pickles, never without a spacing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.readers import numpy as numpy_reader
from scanside.exam.volume import Verdict

SHAPE = (4, 6, 10)
SPACING = (0.5, 0.1, 0.2)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def saved(folder: Path, array: np.ndarray, **options) -> Path:
    np.save(folder / "exam.npy", array, **options)
    return folder / "exam.npy"


def test_npy_needs_the_callers_spacing(tmp_path, voxels):
    path = saved(tmp_path, voxels)
    with pytest.raises(GeometryError, match=r"exam\.npy: the header states no voxel spacing.*--spacing"):
        numpy_reader.read(path, None)
    volume = numpy_reader.read(path, SPACING)
    assert volume.geometry.spacing_mm == SPACING
    assert (volume.info.format, volume.info.geometry_source) == ("NumPy", "the caller's spacing_mm")
    assert volume.info.verdict is Verdict.READY
    np.testing.assert_array_equal(volume.decode(threads=2), voxels)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_brings_its_own(tmp_path, voxels, save):
    save(tmp_path / "exam.npz", voxels=voxels, spacing_mm=np.array(SPACING))
    volume = numpy_reader.read(tmp_path / "exam.npz", None)
    assert volume.geometry.spacing_mm == SPACING
    assert volume.info.geometry_source == "spacing_mm in the file"
    np.testing.assert_array_equal(volume.decode(threads=3), voxels)


def test_npz_without_spacing(tmp_path, voxels):
    np.savez(tmp_path / "exam.npz", voxels=voxels)
    with pytest.raises(GeometryError, match="no voxel spacing"):
        numpy_reader.read(tmp_path / "exam.npz", None)
    assert numpy_reader.read(tmp_path / "exam.npz", SPACING).geometry.spacing_mm == SPACING


@pytest.mark.parametrize("spacing", [(0, 0.1, 0.2), (float("nan"),) * 3, (-1, 0.1, 0.2), (1e9, 0.1, 0.2), (0.1, 0.2)])
def test_unusable_spacing_in_the_file(tmp_path, voxels, spacing):
    np.savez(tmp_path / "exam.npz", voxels=voxels, spacing_mm=np.array(spacing, float))
    with pytest.raises(GeometryError):
        numpy_reader.read(tmp_path / "exam.npz", None)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i2", "<f4", "<f8"])
def test_deeper_data_are_windowed_with_a_warning(tmp_path, dtype):
    values = np.linspace(0, 3000, 240).reshape(SHAPE).astype(dtype)
    volume = numpy_reader.read(saved(tmp_path, values), SPACING)
    assert "windowed to 8 bits" in volume.info.warnings[0]
    bottom, top = np.percentile(values.astype(float), [0.1, 99.9])
    expected = np.clip((values.astype(float) - bottom) / (top - bottom) * 255, 0, 255)
    np.testing.assert_allclose(volume.decode().astype(float), expected, atol=0.51)


class Hostile:
    """Would make a file if it were unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_is_never_run(tmp_path):
    planted = tmp_path / "planted"
    array = np.array([[[Hostile(str(planted))]]], dtype=object)
    for path in (saved(tmp_path, array, allow_pickle=True), tmp_path / "exam.npz"):
        if path.suffix == ".npz":
            np.savez(path, voxels=array, spacing_mm=np.ones(3))
        with pytest.raises(ExamReadError):
            numpy_reader.read(path, SPACING)
    assert not planted.exists()


@pytest.mark.parametrize("array", [
    np.zeros((4, 6), np.uint8), np.zeros((2, 4, 6, 3), np.uint8), np.zeros(SHAPE, bool), np.zeros(SHAPE, complex),
    np.zeros((0, 6, 10), np.uint8), np.array(5),
])  # fmt: skip
def test_what_is_no_volume(tmp_path, array):
    with pytest.raises(ExamReadError):
        numpy_reader.read(saved(tmp_path, array), SPACING)


def test_fortran_order_is_refused_with_the_remedy(tmp_path, voxels):
    with pytest.raises(ExamReadError, match="ascontiguousarray"):
        numpy_reader.read(saved(tmp_path, np.asfortranarray(voxels)), SPACING)


@pytest.mark.parametrize("change", [-1, 1, -240, -300])
def test_data_of_another_length_are_refused(tmp_path, voxels, change):
    path = saved(tmp_path, voxels)
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + bytes(change))
    with pytest.raises(ExamReadError, match=r"exam\.npy"):
        numpy_reader.read(path, SPACING)


def test_a_member_longer_than_its_header_is_refused(tmp_path, voxels):
    path = saved(tmp_path, voxels)
    with zipfile.ZipFile(tmp_path / "exam.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("voxels.npy", path.read_bytes() + bytes(10 << 20))
    with pytest.raises(ExamReadError, match="not as long"):
        numpy_reader.read(tmp_path / "exam.npz", SPACING)


def test_a_header_of_an_impossible_size_allocates_nothing(tmp_path, voxels):
    path = saved(tmp_path, voxels)
    path.write_bytes(path.read_bytes().replace(b"(4, 6, 10)", b"(9999, 9999, 9999)".ljust(10)))
    with pytest.raises(ExamReadError):
        numpy_reader.read(path, SPACING)


@pytest.mark.parametrize("name", ["exam.npy", "exam.npz"])
def test_what_is_no_numpy_file(tmp_path, name):
    for data in (b"", b"\0" * 99, b"PK\x03\x04 not really", b"\x93NUMPY\x01\x00"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ExamReadError, match="NumPy"):
            numpy_reader.read(tmp_path / name, SPACING)


def test_an_archive_without_voxels(tmp_path, voxels):
    np.savez(tmp_path / "exam.npz", image=voxels)
    with pytest.raises(ExamReadError, match=r"voxels\.npy"):
        numpy_reader.read(tmp_path / "exam.npz", SPACING)


def test_a_damaged_member_is_found_while_decoding(tmp_path, voxels):
    np.savez(tmp_path / "exam.npz", voxels=voxels, spacing_mm=np.array(SPACING))
    data = bytearray((tmp_path / "exam.npz").read_bytes())
    data[data.index(voxels.tobytes()[:50]) + 230] ^= 255
    (tmp_path / "exam.npz").write_bytes(data)
    with pytest.raises(ExamReadError, match="CRC"):
        numpy_reader.read(tmp_path / "exam.npz", None).decode()


def test_a_label_map_is_no_exam(tmp_path, voxels):
    with pytest.raises(ExamReadError, match="label map"):
        numpy_reader.read(saved(tmp_path, (voxels > 99).astype(np.uint8)), SPACING)


@pytest.mark.parametrize("name", ["exam.npy", "exam.npz"])
def test_mutants_are_read_or_refused(tmp_path, voxels, name):
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, voxels=voxels, spacing_mm=np.array(SPACING))
    else:
        np.save(path, voxels)
    good = path.read_bytes()
    random = np.random.default_rng(11)
    for _ in range(150):
        mutant = bytearray(good)
        for at in random.integers(0, 128 if name.endswith("npy") else len(good), 3):
            mutant[at] = random.integers(0, 256)
        path.write_bytes(mutant)
        try:
            numpy_reader.read(path, SPACING).decode(threads=1)
        except ExamReadError:
            continue

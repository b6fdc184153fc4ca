"""MetaImage: as SimpleITK writes it, plain or compressed, in one file or two."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.readers import metaimage
from scanside.exam.volume import Verdict

SHAPE = (4, 6, 10)
MARKERS = ((0, 0, 0), (3, 5, 9), (1, 4, 2))


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def header(without: tuple[str, ...] = (), **fields: str) -> bytes:
    stated = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "0.2 0.073 0.4757",
        "DimSize": "10 6 4",
        "ElementType": "MET_UCHAR",
    } | fields
    stated["ElementDataFile"] = stated.pop("ElementDataFile", "LOCAL")
    return "".join(f"{k} = {v}\n" for k, v in stated.items() if k not in without).encode()


def put(folder: Path, data: bytes, name: str = "exam.mha") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["exam.mha", "exam.mhd"])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("direction", [
    (1, 0, 0, 0, 1, 0, 0, 0, 1), (0.8, 0.6, 0, 0.6, -0.8, 0, 0, 0, 1), (0, 0, 1, 1, 0, 0, 0, 1, 0),
])  # fmt: skip
def test_what_simpleitk_writes_is_read_in_place(tmp_path, voxels, name, compress, direction):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.2, 0.073, 0.4757))
    image.SetDirection(direction)
    image.SetOrigin((5.5, -20.25, 33.0))
    sitk.WriteImage(image, str(tmp_path / name), useCompression=compress)
    volume = metaimage.read(tmp_path / name, None)
    np.testing.assert_array_equal(volume.decode(threads=2), voxels)
    assert volume.geometry.spacing_mm == pytest.approx((0.4757, 0.073, 0.2))
    assert (volume.info.format, volume.info.geometry_source) == ("MetaImage", "MetaImage ElementSpacing")
    assert volume.info.verdict is Verdict.READY
    for index in MARKERS:
        expected = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(volume.geometry.patient_from_index(index), expected, atol=1e-9)


def test_without_a_matrix_there_is_spacing_but_no_orientation(tmp_path, voxels):
    volume = metaimage.read(put(tmp_path, header(without=("TransformMatrix", "Offset")) + voxels.tobytes()), None)
    assert volume.geometry.patient_from_mm is None
    assert volume.geometry.spacing_mm == (0.4757, 0.073, 0.2)


@pytest.mark.parametrize("order", ["True", "False"])
@pytest.mark.parametrize(("kind", "dtype"), [("MET_SHORT", "i2"), ("MET_USHORT", "u2"), ("MET_FLOAT", "f4")])
def test_deeper_data_are_windowed_with_a_warning(tmp_path, order, kind, dtype):
    values = np.linspace(0, 3000, 240).reshape(SHAPE).astype((">" if order == "True" else "<") + dtype)
    data = header(ElementType=kind, BinaryDataByteOrderMSB=order) + values.tobytes()
    volume = metaimage.read(put(tmp_path, data), None)
    assert "windowed to 8 bits" in volume.info.warnings[0]
    bottom, top = np.percentile(values.astype(float), [0.1, 99.9])
    expected = np.clip((values.astype(float) - bottom) / (top - bottom) * 255, 0, 255)
    np.testing.assert_allclose(volume.decode().astype(float), expected, atol=0.51)


@pytest.mark.parametrize("spacing", ["0 0.073 0.4", "nan nan nan", "-0.2 0.073 0.4", "0.2 1e9 0.4", "0.2 0.073", None])
def test_unusable_spacing_is_refused_unless_the_caller_knows(tmp_path, voxels, spacing):
    data = header(without=("ElementSpacing",)) if spacing is None else header(ElementSpacing=spacing)
    path = put(tmp_path, data + voxels.tobytes())
    with pytest.raises(GeometryError, match=r"exam\.mha"):
        metaimage.read(path, None)
    if spacing != "0.2 0.073":
        assert metaimage.read(path, (0.5, 0.1, 0.2)).geometry.spacing_mm == (0.5, 0.1, 0.2)


def test_the_size_of_an_element_stands_in_for_spacing(tmp_path, voxels):
    data = header(without=("ElementSpacing",), ElementSize="0.2 0.073 0.4757") + voxels.tobytes()
    assert metaimage.read(put(tmp_path, data), None).info.geometry_source == "MetaImage ElementSize"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("change", [-1, 1])
def test_data_of_another_length_are_refused(tmp_path, voxels, packed, change):
    data = voxels.tobytes()
    data = data[:change] if change < 0 else data + bytes(change)
    path = put(tmp_path, header(CompressedData=str(packed)) + (zlib.compress(data) if packed else data))
    with pytest.raises(ExamReadError, match="do not match the header"):
        metaimage.read(path, None).decode()


@pytest.mark.parametrize("keep", [0, 1, 50, -1])
def test_a_compressed_stream_cut_short_is_refused(tmp_path, voxels, keep):
    path = put(tmp_path, header(CompressedData="True") + zlib.compress(voxels.tobytes())[:keep])
    with pytest.raises(ExamReadError, match=r"exam\.mha"):
        metaimage.read(path, None).decode()


def test_a_bomb_is_stopped_at_the_expected_size(tmp_path, voxels):
    bomb = zlib.compress(voxels.tobytes() + bytes(100 << 20), 1)
    with pytest.raises(ExamReadError, match="more than 240 bytes"):
        metaimage.read(put(tmp_path, header(CompressedData="True") + bomb), None).decode()


@pytest.mark.parametrize("fields", [
    {"NDims": "2"}, {"ElementNumberOfChannels": "3"}, {"ElementType": "MET_LONG_LONG"}, {"BinaryData": "False"},
    {"DimSize": "10 6"}, {"DimSize": "0 6 4"}, {"DimSize": "100000 100000 100000"}, {"TransformMatrix": "1 0 0"},
    {"TransformMatrix": "1 1 0 0 1 0 0 0 1"},
])  # fmt: skip
def test_forms_that_are_not_read_say_so(tmp_path, voxels, fields):
    with pytest.raises(ExamReadError) as caught:
        metaimage.read(put(tmp_path, header(**fields) + voxels.tobytes()), None)
    assert "exam.mha" in str(caught.value)


@pytest.mark.parametrize("missing", ["NDims", "DimSize", "ElementType", "ElementDataFile"])
def test_a_missing_field_is_an_error(tmp_path, voxels, missing):
    with pytest.raises(ExamReadError):
        metaimage.read(put(tmp_path, header(without=(missing,)) + voxels.tobytes()), None)


@pytest.mark.parametrize("name", ["../outside.raw", "/etc/passwd", "LIST", "slice%03d.raw 1 4 1", "missing.raw"])
def test_data_elsewhere_are_refused(tmp_path, voxels, name):
    folder = tmp_path / "exam"
    folder.mkdir()
    put(tmp_path, voxels.tobytes(), "outside.raw")
    with pytest.raises(ExamReadError, match=r"elsewhere|missing"):
        metaimage.read(put(folder, header(ElementDataFile=name), "exam.mhd"), None)


@pytest.mark.parametrize("size", ["7", "-1"])
def test_a_header_in_the_data_file_is_skipped(tmp_path, voxels, size):
    put(tmp_path, b"1234567" + voxels.tobytes(), "exam.raw")
    path = put(tmp_path, header(HeaderSize=size, ElementDataFile="exam.raw"), "exam.mhd")
    np.testing.assert_array_equal(metaimage.read(path, None).decode(), voxels)


def test_a_label_map_is_no_exam(tmp_path, voxels):
    with pytest.raises(ExamReadError, match="label map"):
        metaimage.read(put(tmp_path, header() + (voxels > 99).astype(np.uint8).tobytes()), None)


def test_header_mutants_are_read_or_refused(tmp_path, voxels):
    good = header() + voxels.tobytes()
    random = np.random.default_rng(5)
    for _ in range(150):
        mutant = bytearray(good)
        for at in random.integers(0, len(header()), 3):
            mutant[at] = random.integers(0, 256)
        try:
            metaimage.read(put(tmp_path, bytes(mutant)), None).decode(threads=1)
        except ExamReadError:
            continue

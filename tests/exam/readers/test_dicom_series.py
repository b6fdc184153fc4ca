"""Series of single frames: grouped, ordered, and refused when anything is missing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.open import open_exam
from scanside.exam.write import write_dicom_series


@pytest.fixture
def series(dicom, tmp_path):
    return list(write_dicom_series(tmp_path / "series", dicom.voxels, dicom.geometry))


def test_files_in_any_order_give_the_volume(dicom, series):
    folder = series[0].parent
    for path, name in zip(series, ("f", "b", "e", "a", "d", "c"), strict=True):
        path.rename(folder / name)
    volume = open_exam(folder).only()
    assert np.array_equal(volume.decode(threads=2), dicom.voxels)
    assert volume.info.geometry_source == "PixelSpacing + ImagePositionPatient"
    assert volume.info.format == "DICOM Ultrasound Image, Explicit VR Little Endian, 6 files"
    assert len(set(volume.info.sop_instance_uids)) == 6


def test_positions_overrule_instance_numbers(dicom, series):
    for path, number in zip(series, (1, 3, 2, 4, 6, 5), strict=True):
        dicom.edit(path, InstanceNumber=number)
    assert np.array_equal(open_exam(series[0].parent).only().decode(), dicom.voxels)


def test_without_positions_instance_numbers_count(dicom, series):
    for path in series:
        dicom.edit(path, ImagePositionPatient=None)
    volume = open_exam(series[0].parent).only()
    assert np.array_equal(volume.decode(), dicom.voxels)
    assert volume.info.geometry_source == "PixelSpacing + SpacingBetweenSlices"
    assert volume.geometry.patient_from_mm is None
    series[2].unlink()
    with pytest.raises(ExamReadError, match="InstanceNumber 3, found 4"):
        open_exam(series[0].parent)


def test_equal_positions_are_no_positions(dicom, series):
    for path in series:
        dicom.edit(path, ImagePositionPatient=[0, 0, 0])
    assert np.array_equal(open_exam(series[0].parent).only().decode(), dicom.voxels)


def test_a_missing_frame_is_refused(series):
    series[2].unlink()
    with pytest.raises(GeometryError, match="not evenly spaced") as caught:
        open_exam(series[0].parent)
    assert "2 mm between" in str(caught.value)
    with pytest.raises(GeometryError, match="not evenly spaced"):
        open_exam(series[0].parent, spacing_mm=(1, 0.4, 0.6))


def test_a_doubled_position_is_refused(dicom, series):
    shutil.copy(series[2], series[2].with_name("again.dcm"))
    dicom.edit(series[2].with_name("again.dcm"), SOPInstanceUID="1.2.3")
    with pytest.raises(GeometryError, match="doubled"):
        open_exam(series[0].parent)


def test_an_exact_copy_does_no_harm(dicom, series):
    shutil.copy(series[2], series[2].with_name("again.dcm"))
    exam = open_exam(series[0].parent)
    assert np.array_equal(exam.only().decode(), dicom.voxels)
    assert len(exam.ignored) == 1


def test_a_damaged_frame_spoils_its_series(series):
    series[3].write_bytes(series[3].read_bytes()[:-1])
    with pytest.raises(ExamReadError, match=r"frame-0004\.dcm: the file is cut short"):
        open_exam(series[0].parent)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"PixelSpacing": [0.4, 0.5]}, "differ in PixelSpacing"),
        ({"Laterality": "L"}, "differ in Laterality"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "not parallel"),
        ({"ImagePositionPatient": None}, "only some frames state a position"),
        ({"ImagePositionPatient": [5, 5, 9]}, "not evenly spaced|one line"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "differ in size or kind"),
        ({"InstanceNumber": b"two"}, "InstanceNumber is no whole number"),
    ],
    ids=str,
)
def test_frames_that_do_not_belong_together_are_refused(dicom, series, change, part):
    dicom.edit(series[2], **change)
    with pytest.raises(ExamReadError, match=part):
        open_exam(series[0].parent)


def test_positions_overrule_a_wrong_spacing_with_a_warning(dicom, series):
    for path in series:
        dicom.edit(path, SpacingBetweenSlices="0.5")
    volume = open_exam(series[0].parent).only()
    assert volume.geometry.spacing_mm == pytest.approx((1.0, 0.4, 0.6))
    assert "their positions were used" in volume.info.warnings[0]


def test_positions_rounded_to_hundredths_are_even_enough(dicom, series):
    for k, path in enumerate(series):
        dicom.edit(path, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], SpacingBetweenSlices="0.475674")
        dicom.edit(path, ImagePositionPatient=[0, 0, round(k * 0.475674, 2)])
    volume = open_exam(series[0].parent).only()
    assert volume.geometry.spacing_mm[0] == pytest.approx(0.475674, rel=0.01)
    assert volume.info.warnings == ()


def test_one_frame_alone_is_refused(series):
    with pytest.raises(ExamReadError, match="single frame"):
        open_exam(series[0])
    for path in series[1:]:
        path.unlink()
    with pytest.raises(ExamReadError, match="the series holds a single frame"):
        open_exam(series[0].parent)


def test_a_frame_of_no_series_is_refused(dicom, series):
    dicom.edit(series[0], SeriesInstanceUID=None)
    exam = open_exam(series[0].parent)
    assert "belongs to no series" in str(exam.refused[0].error)
    assert exam.only().geometry.shape[0] == 5
